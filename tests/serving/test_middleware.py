"""What every request passes before the app: ids, the log, sizes; as an ASGI server calls it."""

import asyncio
import logging

import pytest

from safevlm_hf.serving import middleware
from safevlm_hf.serving.keys import ApiKeys
from safevlm_hf.serving.metrics import Metrics
from safevlm_hf.serving.middleware import AskForKey, LetClientRead, LimitBody, Watch
from safevlm_hf.serving.routes import CHAT, HEALTH
from safevlm_hf.untrusted.bodies import read_body


@pytest.fixture
def metrics():
    return Metrics("model", "digest", is_shadow=False)


def call(app, path=CHAT, method="POST", headers=(), bodies=(b"",)):
    """The messages that the app sends."""
    sent, received = [], [{"type": "http.request", "body": body, "more_body": True} for body in bodies]
    received[-1]["more_body"] = False

    async def receive():
        return received.pop(0) if received else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": path, "method": method, "headers": list(headers)}
    asyncio.run(app(scope, receive, send))
    return sent


def answering(*bodies, status=200, looks_after=None):
    """An app that looks, after so many parts of its answer, whether the client is there still."""

    async def app(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": status, "headers": [(b"x-request-id", b"own")]})
        for number, body in enumerate(bodies, start=1):
            await send({"type": "http.response.body", "body": body, "more_body": number < len(bodies)})
            if number == looks_after:
                await receive()

    return app


def requests(metrics, **labels):
    return metrics.registry.get_sample_value("safevlm_requests_total", labels)


def test_the_app_and_the_client_see_one_id(metrics):
    seen = []

    async def app(scope, receive, send):
        seen.extend(scope["headers"])
        await answering(b"")(scope, receive, send)

    start, _ = call(Watch(app, metrics, True), headers=[(b"x-request-id", b"mine"), (b"host", b"h")])
    assert seen == [(b"host", b"h"), (b"x-request-id", b"mine")]
    assert start["headers"] == [(b"x-request-id", b"mine")]


def test_a_client_that_leaves_early_is_counted_as_such(metrics):
    for looks_after in (1, 2, None):
        call(Watch(answering(b"a", b"b", looks_after=looks_after), metrics, True))
    assert requests(metrics, route=CHAT, status="499") == 1 and requests(metrics, route=CHAT, status="200") == 2
    assert metrics.registry.get_sample_value("safevlm_requests_in_flight") == 0


def test_what_the_app_raises_is_counted_and_goes_on(metrics):
    async def broken(scope, receive, send):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        call(Watch(broken, metrics, True))
    assert requests(metrics, route=CHAT, status="500") == 1
    assert metrics.registry.get_sample_value("safevlm_requests_in_flight") == 0


def test_the_log_holds_nothing_that_a_client_has_written(metrics, caplog):
    caplog.set_level(logging.INFO, "uvicorn.error")
    watch = Watch(answering(b"", status=404), metrics, True)
    call(watch, "/a\n2026 INFO forged", "GET\n", [(b"x-request-id", b"x\nforged"), (b"user-agent", b"forged")])
    call(watch, "/v1/chat/completions", "POST", [(b"x-request-id", b"mine")])
    first, second = (record.getMessage() for record in caplog.records)
    assert "forged" not in first and "\n" not in first and first.startswith("other other 404 ")
    assert second.startswith("POST /v1/chat/completions 404 ") and " s mine " in second
    request_id, own_id = first.split()[-2:]
    assert request_id == own_id != second.split()[-1]


def test_the_log_can_be_switched_off(metrics, caplog):
    caplog.set_level(logging.INFO, "uvicorn.error")
    call(Watch(answering(b""), metrics, False))
    assert not caplog.records


def test_a_body_of_the_limit_goes_on_and_a_longer_one_does_not():
    handed_on = []

    async def app(scope, receive, send):
        handed_on.append((await receive())["body"])
        await answering(b"")(scope, receive, send)

    assert call(LimitBody(app, 4, 8), bodies=[b"ab", b"cd"])[0]["status"] == 200
    assert call(LimitBody(app, 4, 8), bodies=[b"ab", b"cde"])[0]["status"] == 413
    assert handed_on == [b"abcd"]


def test_a_body_that_comes_byte_by_byte_is_kept_as_one():
    """Each part would take far more memory than its byte."""
    parts = [{"type": "http.request", "body": b"a", "more_body": True} for _ in range(9)]

    async def receive():
        return parts.pop() if parts else {"type": "http.request", "body": b"b"}

    assert list(asyncio.run(read_body(receive, 10))) == [{"type": "http.request", "body": b"a" * 9 + b"b"}]


def test_a_client_that_leaves_in_the_middle_of_a_body_has_left():
    parts = [{"type": "http.request", "body": b"a", "more_body": True}, {"type": "http.disconnect"}]

    async def receive():
        return parts.pop(0)

    (message,) = asyncio.run(read_body(receive, 10))
    assert message["type"] == "http.disconnect"


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
def test_what_is_no_request_passes(metrics, kind):
    passed = []

    async def app(scope, receive, send):
        passed.append(scope["type"])

    for each in (Watch(app, metrics, True), LetClientRead(app), LimitBody(app, 1, 1)):
        asyncio.run(each({"type": kind}, None, None))
    assert passed == [kind] * 3


def test_bodies_that_wait_have_room_together_or_are_sent_away():
    """And once a request is answered, its room is free again."""
    statuses = []

    async def app(scope, receive, send):
        await receive()
        if scope["path"] == "/first":
            statuses.append((await _call(limit, "/second", b"abc"))[0]["status"])
            statuses.append((await _call(limit, "/second", b"ab"))[0]["status"])
        await answering(b"")(scope, receive, send)

    limit = LimitBody(app, 4, 6)
    for _ in range(2):
        assert asyncio.run(_call(limit, "/first", b"abcd"))[0]["status"] == 200
    assert statuses == [503, 200] * 2 and limit.held == 0


def test_a_body_of_many_small_values_is_not_parsed():
    limit = LimitBody(answering(b"parsed"), 2**24, 2**24)
    text = b'{"messages": ["' + b"," * 2**18 + b'"]}'  # the longest text that is allowed
    assert asyncio.run(_call(limit, CHAT, text))[0]["status"] == 200
    sent = asyncio.run(_call(limit, CHAT, b"[" + b"[]," * 2**19 + b"[]]"))
    assert sent[0]["status"] == 400 and b"more than 10000 values" in sent[1]["body"] and limit.held == 0


def test_what_was_dropped_makes_room_while_the_rest_still_comes():
    """A body is read to its end even where nothing of it is kept."""
    parts, held = [b"abc", b"de", b"f"], []

    async def receive():
        held.append(limit.held)
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message):
        sent.append(message)

    limit, sent = LimitBody(None, 4, 8), []
    asyncio.run(limit({"type": "http", "path": "/", "headers": []}, receive, send))
    assert sent[0]["status"] == 413 and held == [0, 3, 0] and limit.held == 0


