"""The main job on the embedded default: both stages on the nano base and RiskCards, then base against safe model.

safevlm demo [--full | --fast] [--family idefics3] [--seed 0] [--output_dir runs/demo] [--report report.html]
    [--overwrite_output_dir] [--all]

It is `python -m safevlm_hf.demo`, too.

With `--family idefics3` it runs on the second nano base, which sees pictures of several sizes and shapes as tiles, and
measures small print, too.
"""

import argparse
import json
import os
import platform
import shlex
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForImageTextToText, AutoProcessor, set_seed

from ..benchmarks.riskcards import HeldOut, items_of
from ..data import NANO_BASE, NANO_BASES
from ..evaluation.answering_records import give_answers, give_verdicts
from ..files import check_apart, check_writable, refuse_to_overwrite, write_text
from ..modeling.configuration_safety import DEFAULT_CATEGORIES, DEFAULT_LEVELS
from ..modeling.model_card import write_model_card
from ..quiet import quiet
from ..training.arguments import write_nano_config
from ..training.run import run_stage1, run_stage2
from .control import POLICIES, draw_explanations, try_policies
from .figures import held_out_figures
from .localisation import riskcards_localisation
from .report import DemoResults, format_headline, format_table, write_report
from .rows import (
    BASE,
    BOTH_STAGES,
    FIRST,
    FULL_ROWS,
    MEAN,
    QUICK_ROWS,
    SMALL_PRINT_ROWS,
    STAGE1,
    Row,
    measure_rows,
)
from .targets import FULL_TARGETS, QUICK_TARGETS, SMALL_PRINT_TARGETS, Target
from .wordings import QUICK_WORDING_ROWS, TYPING_ROWS, WORDING_ROWS


@dataclass(frozen=True)
class Extent:
    """Size of a run of the demo: what it trains and measures.

    Attributes:
        minutes, tiled_minutes: what it takes on two quiet cores of a CPU, about; and on a base that sees tiles, where
            only the quick demo's was measured.
        num_test_samples: held-out questions that stand alone.
        rows, num_row_samples: with surroundings and changed pictures, and the questions of each row.
        num_tried, num_explained: questions under other policies, and verdicts that are drawn.
        poolings, pooling_epochs: column to `head_pooling` of the heads that are trained for comparison, and how long.
        stage1, stage2: overrides of the stages' configs.
        tiled_stage1, tiled_stage2: further ones on a base that sees tiles, in which a sign has many more sizes.
        targets: bounds on the figures.
    """

    minutes: int
    tiled_minutes: int
    rows: tuple[Row, ...]
    num_row_samples: int
    targets: tuple[Target, ...]
    num_test_samples: int = 400
    num_tried: int = 200
    num_explained: int = 4
    poolings: dict[str, str] = field(default_factory=lambda: {FIRST: "first"})
    pooling_epochs: float = 0.5
    stage1: dict = field(default_factory=dict)
    stage2: dict = field(default_factory=dict)
    tiled_stage1: dict = field(default_factory=dict)
    tiled_stage2: dict = field(default_factory=dict)


_FAST_TRAINING = {
    "num_riskcards": 64,
    "max_eval_samples": 4,
    "logging_steps": 1,
    "warmup_steps": 1,
    "per_device_train_batch_size": 8,
}
QUICK = Extent(
    13,
    100,
    (*QUICK_ROWS, *QUICK_WORDING_ROWS),
    num_row_samples=200,
    targets=QUICK_TARGETS,
    num_tried=100,
    pooling_epochs=0.03,
    stage1={"max_eval_samples": 32},
    stage2={"max_eval_samples": 32},
    tiled_stage1={"num_riskcards": 48000, "risk_prior": 0.3},
    tiled_stage2={"num_riskcards": 7200},
)
FULL = Extent(
    40,
    170,
    (*FULL_ROWS, *WORDING_ROWS, *TYPING_ROWS),
    num_row_samples=400,
    targets=FULL_TARGETS,
    poolings={MEAN: "mean", FIRST: "first"},
    pooling_epochs=0.25,
    stage1={
        "num_riskcards": 24000,
        "num_train_epochs": 2.0,
        "per_device_train_batch_size": 32,
        "lm_loss_every": 64,
        "risk_prior": 0.4,
    },
    stage2={
        "num_riskcards": 9000,
        "num_train_epochs": 1.0,
        "per_device_train_batch_size": 16,
        "learning_rate": 1e-3,
    },
)
FAST = Extent(
    1,
    3,
    QUICK_ROWS,
    num_row_samples=8,
    targets=(),
    num_test_samples=16,
    num_tried=4,
    num_explained=1,
    stage1={**_FAST_TRAINING, "max_steps": 16},
    stage2={**_FAST_TRAINING, "max_steps": 4},
)
"""Everything runs, and nothing is learned: for a first look, and for tests."""
DEFAULT_FOLDER, FIGURES = "runs/demo", "figures.json"
FAST_NOTE = "It shows the machinery. Its figures mean nothing, for it hardly trains."


