"""The server's routes, and what names a request."""

from contextvars import ContextVar


CHAT, MODERATIONS, MODELS, HEALTH, VERSION = ROUTES = (
    "/v1/chat/completions",
    "/v1/moderations",
    "/v1/models",
    "/health",
    "/version",
)
REQUEST_ID = "x-request-id"  # header; its value may be a client's own, and the same for many requests
OWN_ID: ContextVar[str] = ContextVar("OWN_ID")  # of the request in progress: made here, for it alone
