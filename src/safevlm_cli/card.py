"""`safevlm card`: put results of `safevlm evaluate` into the model card of their checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from .app import Model, app
from .loading import DEFAULT_MODEL
from .showing import make_console, plain


@app.command()
def card(
    model: Model = DEFAULT_MODEL,
    results: Annotated[
        list[Path] | None,
        typer.Option("--results", "-r", help="results.json files, or their folders; several times."),
    ] = None,
    overlap: Annotated[
        list[Path] | None, typer.Option(help="What `safevlm data overlap` wrote, one per benchmark; several times.")
    ] = None,
):
    """
    Put results into a checkpoint's README.md (a section, and the headline figures in `model-index`), and all of them
    into `.eval_results/`.

    Results of other weights are refused. Results of an earlier call are replaced, and what else stands in the card is
    kept. Saving the model anew writes the card anew: run this last.

    Example: `safevlm card --model runs/demo/stage2 --results runs/evaluation`
    """
    from safevlm_hf.evaluation.cards.card import write_evaluation_card

    if not Path(model).is_dir():
        raise ValueError(f"`--model` is {model!r}, expected the folder of a checkpoint, where its card lies.")
    results = results or [Path("runs/evaluation")]
    missing = [str(path) for path in results if not path.exists()]
    if missing:
        raise ValueError(f"there are no results in {', '.join(missing)}: `safevlm evaluate` makes them.")
    written = write_evaluation_card(model, results, overlap or [])
    console = make_console()
    for result in written.results:
        console.print(plain(f"{result.protocol.benchmark}/{result.protocol.split}: {result.system.name}"))
    for name in written.others:
        console.print(plain(f"left out, another system than this checkpoint: {name}"), soft_wrap=True)
    print(f"written: {', '.join(map(str, written.paths))}")
