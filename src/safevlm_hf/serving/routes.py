"""The server's routes, and what names a request."""

from contextvars import ContextVar


CHAT, MODERATIONS, MODELS, HEALTH, VERSION = ROUTES = (
    "/v1/chat/completions",
    "/v1/moderations",
    "/v1/models",
    "/health",
    "/version",
)
OTHER = "other"  # every other path or method
REQUEST_ID = "x-request-id"  # header; its value may be a client's own, and the same for many requests
OWN_ID: ContextVar[str] = ContextVar("OWN_ID")  # of the request in progress: made here, for it alone


def route_of(path: str) -> str:
    """The route that a path belongs to, for logs and metrics: nothing of a client's own is in it."""
    if path.startswith(f"{MODELS}/"):
        return MODELS
    return path if path in ROUTES else OTHER
