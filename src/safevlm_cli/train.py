"""`safevlm train`: train stage 1, stage 2 or both."""

import argparse
import contextlib
import io
import sys
from pathlib import Path
from typing import Annotated

import typer

from .app import app


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def train(
    context: typer.Context,
    stage: Annotated[str, typer.Option(help="1, 2 or both.")] = "both",
    output_dir: Annotated[
        Path | None,
        typer.Option("--output-dir", "--output_dir", help="Holds stage1 and stage2.", show_default="runs"),
    ] = None,
):
    """
    Train stage 1, stage 2 or both; without more options the embedded default (RiskCards on the nano base).

    Every other option goes to the stages that have it: `--model_name_or_path`, `--train_file`, `--validation_file`,
    `--lora_r`, and all of `TrainingArguments` (`python examples/run_stage1.py --help` lists them). Stage 2 starts from
    stage 1's result, `OUTPUT_DIR/stage1`. One stage takes a YAML file in front of its options: the file says what they
    are where they are not given, `output_dir` among them.
    What an earlier run has left there is replaced only with `--overwrite_output_dir`.

    Example: `safevlm train --model_name_or_path llava-hf/llava-1.5-7b-hf --train_file records.jsonl --bf16 true`
    """
    from safevlm_hf.files import check_writable
    from safevlm_hf.quiet import quiet
    from safevlm_hf.training.arguments import is_yaml
    from safevlm_hf.training.figures import show_figures
    from safevlm_hf.training.run import run_stage1, run_stage2

    if stage not in ("1", "2", "both"):
        raise ValueError(f"`--stage` must be 1, 2 or both, got {stage!r}.")
    folder = output_dir or Path("runs")
    check_writable(folder, is_folder=True)
    numbers = [1, 2] if stage == "both" else [int(stage)]
    if context.args and is_yaml(context.args[0]):
        if stage == "both":
            raise ValueError("A YAML file is for one stage: `safevlm train --stage 1 run.yaml`, and more behind it.")
        own = [] if output_dir is None else ["--output_dir", str(output_dir / f"stage{stage}")]
        planned = {number: [*context.args, *own] for number in numbers}
    else:
        planned = {number: _stage_arguments(number, stage == "both", context.args, folder) for number in numbers}
    _check_arguments(planned, folder / "stage1")
    quiet()
    for number, arguments in planned.items():
        try:
            trainer = (run_stage1, run_stage2)[number - 1](arguments)
        except KeyboardInterrupt:
            _show_what_is_kept(number, arguments)
            raise
        show_figures(trainer)
        print(f"stage {number} is done: {trainer.args.output_dir}")


def _show_what_is_kept(number: int, arguments: list[str]):
    from safevlm_hf.training.arguments import parse_arguments
    from safevlm_hf.training.checkpoints import find_checkpoints

    folder = parse_arguments(number, arguments)[2].output_dir
    kept = len(find_checkpoints(folder)[0])
    resuming = "the same command with `--resume_from_checkpoint true` goes on from the last one"
    print(f"{folder} keeps {kept} checkpoints of this stage" + (f": {resuming}." if kept else "."), file=sys.stderr)


def _stage_arguments(number: int, are_both: bool, given: list[str], output_dir: Path) -> list[str]:
    """Return a stage's arguments, as its example script takes them."""
    from safevlm_hf.training.arguments import nano_config, parse_arguments, says_what_is_trained, write_nano_config

    folder, first = output_dir / f"stage{number}", output_dir / "stage1"
    if not says_what_is_trained(given):
        values = {"output_dir": str(folder)} | ({"model_name_or_path": str(first)} if number == 2 else {})
        overwrite = parse_arguments(number, given)[2].overwrite_output_dir
        return [write_nano_config(number, folder / nano_config(number).name, overwrite, **values), *given]
    # A run of both stages that stopped in stage 1 resumes that one, and begins stage 2.
    options = _options_of_stage(number, _without_resuming(given, folder)) if are_both else given
    start = ["--model_name_or_path", str(first)] if number == 2 else []
    return [*start, *options, "--output_dir", str(folder)]


def _without_resuming(given: list[str], folder: Path) -> list[str]:
    """Take `--resume_from_checkpoint true` out of the options of both stages if this one has no whole checkpoint."""
    from safevlm_hf.training.checkpoints import find_checkpoints

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--resume_from_checkpoint", "--resume-from-checkpoint")
    with _argparse_errors():
        found, others = parser.parse_known_args(given)
    if (found.resume_from_checkpoint or "true").lower() not in ("true", "false"):
        raise ValueError(
            f"{found.resume_from_checkpoint} is a checkpoint of one stage: name the stage with `--stage`, or let both "
            "go on from their last ones with `--resume_from_checkpoint true`."
        )
    return given if find_checkpoints(folder)[0] else others


def _options_of_stage(number: int, given: list[str]) -> list[str]:
    """Take the other stage's options out: stage 1 has no adapters, stage 2 takes the safety modules as they are."""
    from transformers import HfArgumentParser

    from safevlm_hf.training.arguments import LoraArguments, ModelArguments

    others = LoraArguments if number == 1 else ModelArguments
    # transformers' `DataClassType` is a type of its own, which no dataclass has.
    parser = HfArgumentParser(others, allow_abbrev=False)  # type: ignore[arg-type]
    with _argparse_errors():
        found, options = parser.parse_known_args(given)
    return options if number == 1 else [*options, "--dtype", found.dtype]


def _check_arguments(planned: dict[int, list[str]], first: Path):
    """Check the arguments of all stages, before hours of stage 1. `first` is the folder of stage 1's result."""
    from safevlm_hf.training.arguments import parse_arguments

    for number, arguments in planned.items():
        model_args, _, training_args, *_ = parse_arguments(number, arguments)
        training_args.refuse_to_overwrite()
        starts_from_first = number == 2 and model_args.model_name_or_path == str(first)
        if starts_from_first and 1 not in planned and not (first / "config.json").is_file():
            raise ValueError(
                f"there is no stage 1 in {first.parent}: run `safevlm train --stage 1 --output_dir {first.parent}` "
                "first, or name its result with `--model_name_or_path`."
            )


@contextlib.contextmanager
def _argparse_errors():
    """Raise argparse's reason as an error; by itself it would print all options and exit."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            yield
    except SystemExit:
        raise ValueError(said.getvalue().rpartition("error: ")[2]) from None