def main(argv: list[str] | None = None) -> int:
    """Run the demo; the exit code is 0 when every target is met."""
    args = parse_args(argv)
    extent = FAST if args.fast else FULL if args.full else QUICK
    start = time.time()
    quiet("timm", "safevlm_hf")
    transformers.logging.disable_progress_bar()  # weights are loaded in no time
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # unset, it would warn in every fork
    base, (folder, report) = find_base(args.family), find_places(args)
    sees_tiles = base != NANO_BASE
    drawn = {"varied_shapes": sees_tiles}
    duration = minutes(extent.tiled_minutes if sees_tiles else extent.minutes)
    say(f"Both stages on the embedded {args.family} base: about {duration} on two quiet cores.")
    if args.fast:
        say(FAST_NOTE)
    rows = (*extent.rows, *(SMALL_PRINT_ROWS if sees_tiles else ()))
    logs, stage1_model, compared = train_stages(extent, base, folder, args.seed)
    records = HeldOut().records(folder / "riskcards", extent.num_test_samples, args.seed, **drawn)
    models = {BASE: reload(base), STAGE1: stage1_model, BOTH_STAGES: reload(folder / "stage2")}
    items, answers = items_of(records), {name: answer(name, *model, records) for name, model in models.items()}
    control = show_control(*models[BOTH_STAGES], records, extent)
    say(f"\nWords, turns and prompts around the question, and changed pictures: {len(rows)} rows")
    results = DemoResults(
        items=items,
        answers=answers,
        categories=DEFAULT_CATEGORIES,
        levels=DEFAULT_LEVELS,
        targets=(*extent.targets, *(SMALL_PRINT_TARGETS if sees_tiles else ())),
        logs=logs,
        first_pooling=held_out_figures(items, give_verdicts(*compared[FIRST], records)),
        robustness=measure_rows(
            rows, models | compared, folder / "riskcards", extent.num_row_samples, args.seed, **drawn
        ),
        facts=facts(args, start),
        **control,
    )
    code = finish(folder, report, results, args.all)
    if args.fast:
        say(FAST_NOTE)
    return code


def train_stages(extent: Extent, base: Path, folder: Path, seed: int) -> tuple[dict, tuple, dict[str, tuple]]:
    """Train both stages, and then heads for comparison.

    Returns:
        Stage to its log, stage 1's model and processor, and column to those of each head for comparison.
    """
    sees_tiles = base != NANO_BASE
    drawn = {"varied_shapes": sees_tiles}
    stage1_options = extent.stage1 | {"model_name_or_path": str(base), **drawn}
    stage2_options = extent.stage2 | drawn
    if sees_tiles:
        stage1_options |= extent.tiled_stage1
        stage2_options |= extent.tiled_stage2
    configs = (write_config(1, folder, seed, **stage1_options), write_config(2, folder, seed, **stage2_options))
    say("\nStage 1: the safety modules")
    stage1 = run_stage1([configs[0]])
    stage1_model = reload(folder / "stage1")
    say("\nStage 2: the language model")
    stage2 = run_stage2([configs[1]])
    compared = {
        column: train_pooling(pooling, folder, seed, extent.pooling_epochs, stage1_options)
        for column, pooling in extent.poolings.items()
    }
    logs = {"stage 1": stage1.state.log_history, "stage 2": stage2.state.log_history}
    return logs, stage1_model, compared


def find_base(family: str) -> Path:
    base = NANO_BASES[family]
    if not base.is_dir():
        making = f"`python examples/train_nano_base.py --family {family} --output_dir {base}`"
        raise ValueError(f"the nano {family} is not part of this package yet; {making} makes it, in two hours")
    return base


def find_places(args: argparse.Namespace) -> tuple[Path, Path]:
    """Return the folder of the run and its report, where both can be written and no earlier result is lost."""
    folder = Path(args.output_dir or default_folder(args))
    report = Path(args.report or (folder / "report.html" if folder != Path(DEFAULT_FOLDER) else "report.html"))
    names = ["stage1", "stage2", *FULL.poolings.values()]
    for name in (FIGURES, "riskcards", *names, *(f"{name}.yaml" for name in names)):
        check_apart({"--report": report, "--output_dir": folder / name})
    check_writable(folder, is_folder=True)
    check_writable(report)
    if not args.overwrite_output_dir:
        refuse_to_overwrite(folder, "`--overwrite_output_dir` replaces it, another `--output_dir` keeps it")
        refuse_to_overwrite(report, "`--overwrite_output_dir` replaces it, another `--report` keeps it")
    return folder, report


def default_folder(args: argparse.Namespace) -> str:
    parts = [DEFAULT_FOLDER, *([args.family] if args.family != "llava" else []), *(["fast"] if args.fast else [])]
    return "_".join(parts)


def say(line: str):
    print(line, flush=True)


