"""`safevlm serve`: transformers' own server with one safe checkpoint, and `POST /v1/moderations`.

The app, its chat handler, its streams and its inference thread are transformers'. This package decides which routes
there are, who may use them, which fields a request may have and how large it may be, what a client learns, and what
the operator sees. A client can name neither a policy nor a checkpoint, a template, a file or an address. Nor is a
client believed about who said what: all of its texts, in any role, are the question that a verdict is about. Only the
operator's own system prompt is not.
"""

from ..extras import needs_extra


with needs_extra("serve"):
    # transformers' server needs openai, and says so late.
    import fastapi  # noqa: F401
    import openai  # noqa: F401
    import prometheus_client  # noqa: F401
    import transformers.cli.serving.server  # noqa: F401
    import uvicorn  # noqa: F401

from .server import create_app, serve
from .settings import Limits, Settings


__all__ = ["Limits", "Settings", "create_app", "serve"]
