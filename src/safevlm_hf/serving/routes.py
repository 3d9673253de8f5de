"""The server's routes, and the header that names a request."""

CHAT, MODERATIONS, MODELS, HEALTH, VERSION = ROUTES = (
    "/v1/chat/completions",
    "/v1/moderations",
    "/v1/models",
    "/health",
    "/version",
)
REQUEST_ID = "x-request-id"
