"""The main job on the embedded default: both stages on the nano base and RiskCards, then base against safe model.

python -m safevlm_hf.demo [--seed 0] [--output_dir runs/demo] [--report report.html]
"""

import argparse
import json
import logging
import os
import platform
import sys
import time
from pathlib import Path

import torch
import transformers
import yaml
from transformers import LlavaForConditionalGeneration, LlavaProcessor, set_seed

from . import SafeLlavaForConditionalGeneration, SafeLlavaProcessor
from .data import NANO_BASE
from .data.records import load_records
from .data.riskcards import write_riskcards
from .evaluation.answering import answer_records, held_out_figures
from .evaluation.control import POLICIES, draw_explanations, try_policies
from .evaluation.localisation import riskcards_localisation
from .evaluation.report import DemoResults, format_table, write_report
from .evaluation.targets import BASE, SAFE, STAGE1
from .modeling.configuration_safe_llava import DEFAULT_CATEGORIES, DEFAULT_LEVELS
from .modeling.model_card import write_model_card
from .training.arguments import nano_config
from .training.run import run_stage1, run_stage2


NUM_TRIED, NUM_EXPLAINED = 200, 4


def main(argv: list[str] | None = None) -> int:
    """Run the demo; the exit code is 0 when every target is met."""
    args = parse_args(argv)
    start = time.time()
    quiet()
    folder = Path(args.output_dir)
    stage1 = run_stage1([write_config(1, folder, args.seed)])
    stage1_model = reload(folder / "stage1")
    stage2 = run_stage2([write_config(2, folder, args.seed)])
    first = train_first_pooling(folder, args.seed)

    records_file = write_riskcards(folder / "riskcards", "test", args.num_test_samples, args.seed)
    records = load_records(records_file, DEFAULT_CATEGORIES, DEFAULT_LEVELS)
    base = LlavaForConditionalGeneration.from_pretrained(NANO_BASE), LlavaProcessor.from_pretrained(NANO_BASE)
    models = {BASE: base, STAGE1: stage1_model, SAFE: reload(folder / "stage2")}
    predictions = {name: answer(name, *model, records) for name, model in models.items()}
    figures = {name: held_out_figures(found) for name, found in predictions.items()}
    control = show_control(*models[SAFE], records)
    figures[SAFE]["map_ratio"] = control["localisation"]["pictogram_region"]["mass_ratio"]
    results = DemoResults(
        base_predictions=predictions[BASE],
        stage1_predictions=predictions[STAGE1],
        safe_predictions=predictions[SAFE],
        figures=figures,
        categories=DEFAULT_CATEGORIES,
        levels=DEFAULT_LEVELS,
        logs={"stage 1": stage1.state.log_history, "stage 2": stage2.state.log_history},
        first_pooling=held_out_figures(answer("first pooling", *first, records, max_new_tokens=1)),
        facts=facts(args, start),
        **control,
    )
    return finish(folder, args.report, results)


def answer(name: str, model, processor, records, **options):
    print(f"\n{name}: {len(records)} held-out questions", flush=True)
    return answer_records(model, processor, records, batch_size=32, **options)


def show_control(model, processor, records) -> dict:
    """Other policies on the first records, and why the head judged as it did."""
    print(f"\n{len(POLICIES)} other policies: {NUM_TRIED} held-out questions each", flush=True)
    tried = records.select(range(min(NUM_TRIED, len(records))))
    risky = [record for record in tried if record["safety_level"] > 0]
    return {
        "trials": try_policies(model, processor, tried),
        "explanations": draw_explanations(model, processor, risky[:NUM_EXPLAINED]),
        "localisation": riskcards_localisation(model, processor, records, batch_size=32),
    }


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output_dir", default="runs/demo")
    parser.add_argument("--report", default="report.html")
    parser.add_argument("--num_test_samples", type=int, default=400)
    return parser.parse_args(argv)


def quiet():
    """The demo shows progress and results; the library's notes stay out of them."""
    transformers.logging.set_verbosity_error()
    logging.getLogger("timm").setLevel(logging.ERROR)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def write_config(stage: int, folder: Path, seed: int, **overrides) -> str:
    """The embedded default's YAML with this run's seed and folders, kept beside the results."""
    values = yaml.safe_load(nano_config(stage).read_text())
    values |= {"seed": seed, "output_dir": str(folder / f"stage{stage}"), "riskcards_dir": str(folder / "riskcards")}
    if stage == 2:
        values["model_name_or_path"] = str(folder / "stage1")
    values |= overrides
    path = folder / f"{Path(values['output_dir']).name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return str(path)


def reload(checkpoint: Path):
    """What is judged is what was saved."""
    return SafeLlavaForConditionalGeneration.from_pretrained(checkpoint), SafeLlavaProcessor.from_pretrained(
        checkpoint
    )


def train_first_pooling(folder: Path, seed: int):
    """A head that reads the first token alone, as published: that is always BOS, so both questions of a pair get one
    verdict, however long it trains. Half an epoch of the same data, head's loss alone."""
    set_seed(seed)
    config = write_config(
        1,
        folder,
        seed,
        output_dir=str(folder / "first"),
        head_pooling="first",
        eval_strategy="no",
        num_train_epochs=0.5,
        lm_loss_every=0,
    )
    run_stage1([config])
    return reload(folder / "first")


def facts(args: argparse.Namespace, start: float) -> dict[str, str]:
    command = "make demo" if args.seed == 0 else f"python -m safevlm_hf.demo --seed {args.seed}"
    return {
        "command": command,
        "seed": str(args.seed),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "minutes": f"{(time.time() - start) / 60:.1f}",
        "versions": f"python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}",
    }


def finish(folder: Path, report: str, results: DemoResults) -> int:
    """Write figures, card and report; print the table."""
    figures = {**results.figures, "localisation": results.localisation}
    (folder / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    model, processor = reload(folder / "stage2")
    record = model.config.training_record
    record["figures"] = {name: value for name, value in results.figures[SAFE].items() if value is not None}
    record["eval_data"] = "RiskCards, held-out split"
    model.save_pretrained(folder / "stage2")
    write_model_card(folder / "stage2", model.config)
    write_report(report, results)
    print("\n" + format_table(results))
    print(f"\nreport: {report}   safe checkpoint: {folder / 'stage2'}")
    return 0 if all(target.is_met(results.figures) for target in results.targets) else 1


if __name__ == "__main__":
    sys.exit(main())
