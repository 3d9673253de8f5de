"""Trains variants of stage 1's head on the same pictures, shorter, and puts their verdicts side by side.

    python examples/real/measure_variants.py --seeds 0 1 2    # variants.json and variants.md; goes on after a stop

Each is run_stage1.py with stage1.yaml and what the table names, measured by measure_real.py without answers.
"""

import argparse
import json
import sys
from pathlib import Path

import measure_real
from measure_real import CLEAN_FLAGGED, RISKY_FLAGGED, cell
from real_base.weights import unpack_encoder
from run_real import HERE, Steps

from safevlm_hf.files import write_text
from safevlm_hf.training.run import run_stage1


_OF_LANGUAGE = {"sentence_encoder": None, "head_reading": "embeddings"}
VARIANTS = {
    "as it is": {},
    "without s(1) and s(2)": {"num_safety_tokens": 0},
    "without the sentence encoder": {"sentence_encoder": None},
    "without it, the windows learn": {"sentence_encoder": None, "word_reader_rate": 0.3},
    "the language model's vectors": _OF_LANGUAGE,
    "its vectors, `mean`": {**_OF_LANGUAGE, "head_pooling": "mean"},
    "its vectors, `first` (published)": {**_OF_LANGUAGE, "head_pooling": "first"},
    "clean share 0.2": {"clean_share": 0.2},
}
ROWS = (
    ("test", "all", "known sources"),
    ("unknown", "sources, each once", "unknown sources, each once"),
)


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output_dir", type=Path, default=Path("runs/real"), help="of data, base and features")
    parser.add_argument("--stage1", default=str(HERE / "stage1.yaml"), help="YAML file of stage 1")
    parser.add_argument("--max_steps", type=int, default=500, help="of each training")
    parser.add_argument("--max_pairs", type=int, default=1500, help="of each file that is judged")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    found: dict[str, list[dict]] = {name: [] for name in VARIANTS}
    for seed in args.seeds:
        for number, (name, changes) in enumerate(VARIANTS.items()):
            folder = args.output_dir / "variants" / f"seed{seed}" / str(number)
            run_variant(args, folder, seed, changes)
            found[name].append(json.loads((folder / "table.json").read_text()))
            write_table(args, {name: runs for name, runs in found.items() if runs})


def run_variant(args, folder: Path, seed: int, changes: dict):
    top, steps = args.output_dir, Steps(folder)
    options = {
        "seed": seed,
        "model_name_or_path": top / "base",
        "output_dir": folder / "stage1",
        "train_file": top / "scenes/train.jsonl",
        "validation_file": top / "scenes/validation.jsonl",
        "feature_cache_dir": top / "features",
        "overwrite_output_dir": "true",
        "max_steps": args.max_steps,
        "sentence_encoder": unpack_encoder(top / "weights", top / "encoder"),
        **changes,
    }
    words = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    steps.run("stage1", "examples/run_stage1.py", [args.stage1, *words], run_stage1)
    measured = {"folder": folder, "scenes": top / "scenes", "feature_cache_dir": top / "features", "num_answered": 0}
    measured |= {"max_pairs": args.max_pairs}
    words = [word for name, value in measured.items() for word in (f"--{name}", str(value))]
    steps.run("table", "examples/real/measure_real.py", words, measure_real.main)


def write_table(args, found: dict[str, list[dict]]):
    figures = {name: measure_real.pool(runs) for name, runs in found.items()}
    heads = [f"{title}: {what}" for _, _, title in ROWS for what in (RISKY_FLAGGED, CLEAN_FLAGGED)]
    lines = ["# Variants of the head", "", "| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name, pooled in figures.items():
        rows = [pooled["verdicts"][split][row] for split, row, _ in ROWS]
        cells = [cell(row.get(what)) for row in rows for what in (RISKY_FLAGGED, CLEAN_FLAGGED)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    folder = args.output_dir / "variants"
    write_text(folder / "variants.json", json.dumps(figures, indent=1) + "\n")
    write_text(folder / "variants.md", "\n".join([*lines, ""]))


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