def minutes(number: int) -> str:
    return f"{number} minute{'s' * (number != 1)}"


def answer(name: str, model, processor, records, **options):
    say(f"\n{name}: {len(records)} held-out questions")
    return give_answers(model, processor, records, batch_size=32, **options)


def show_control(model, processor, records, extent: Extent) -> dict:
    """Show other policies on the first records, and why the head judged as it did."""
    tried = records[: extent.num_tried]
    say(f"\n{len(POLICIES)} other policies: {len(tried)} held-out questions each")
    risky = [record for record in tried if record["safety_level"] > 0]
    return {
        "trials": try_policies(model, processor, tried),
        "explanations": draw_explanations(model, processor, risky[: extent.num_explained]),
        "localisation": riskcards_localisation(model, processor, records, batch_size=32),
    }


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--family", choices=NANO_BASES, default="llava", help="whose nano base; default: llava")
    parser.add_argument("--output_dir", help="default: runs/demo, runs/demo_idefics3, and with --fast runs/demo_fast")
    parser.add_argument("--report", help="default: report.html, in output_dir unless that is runs/demo")
    parser.add_argument("--overwrite_output_dir", action="store_true", help="replace what an earlier demo has left")
    parser.add_argument("--all", action="store_true", help="print every figure, not the headline alone")
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--full", action="store_true", help="every row, with at least 200 questions of each kind")
    extent.add_argument("--fast", action="store_true", help="a minute: everything runs, and nothing is learned")
    return parser.parse_args(argv)


def write_config(stage: int, folder: Path, seed: int, **overrides) -> str:
    """Write the embedded default's YAML with this run's seed and folders, kept beside the results."""
    values = {"seed": seed, "output_dir": str(folder / f"stage{stage}"), "riskcards_dir": str(folder / "riskcards")}
    values["overwrite_output_dir"] = True  # `find_places` has refused what must not be replaced
    if stage == 2:
        values["model_name_or_path"] = str(folder / "stage1")
    values |= overrides
    return write_nano_config(stage, folder / f"{Path(values['output_dir']).name}.yaml", **values)


def reload(checkpoint: str | Path):
    """Load model and processor of a checkpoint, so that what is judged is what was saved."""
    return AutoModelForImageTextToText.from_pretrained(checkpoint), AutoProcessor.from_pretrained(checkpoint)


def train_pooling(pooling: str, folder: Path, seed: int, epochs: float, overrides: dict):
    """Train a head with another `head_pooling`, for comparison: shortly, on the same data, with the head's loss alone.

    "mean" reads all words at once, so that harmless ones thin out a risky one. "first" reads the first token, as
    published: that is always BOS, so both questions of a pair get one verdict, however long it trains."""
    set_seed(seed)
    say(f"\nFor comparison: a head with head_pooling={pooling!r}")
    options = {
        "output_dir": str(folder / pooling),
        "head_pooling": pooling,
        "num_train_epochs": epochs,
        "lm_loss_every": 0,
    }
    run_stage1([write_config(1, folder, seed, **overrides | options)])
    return reload(folder / pooling)


def facts(args: argparse.Namespace, start: float) -> dict[str, str]:
    options = [f"--{name}" for name in ("full", "fast") if getattr(args, name)]
    options += ["--family", args.family] if args.family != "llava" else []
    options += ["--seed", str(args.seed)] if args.seed else []
    command = shlex.join(["safevlm", "demo", *options]) if options else "make demo"
    return {
        "command": command,
        "seed": str(args.seed),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "minutes": f"{(time.time() - start) / 60:.1f}",
        "versions": f"python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}",
    }


def finish(folder: Path, report: str | Path, results: DemoResults, show_all: bool = False) -> int:
    """Write figures, card and report; print the headline, or all figures."""
    say("\nThe report")
    alone = {column: {**values, "num_samples": len(results.items)} for column, values in results.values.items()}
    rows = {
        result.row.name: {
            column: {name: asdict(figure) for name, figure in found.items()} for column, found in result.rates.items()
        }
        for result in results.robustness
    }
    figures = {**alone, "localisation": results.localisation, "rows": rows}
    write_text(folder / FIGURES, json.dumps(figures, indent=2) + "\n")
    model, processor = reload(folder / "stage2")
    record = model.config.training_record
    record["figures"] = {name: value for name, value in alone[BOTH_STAGES].items() if value is not None}
    record["eval_data"] = "RiskCards, held-out split"
    model.save_pretrained(folder / "stage2")
    write_model_card(folder / "stage2", model.config)
    write_report(report, results)
    print("\n" + (format_table if show_all else format_headline)(results))
    if results.targets:
        print(f"\n{results.targets_met.count(True)} of {len(results.targets)} targets are met")
    if not show_all:
        print(f"\nEvery figure stands in the report and in {folder / FIGURES}; `--all` prints it here.")
    print(f"\nreport: {report}   safe checkpoint: {folder / 'stage2'}")
    return 0 if all(results.targets_met) else 1
