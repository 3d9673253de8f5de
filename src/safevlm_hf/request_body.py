"""The body of a request, as an ASGI server hands it over: for the doors in front of `safevlm serve` and the page."""

from collections import deque


async def read_body(receive, limit: int) -> deque[dict] | None:
    """All messages of a body, or `None` where it has more bytes than the limit; then nothing of it is kept.

    It is read to its end either way, or the client would not hear the answer."""
    messages, length, more = deque(), 0, True
    while more:
        message = await receive()
        length += len(message.get("body", b""))
        messages.append(message) if length <= limit else messages.clear()
        more = message.get("more_body", False)
    return messages if length <= limit else None


def replaying(messages: deque[dict], receive):
    """A `receive` that gives these messages again, and then what comes after them."""

    async def replay():
        return messages.popleft() if messages else await receive()

    return replay
