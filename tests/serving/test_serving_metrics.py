"""What Prometheus sees, and that no client chooses a label."""

import urllib.request

import pytest
from prometheus_client import generate_latest, start_http_server
from serving_client import (
    CHAT,
    CLEAN,
    MODERATION,
    QUESTION,
    RISKY,
    ask,
    moderate,
    open_client,
    picture,
    streamed,
    text,
)


@pytest.fixture
def fresh(checkpoint):
    with open_client(checkpoint) as client:
        yield client


def value(client, name, **labels):
    return client.app.state.metrics.registry.get_sample_value(name, labels) or 0


def names(client):
    lines = generate_latest(client.app.state.metrics.registry).decode().splitlines()
    return {line.rsplit(" ", 1)[0] for line in lines if not line.startswith("#")}


def test_verdicts_answers_and_requests_are_counted(fresh):
    for image in (RISKY, CLEAN, RISKY):
        streamed(fresh.post(CHAT, json=ask(picture(image), text(QUESTION), stream=True)))
    moderate(fresh, picture(RISKY), picture(CLEAN))
    fresh.post(CHAT, json={})
    assert value(fresh, "safevlm_verdicts_total", route=CHAT, category="privacy", action="refuse") == 2
    assert value(fresh, "safevlm_verdicts_total", route=CHAT, category="safe", action="answer") == 1
    assert value(fresh, "safevlm_verdicts_total", route=MODERATION, category="privacy", action="refuse") == 1
    assert value(fresh, "safevlm_answers_total", action="refuse") == 2
    assert value(fresh, "safevlm_answers_total", action="answer") == 1
    assert value(fresh, "safevlm_requests_total", route=CHAT, status="200") == 3
    assert value(fresh, "safevlm_requests_total", route=CHAT, status="400") == 1
    assert value(fresh, "safevlm_request_seconds_count", route=CHAT) == 4
    assert value(fresh, "safevlm_request_seconds_sum", route=CHAT) > 0
    assert value(fresh, "safevlm_requests_in_flight") == 0 and value(fresh, "safevlm_shadow_mode") == 0


def test_what_has_not_happened_yet_is_zero(fresh):
    """A policy that refuses nothing after a restart has to show: Prometheus computes nothing from a missing series."""
    sample = fresh.app.state.metrics.registry.get_sample_value
    for action in ("answer", "review", "condition", "refuse"):
        assert sample("safevlm_answers_total", {"action": action}) == 0
        for route in (CHAT, MODERATION):
            for category in ("privacy", "safe", "unreadable picture"):
                labels = {"route": route, "category": category, "action": action}
                assert sample("safevlm_verdicts_total", labels) == 0
    for status in ("401", "500", "503"):
        assert sample("safevlm_requests_total", {"route": CHAT, "status": status}) == 0


def test_a_client_chooses_no_label(fresh):
    """Paths, methods, hosts, models, users, ids and errors of its own make no new series."""
    fresh.post(CHAT, json=ask(picture(RISKY), text(QUESTION), max_tokens=2))
    for path in ("/x", CHAT, "/version", "/health", "/v1/models/x"):
        for method in ("GET", "PURGE"):
            fresh.request(method, path)
    fresh.post(CHAT, json={})
    fresh.post(CHAT, json=ask(text("Hi"), model="other"))
    before = names(fresh)
    for number in range(20):
        own = f"own{number}"
        fresh.request(f"X{number}", f"/{own}", headers={"host": own, "x-request-id": own, "user-agent": own})
        fresh.get(f"/v1/{own}?{own}={own}")
        fresh.get(f"/v1/models/{own}/{own}")
        fresh.post(CHAT, json=ask(picture(RISKY), text(own), max_tokens=2, user=own, metadata={own: own}))
        fresh.post(CHAT, json=ask(text("Hi"), model=own))
        fresh.post(CHAT, json={own: own})
    assert names(fresh) == before and not any("own" in name for name in before)


def test_failures_are_counted(checkpoint, tmp_path):
    with open_client(checkpoint, audit=tmp_path) as client:
        client.post(CHAT, json=ask(picture(CLEAN), text(QUESTION)))
        client.post(CHAT, json=ask(picture(CLEAN), text(QUESTION), stream=True))
        assert value(client, "safevlm_audit_failures_total") == 2
        assert value(client, "safevlm_broken_streams_total") == 1
        assert value(client, "safevlm_requests_total", route=CHAT, status="500") == 1
        assert value(client, "safevlm_answers_total", action="answer") == 0
        assert value(client, "safevlm_requests_in_flight") == 0


def test_what_is_served_is_named(fresh):
    (info,) = [name for name in names(fresh) if name.startswith("safevlm_server_info")]
    assert 'model="nano"' in info and 'version="' in info and 'policy="' in info


def test_clients_do_not_reach_the_metrics(fresh):
    """Whoever reads the counts before and after a request knows its verdict; they have a port of their own."""
    assert fresh.get("/metrics").status_code == 404
    server, thread = start_http_server(0, "127.0.0.1", fresh.app.state.metrics.registry)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics") as response:
            assert b"safevlm_requests_in_flight 0.0" in response.read()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