def test_a_body_that_does_not_come_in_time_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(middleware, "BODY_TIME", 0.2)
    received = []

    async def receive():
        await asyncio.sleep(0.01)
        received.append({"type": "http.request", "body": b"a", "more_body": True})
        return received[-1]

    async def send(message):
        sent.append(message)

    limit, sent = LimitBody(None, 2**20, 2**20), []
    asyncio.run(limit({"type": "http", "path": "/", "headers": []}, receive, send))
    assert sent[0]["status"] == 408 and (b"connection", b"close") in sent[0]["headers"]
    assert b"not there after 0.2 seconds" in sent[1]["body"] and 2 < len(received) < 30 and limit.held == 0


@pytest.mark.parametrize("path, length", [(CHAT, b"9"), (CHAT, b"0"), (HEALTH, b"9")])
def test_a_stranger_hears_the_answer_before_the_body_has_come(monkeypatch, metrics, path, length):
    """And is not heard out for long, however slowly it comes."""
    monkeypatch.setattr(middleware, "LINGER", 0.2)
    order, parts = [], 0

    async def receive():
        nonlocal parts
        parts += 1
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b"a", "more_body": length != b"0"}

    async def send(message):
        order.append((message["type"], message.get("status"), message.get("more_body"), parts))

    app = LetClientRead(Watch(AskForKey(None, ApiKeys(("sk-0123456789abcdef",))), metrics, True))
    scope = {"type": "http", "path": path, "method": "POST", "headers": [(b"content-length", length)]}
    asyncio.run(app(scope, receive, send))
    assert order[:2] == [("http.response.start", 401, None, 0), ("http.response.body", None, True, 0)]
    assert order[2][:3] == ("http.response.body", None, None) and 0 < parts < 30
    assert requests(metrics, route=path, status="401") == 1


async def _call(app, path: str, body: bytes) -> list[dict]:
    sent = []

    async def receive():
        return {"type": "http.request", "body": body}

    async def send(message):
        sent.append(message)

    await app({"type": "http", "path": path, "headers": []}, receive, send)
    return sent
