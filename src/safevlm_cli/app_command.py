"""`safevlm app`: a page to try a checkpoint and its policy on."""

from pathlib import Path
from typing import Annotated

import typer

from .app import Model, app
from .loading import DEFAULT_MODEL


@app.command("app")
def app_command(
    model: Model = DEFAULT_MODEL,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Whoever reaches it can use the page: there is no password.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 7860,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
    base: Annotated[
        str | None,
        typer.Option(
            help="A stock checkpoint that answers beside it. Without it: the embedded base where the checkpoint was "
            "trained from that, or else the same checkpoint with its policy off."
        ),
    ] = None,
):
    """
    Serve a page for the browser: show a picture or draw one, ask, and see the verdict, what decided it, and the
    answers with it and of the base model. Visitors set the policy: it is a playground. To serve a model, use `safevlm
    serve`.

    Example: `safevlm app --model runs/demo/stage2`
    """
    if model == DEFAULT_MODEL and not Path(model).is_dir():
        raise ValueError(f"there is no checkpoint {model} yet: `safevlm demo` makes it, or name another with --model.")
    from safevlm_hf.app.base import check_stock
    from safevlm_hf.app.server import serve
    from safevlm_hf.checkpoints.loading import check_folder, load

    if base is not None:
        check_folder(base)
        check_stock(base)
    loaded, processor = load(model)
    serve(loaded, processor, model, host, port, max_new_tokens, base)
