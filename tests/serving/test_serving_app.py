"""The operator's side of the app."""

import http.client
import importlib
import json
import os
import re
import socket
import sys
import threading
import time

import pytest
import uvicorn
from fastapi.testclient import TestClient
from serving_client import (
    CHAT,
    CLEAN,
    MODERATION,
    NAME,
    QUESTION,
    REFUSAL,
    REFUSE,
    RISKY,
    answer_of,
    ask,
    error_of,
    events,
    load,
    picture,
    streamed,
    text,
)

from safevlm_hf import SafetyPolicy, read_audit, serving
from safevlm_hf.serving.server import startup_warnings
from safevlm_hf.version import __version__


def test_the_operators_policy_is_laid_over_the_checkpoints(checkpoint):
    model, processor = load(checkpoint)
    model.generation_config.safety_policy = {"refusals": {"privacy": "Not here."}, **REFUSE}
    policy = {"categories": {"politics": False}}
    with TestClient(serving.create_app(model, processor, NAME, policy)) as client:
        assert answer_of(client.post(CHAT, json=ask(picture(RISKY), text(QUESTION)))) == "Not here."
    kept = SafetyPolicy.create(model.generation_config.safety_policy)
    assert not kept.is_on("politics") and kept.is_on("privacy")


@pytest.mark.parametrize(
    "own",
    [
        {"thresholds": {"*": 0.5}, "temperatures": {"category": 5.0}},
        {"enabled": False, "thresholds": {"*": 1.0}},
        {"remembered_turns": 1},
    ],
)
def test_a_checkpoint_cannot_silence_an_operator_who_refuses(checkpoint, own):
    model, processor = load(checkpoint)
    model.generation_config.safety_policy = own
    with pytest.raises(ValueError, match="operator's policy refuses") as raised:
        serving.create_app(model, processor, NAME, REFUSE)
    assert json.dumps(own) in str(raised.value)
    serving.create_app(model, processor, NAME, {"language": "de"})  # it refuses nothing
    serving.create_app(model, processor, NAME, {**own, **REFUSE})  # or it names each key


def test_what_cannot_be_served(checkpoint):
    model, processor = load(checkpoint)
    with pytest.raises(ValueError, match="unknown categories"):
        serving.create_app(model, processor, NAME, {"categories": {"gambling": False}})
    model.config.safety_config.is_trained = False
    with pytest.raises(ValueError, match="untrained"):
        serving.create_app(model, processor, NAME)


def test_audit(client, tmp_path, monkeypatch):
    monkeypatch.setenv("SAFEVLM_AUDIT", str(tmp_path / "audit.jsonl"))
    client.post(CHAT, json=ask(picture(RISKY), text(QUESTION)))
    streamed(client.post(CHAT, json=ask(picture(CLEAN), text(QUESTION), stream=True)))
    client.post(CHAT, json=ask(text(QUESTION), max_tokens=2))
    lines, broken = read_audit(tmp_path / "audit.jsonl")
    assert ([line["action"] for line in lines], broken) == (["refuse", "answer", "answer"], 0)


def test_nothing_is_answered_that_cannot_be_audited(client, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("SAFEVLM_AUDIT", str(tmp_path))
    response = client.post(CHAT, json=ask(picture(CLEAN), text(QUESTION)))
    assert response.status_code == 500 and str(tmp_path) not in response.text
    *chunks, error = events(client.post(CHAT, json=ask(picture(CLEAN), text(QUESTION), stream=True)))
    assert error["error"]["type"] == "server_error" and str(tmp_path) not in str(error)
    assert not any(chunk["choices"][0]["delta"].get("content") for chunk in chunks)
    assert str(tmp_path) in caplog.text


def test_what_would_fail_later_fails_at_the_start(checkpoint, tmp_path, monkeypatch):
    monkeypatch.delenv("SAFEVLM_AUDIT", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=re.escape(str(tmp_path))):
            serving.serve(*load(checkpoint), NAME, port=port, audit=tmp_path)
        with pytest.raises(OSError, match=str(port)):
            serving.serve(*load(checkpoint), NAME, port=port)
    assert "SAFEVLM_AUDIT" not in os.environ


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "safevlm_hf.serving")
    with pytest.raises(ImportError, match=r"uvicorn.*safevlm_hf\[serve\]"):
        importlib.import_module("safevlm_hf.serving")


