"""Middleware in front of transformers' app: gives requests an id, logs them, asks for a key and limits bodies."""

import asyncio
import logging
import re
import time
import uuid
from contextlib import suppress

from ..untrusted.bodies import BODY_TIME, read_body, replaying
from .errors import error_response
from .keys import ApiKeys
from .metrics import Metrics
from .requests import MAX_VALUES
from .routes import HEALTH, OTHER, OWN_ID, REQUEST_ID, route_of
from .settings import Limits


ID_HEADER = REQUEST_ID.encode()
REQUEST_ID_PATTERN = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
METHODS = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE")
LEFT = 499  # nginx's status for a client that left before the end of its answer
MAX_COMMAS = Limits.characters + MAX_VALUES  # those in a valid body's texts, and one per value
LINGER = 2  # seconds for a client to read the answer before its connection is closed
CLOSE = {"Connection": "close"}

logger = logging.getLogger("uvicorn.error")


class Watch:
    """Gives each request an id, counts and times it, and logs it.

    A client's own id is kept where it is short and plain, so that an operator can follow a request through a proxy;
    anything else is replaced before anybody reads it. Many requests may come with one id, so the server's own stands
    beside it in the log and in the audit trail. Neither the log nor a metric holds a path, a header or an
    address that a client has written.
    """

    def __init__(self, app, metrics: Metrics, access_log: bool):
        self.app, self.metrics, self.access_log = app, metrics, access_log

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        own_id = str(uuid.uuid4())
        OWN_ID.set(own_id)
        request_id = _request_id(scope, own_id)
        status, is_done = 500, False  # where the app raises, 500 is what the client gets

        async def watched_receive():
            nonlocal status
            message = await receive()
            if message["type"] == "http.disconnect" and not is_done:
                status = LEFT
            return message

        async def watched_send(message):
            nonlocal status, is_done
            if message["type"] == "http.response.start":
                status = message["status"]
                others = [header for header in message.get("headers", ()) if header[0].lower() != ID_HEADER]
                message = {**message, "headers": [*others, (ID_HEADER, request_id)]}
            else:
                is_done = not message.get("more_body", False)
            await send(message)

        start = time.perf_counter()
        with self.metrics.in_flight.track_inprogress():
            try:
                await self.app(scope, watched_receive, watched_send)
            finally:
                self._note(scope, status, time.perf_counter() - start, f"{request_id.decode()} {own_id}")

    def _note(self, scope, status: int, seconds: float, ids: str):
        route = route_of(scope["path"])
        self.metrics.requests.labels(route, status).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        if self.access_log:
            method = scope["method"] if scope["method"] in METHODS else OTHER
            logger.info("%s %s %d %.3f s %s", method, route, status, seconds, ids)


def _request_id(scope, own_id: str) -> bytes:
    """Return the request's id, the client's or the server's own, and leave it as the only one in its headers."""
    given = [value for key, value in scope["headers"] if key == ID_HEADER]
    is_plain = len(given) == 1 and REQUEST_ID_PATTERN.fullmatch(given[0])
    request_id = given[0] if is_plain else own_id.encode()
    scope["headers"] = [header for header in scope["headers"] if header[0] != ID_HEADER] + [(ID_HEADER, request_id)]
    return request_id


class LetClientRead:
    """Let the client read an error that ends the connection before closing it.

    The answer may be sent before the whole body has come. What still arrives after a close would make the system reset
    the connection, and the client would lose the answer; so what comes is read and dropped for a moment.
    """

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        ends = False

        async def send_and_wait(message):
            nonlocal ends
            if message["type"] == "http.response.start":
                ends = (b"connection", b"close") in message["headers"]
            elif ends and not message.get("more_body", False):
                await send({**message, "more_body": True})
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(read_body(receive, limit=0), LINGER)
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        await self.app(scope, receive, send_and_wait)


class AskForKey:
    """Require an API key, except for `/health` without a body. No body is waited for without a key."""

    def __init__(self, app, keys: ApiKeys):
        self.app, self.keys = app, keys

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or not self.keys:
            return await self.app(scope, receive, send)
        headers = dict(scope["headers"])
        has_body = b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
        if scope["path"] == HEALTH and not has_body:
            return await self.app(scope, receive, send)
        # A request with two keys is refused: a proxy in front may have looked at the other one.
        given = [value for key, value in scope["headers"] if key == b"authorization"]
        if self.keys.admit(given[0] if len(given) == 1 else None):
            return await self.app(scope, receive, send)
        answer = error_response(
            401,
            "This server needs an API key: `Authorization: Bearer ...`.",
            {"WWW-Authenticate": "Bearer", **CLOSE},
        )
        await answer(scope, receive, send)


class LimitBody:
    """Pass on a body that arrives in time and within the limit, as long as the bodies of all requests that wait for an
    answer stay within theirs. Nothing is kept of any other body.

    A body with more commas than a valid one can have is not parsed: values of a few bytes take a hundred in memory.
    """

    def __init__(self, app, limit: int, limit_together: int):
        self.app = app
        self.limit, self.limit_together = limit, limit_together
        self.held = 0  # bytes of all bodies

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        taken = 0
        refusal = error_response(413, f"The request has more than {self.limit} bytes.")

        def take(length: int) -> bool:
            nonlocal refusal, taken
            if self.held + length > self.limit_together:
                refusal = error_response(503, "Too many large requests wait for an answer. Send this one again later.")
                return False
            self.held, taken = self.held + length, taken + length
            return True

        try:
            try:
                body = await asyncio.wait_for(read_body(receive, self.limit, take), BODY_TIME)
            except asyncio.TimeoutError:
                body = None
                refusal = error_response(408, f"The request was not there after {BODY_TIME} seconds.", CLOSE)
            if body is not None and body[0]["body"].count(b",") > MAX_COMMAS:
                refusal, body = error_response(400, f"The request has more than {MAX_VALUES} values."), None
            await (refusal(scope, receive, send) if body is None else self.app(scope, replaying(body, receive), send))
        finally:
            self.held -= taken
