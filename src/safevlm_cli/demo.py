"""`safevlm demo`: the main job on the embedded default."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from .app import app


# Threads of OpenMP spin where they wait for each other: where another process has their core, nearly all of the time.
# So they sleep at once; libgomp, which torch brings, first waits a moment.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="Of the data and both stages.")] = 0,
    family: Annotated[
        Literal["llava", "idefics3"],
        typer.Option(help="Of the nano base; `idefics3` sees pictures of any shape, as tiles."),
    ] = "llava",
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir", "--output_dir", help="Checkpoints and data; a folder of its own in `runs` if unset."
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="The report; report.html if unset, in the output folder unless that is runs/demo."),
    ] = None,
    overwrite_output_dir: Annotated[
        bool,
        typer.Option(
            "--overwrite-output-dir", "--overwrite_output_dir", help="Replace what an earlier demo has left."
        ),
    ] = False,
    all_: Annotated[bool, typer.Option("--all", help="Print every figure, not the headline alone.")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Every row with words, turns, prompts and changed pictures (40 minutes).")
    ] = False,
    fast: Annotated[
        bool, typer.Option("--fast", help="A minute: everything runs, and nothing is learned, so no figure counts.")
    ] = False,
):
    """
    Train both stages on the embedded default, and compare base and safe model, in thirteen minutes on two quiet cores.

    Exit code 0: every target is met; 1: not all.

    Example: `safevlm demo --full --seed 1`
    """
    if full and fast:
        raise ValueError("`--full` and `--fast` are two demos: name one.")
    if "OMP_WAIT_POLICY" not in os.environ:  # a user's own choice
        os.environ.update(WAITING)  # before torch is imported

    from safevlm_hf.demo.run import main as run_demo

    options = ["--seed", str(seed), "--family", family]
    options += [] if output_dir is None else ["--output_dir", str(output_dir)]
    options += [] if report is None else ["--report", str(report)]
    options += ["--overwrite_output_dir"] * overwrite_output_dir + ["--all"] * all_
    raise typer.Exit(run_demo(options + ["--full"] * full + ["--fast"] * fast))
