"""Filter what a browser may ask of the page's server: the routes that the page needs, bodies up to a limit, and files
that visitors have uploaded.

Gradio's server has many more routes. With some it fetches addresses that a request names in place of an upload.
"""

import asyncio
import json
from collections import deque
from pathlib import Path
from urllib.parse import unquote

from ..extras import needs_extra
from ..untrusted.bodies import BODY_TIME, read_body, replaying


with needs_extra("app"):
    from starlette.responses import PlainTextResponse


MAX_BODY = 16 * 2**20  # bytes, an upload's too
API = "/gradio_api"
FILE = f"{API}/file="
EVENTS = f"{API}/queue/join"
READ = ("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", f"{API}/queue/data", f"{API}/upload_progress")
READ_BELOW = ("/assets/", "/static/", "/svelte/", f"{API}/heartbeat/", FILE)
WRITE = (EVENTS, f"{API}/upload", f"{API}/cancel", f"{API}/reset")
CONTENT_POLICY = "; ".join(
    (
        "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
    )
)
"""A script that got into the page could load nothing from elsewhere, and send nothing there."""


class PageFilter:
    """ASGI middleware in front of the page.

    Args:
        app: the page's server.
        uploads: the folder that gradio puts uploaded pictures into.
    """

    def __init__(self, app, uploads: str):
        self.app, self.uploads = app, Path(uploads).resolve()

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http" or not self._is_open(scope["method"], scope["path"]):
            return await _refuse(404, "There is nothing here.", scope, receive, send)
        try:
            body = await asyncio.wait_for(read_body(receive, MAX_BODY), BODY_TIME)
        except asyncio.TimeoutError:
            return await _refuse(408, f"The request was not there after {BODY_TIME} seconds.", scope, receive, send)
        if body is None:
            return await _refuse(413, f"The request has more than {MAX_BODY} bytes.", scope, receive, send)
        if scope["path"] == EVENTS and not self._names_uploads_alone(body):
            return await _refuse(400, "A picture must be uploaded: no address and no file.", scope, receive, send)

        async def send_with_policy(message):
            if message["type"] == "http.response.start":
                headers = [*message["headers"], (b"content-security-policy", CONTENT_POLICY.encode())]
                message = {**message, "headers": headers}
            await send(message)

        await self.app(scope, replaying(body, receive), send_with_policy)

    def _is_open(self, method: str, path: str) -> bool:
        if method == "POST":
            return path in WRITE
        if method not in ("GET", "HEAD"):
            return False
        if path.startswith(FILE):
            return self._is_upload(unquote(path.removeprefix(FILE)))
        return path in READ or path.startswith(READ_BELOW)

    def _is_upload(self, path: str) -> bool:
        try:
            return Path(path).resolve().is_relative_to(self.uploads)
        except (OSError, ValueError):  # too long, a loop of links, a NUL
            return False

    def _names_uploads_alone(self, body: deque) -> bool:
        """Return `False` if an event's data name a file that is no upload, at any depth."""
        try:
            left = [json.loads(b"".join(message.get("body", b"") for message in body))]
        except (ValueError, RecursionError):
            return False
        while left:
            value = left.pop()
            if isinstance(value, dict):
                path = value.get("path")
                if isinstance(path, str) and not self._is_upload(path):
                    return False
                left += value.values()
            elif isinstance(value, list):
                left += value
        return True


async def _refuse(status: int, reason: str, scope, receive, send):
    if scope["type"] == "http":
        headers = {"Connection": "close"} if status == 408 else None  # its rest may never come
        await PlainTextResponse(reason, status, headers)(scope, receive, send)
    else:  # a websocket: the page has none
        await send({"type": "websocket.close", "code": 1000})
