"""The server's routes, and the ids of requests."""

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
OWN_ID: ContextVar[str] = ContextVar("OWN_ID")  # the server's id of the request in progress, which no other one has


def route_of(path: str) -> str:
    """Return the route that a path belongs to, for logs and metrics. It holds nothing that a client wrote."""
    if path.startswith(f"{MODELS}/"):
        return MODELS
    return path if path in ROUTES else OTHER
