"""The body of a request, as an ASGI server hands it over: for the doors in front of `safevlm serve` and the page."""

from collections import deque
from collections.abc import Callable


BODY_TIME = 120  # seconds for a body, from its first byte to its last


async def read_body(receive, limit: int, take: Callable[[int], bool] = lambda length: True) -> deque[dict] | None:
    """A body as one message, or `None` where it has more bytes than the limit, or `take` has said of one of its parts
    that there is no room for so many bytes; then nothing of it is kept, and `take` gets what it had, below zero.

    It is read to its end either way, or the client would not hear the answer. Its parts are joined as they come: kept
    one by one, a body that is sent byte by byte would take a hundred times its size."""
    body, is_kept, message = bytearray(), True, {"more_body": True}
    while message.get("more_body", False):
        message = await receive()
        part = message.get("body", b"")
        is_kept = is_kept and len(body) + len(part) <= limit and take(len(part))
        if is_kept:
            body += part
        else:
            take(-len(body))
            body.clear()
    return deque([{**message, "body": bytes(body)}]) if is_kept else None


def replaying(messages: deque[dict], receive):
    """A `receive` that gives these messages again, and then what comes after them."""

    async def replay():
        return messages.popleft() if messages else await receive()

    return replay
