"""`safevlm verify`: check that a checkpoint has the safety weights that it should have."""

from typing import Annotated

import typer

from .app import Model, app
from .loading import DEFAULT_MODEL
from .showing import make_console, plain


DIFFERS = 1  # exit code


@app.command()
def verify(
    model: Model = DEFAULT_MODEL,
    expect: Annotated[
        str | None, typer.Option(help="The digest that it must have, from a source that you trust.")
    ] = None,
):
    """
    Print a digest of a checkpoint's safety weights, and of the names and sizes that give them their meaning. The
    backbone and the policy are not part of it. It begins with the weights' dtype: only digests of one dtype can be
    compared.

    Exit code 0: the digest is the expected one, or none was given; 1: it is another one; 2: an error.

    Example: `safevlm verify --model runs/demo/stage2 --expect float32:...`
    """
    from safevlm_hf.checkpoints.loading import check_folder
    from safevlm_hf.checkpoints.safety_weights import describe_difference, safety_weights_digest

    check_folder(model)
    digest = safety_weights_digest(model)
    difference = None if expect is None else describe_difference(digest, expect)
    print(digest)
    if difference is not None:
        make_console(stderr=True).print(plain(f"{model} differs: {difference}", "red"), soft_wrap=True)
        raise typer.Exit(DIFFERS)
