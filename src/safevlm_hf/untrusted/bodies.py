"""Read the body of a request from an ASGI server, for the middleware of `safevlm serve` and of the page."""

from collections import deque
from collections.abc import Callable


BODY_TIME = 120  # seconds for a body, from its first byte to its last


async def read_body(receive, limit: int, take: Callable[[int], bool] = lambda length: True) -> deque[dict] | None:
    """
    Read a body to its end and return it as one message, or `None` for one that is not kept.

    Args:
        limit: bytes that a body may have.
        take: called with the length of each part; where it returns `False`, the body is not kept. It is called with
            the length taken so far, below zero, once that is let go.
    """
    # The rest of a body that is not kept is read all the same, or the client would not hear the answer. Parts are
    # joined as they come: a list of them would take a hundred times the size of a body that comes byte by byte.
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
    """Return a `receive` that gives these messages again, and then what comes after them."""

    async def replay():
        return messages.popleft() if messages else await receive()

    return replay
