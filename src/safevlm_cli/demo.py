"""`safevlm demo`: the main job on the embedded default."""

from pathlib import Path
from typing import Annotated

import typer

from .app import app


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="Of the data and both stages.")] = 0,
    output_dir: Annotated[Path, typer.Option("--output-dir", "--output_dir", help="Checkpoints and data.")] = Path(
        "runs/demo"
    ),
    report: Annotated[Path, typer.Option(help="The report.")] = Path("report.html"),
    full: Annotated[
        bool, typer.Option("--full", help="Every row with words, turns, prompts and changed pictures (40 minutes).")
    ] = False,
):
    """
    Both stages on the embedded default, base and safe model compared. Exit code 0: every target is met; 1: not all.

    Example: `safevlm demo --full --seed 1`
    """
    from safevlm_hf.demo import main as run_demo

    options = ["--seed", str(seed), "--output_dir", str(output_dir), "--report", str(report)]
    raise typer.Exit(run_demo(options + ["--full"] * full))