def test_a_taken_port_for_the_metrics_stops_the_start(checkpoint):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(OSError):
            serving.serve(*load(checkpoint), NAME, port=0, metrics_port=taken.getsockname()[1])


def test_no_client_reads_verdicts_unless_the_operator_says_so(checkpoint):
    with TestClient(serving.create_app(*load(checkpoint), NAME, REFUSE)) as client:
        for body in ({"input": [picture(RISKY)]}, {}, []):
            response = client.post(MODERATION, json=body)
            assert response.status_code == 404 and "--moderations" in error_of(response)
            assert "flagged" not in response.text and "privacy" not in response.text
        assert answer_of(client.post(CHAT, json=ask(picture(RISKY), text(QUESTION)))) == REFUSAL


def test_version(client):
    assert client.get("/version").json() == {"version": __version__}


@pytest.mark.parametrize(
    "settings, host, policy, said",
    [
        ({}, "127.0.0.1", {}, []),
        ({}, "::1", {}, []),
        ({}, "localhost", {}, []),
        ({}, "0.0.0.0", {}, ["no API key"]),
        ({}, "::", {}, ["no API key"]),
        ({}, "cards.example.org", {}, ["no API key"]),
        ({"api_keys": ("sk-0123456789abcdef",)}, "0.0.0.0", {}, []),
        ({"shadow": True, "audit": "audit.jsonl"}, "127.0.0.1", {}, ["EVERY PICTURE IS ANSWERED"]),
        ({}, "127.0.0.1", {"enabled": False}, ["THE POLICY IS DISABLED"]),
        ({"expose_verdict": True}, "127.0.0.1", {}, ["--expose-verdict"]),
        ({"moderations": True}, "127.0.0.1", {}, ["--moderations"]),
        ({"moderations": True, "audit": "a.jsonl"}, "127.0.0.1", {}, ["--moderations", "--audit-moderations"]),
        (
            {"moderations": True, "audit": "a.jsonl", "audit_moderations": True},
            "127.0.0.1",
            {},
            ["--moderations"],
        ),
        ({}, "127.0.0.1", {"risk_threshold": 1.0}, ["risk_threshold: 1"]),
    ],
)
def test_what_an_operator_must_not_overlook(settings, host, policy, said, monkeypatch):
    monkeypatch.delenv("SAFEVLM_AUDIT", raising=False)
    warnings = startup_warnings(serving.Settings(**settings), host, SafetyPolicy(**policy))
    assert len(warnings) == len(said) and all(word in warning for word, warning in zip(said, warnings))


def test_as_many_connections_as_the_limit_says_are_served(checkpoint, monkeypatch):
    """Idle ones count; the next one is told so, and once one has gone there is room again."""
    servers = []
    monkeypatch.setattr(uvicorn.Server, "startup", _keep(servers, uvicorn.Server.startup))
    arguments = (*load(checkpoint), NAME)
    thread = threading.Thread(
        target=serving.serve, args=arguments, kwargs={"port": 0, "limits": serving.Limits(connections=2)}
    )
    thread.start()
    try:
        port = _wait_for_port(servers)
        first, second, third = (http.client.HTTPConnection("127.0.0.1", port, timeout=20) for _ in range(3))
        assert [_status(one) for one in (first, second, third)] == [200, 200, 503]
        third.close()
        second.close()
        assert _status(first) == 200
    finally:
        servers[0].should_exit = True
        thread.join()


def _keep(servers: list, startup):
    async def kept(self, *args, **kwargs):
        await startup(self, *args, **kwargs)
        servers.append(self)

    return kept


def _wait_for_port(servers: list) -> int:
    for _ in range(600):
        if servers:
            return servers[0].servers[0].sockets[0].getsockname()[1]
        time.sleep(0.05)
    pytest.fail("the server did not start")


def _status(connection: http.client.HTTPConnection) -> int:
    connection.request("GET", "/health")
    response = connection.getresponse()
    response.read()
    return response.status
