"""The page's own server."""

import os
import socket
import tempfile

from ..extras import needs_extra
from .showing import read_style


with needs_extra("app"):
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI
    from gradio.utils import get_upload_folder

from .base import choose_base
from .middleware import MAX_BODY, PageFilter
from .page import Page


MAX_CONNECTIONS = 256
THEME = gr.themes.Default(
    primary_hue="blue",
    secondary_hue="blue",
    neutral_hue="slate",
    font=["system-ui", "sans-serif"],  # the default ones are loaded from another site
    font_mono=["ui-monospace", "monospace"],
).set(
    button_primary_background_fill="*primary_700",
    input_placeholder_color="*neutral_500",
    input_placeholder_color_dark="*neutral_400",
    button_primary_background_fill_dark="*primary_700",
)
GRACE = 5  # seconds that open requests have when the server is asked to stop


def create_app(model, processor, name: str, max_new_tokens: int = 256, base: str | None = None):
    """
    Build the page's server as an ASGI app.

    Args:
        model, processor: a trained checkpoint's.
        name: of the checkpoint, as the page shows it.
        max_new_tokens: longest answer.
        base: the stock checkpoint that answers beside it; see [`choose_base`] for the one that is taken without it.

    Raises:
        `ValueError`: for an untrained head, or a base that is none.
    """
    if not model.config.safety_config.is_trained:
        raise ValueError(f"{name} has an untrained safety head, its verdicts mean nothing: `safevlm train` first.")
    blocks = Page(model, processor, name, max_new_tokens, choose_base(model, base)).build()
    app = gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        blocks,
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=MAX_BODY,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        theme=THEME,
        css=read_style(),
    )
    return PageFilter(app, get_upload_folder())


def serve(
    model,
    processor,
    name: str,
    host: str = "127.0.0.1",
    port: int = 7860,
    max_new_tokens: int = 256,
    base: str | None = None,
):
    """
    Serve the page until interrupted. Pictures lie in a folder of their own, which goes with the server.

    Args:
        model, processor, name, max_new_tokens, base: as for [`create_app`].
        port: 0 takes a free one.

    Raises:
        `OSError`: where the port is taken.
    """
    with tempfile.TemporaryDirectory(prefix="safevlm-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # its default is shared with every other page on the machine
        app = create_app(model, processor, name, max_new_tokens, base)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, port), family=family) as listener:
            address = f"[{host}]" if family == socket.AF_INET6 else host
            config = uvicorn.Config(
                app,
                limit_concurrency=MAX_CONNECTIONS,
                timeout_graceful_shutdown=GRACE,
                access_log=False,
                log_level="warning",
            )
            said = f"{name} on http://{address}:{listener.getsockname()[1]}"
            _Server(config, said).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Print the address once the server answers there."""

    def __init__(self, config: uvicorn.Config, said: str):
        super().__init__(config)
        self.said = said

    async def startup(self, sockets=None):
        await super().startup(sockets)
        if self.started:
            print(self.said, flush=True)
