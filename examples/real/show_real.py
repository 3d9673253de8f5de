"""Draws what the verdict gets right and wrong on pictures that may be shown (class A): docs/images/real.png.

    python examples/real/show_real.py --folder runs/real/seed0 --output docs/images/real.png

Of each outcome four held-out pairs are drawn by chance, no two of them of one concept; portraits are left out. Printed
are the sources to be named beside the picture, with their licences.
"""

import argparse
import json
import random
import sys
import textwrap
from pathlib import Path

from matplotlib.figure import Figure
from measure_real import CHECKPOINTS, STAGE1, Judge, is_risky, load, read_pairs

from safevlm_hf.data.records import load_image
from safevlm_hf.data.scenes.manifest import read_manifest


COLUMNS = 4
OUTCOMES = {  # title to: is risky by the rule, is flagged
    "risky, and flagged": (True, True),
    "risky, and missed": (True, False),
    "safe, and not flagged": (False, False),
    "safe, and flagged": (False, True),
}
PORTRAITS = {"congress"}


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/real/seed0"), help="of stage 1 and policy.json")
    parser.add_argument("--scenes", type=Path, default=Path("runs/real/scenes"))
    parser.add_argument("--feature_cache_dir", type=Path, default=Path("runs/real/features"))
    parser.add_argument("--output", type=Path, default=Path("runs/real/seed0/shown.png"))
    return parser.parse_args(argv)


def main(argv=None) -> dict[str, int]:
    args = parse_args(argv)
    model, processor = load(args.folder / CHECKPOINTS[STAGE1])
    policy = json.loads((args.folder / "policy.json").read_text())
    pairs = [pair for split in ("test", "unknown") for pair in read_pairs(args.scenes / f"{split}.jsonl")]
    pairs = [pair for pair in pairs if pair["about"]["class"] == "A" and pair["about"]["source"] not in PORTRAITS]
    random.Random("shown").shuffle(pairs)
    answers = Judge(model, processor, args.feature_cache_dir, policy, 32)(pairs)
    figure = Figure(figsize=(3 * COLUMNS, 3.1 * len(OUTCOMES)), layout="constrained")
    shown = []
    for part, (title, outcome) in zip(figure.subfigures(len(OUTCOMES), 1), OUTCOMES.items()):
        part.suptitle(title, x=0.01, ha="left", weight="bold")
        found = [one for one in zip(pairs, answers) if (is_risky(one[0]), one[1].is_flagged) == outcome]
        shown += draw(part, of_different_concepts(found))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output, dpi=80)
    sources = read_manifest().sources
    for name in sorted({pair["about"]["source"] for pair, _ in shown} & sources.keys()):
        print(f"{name}: {sources[name].origin}, {sources[name].licence}")
    return {
        name: sum(outcome == (is_risky(pair), answer.is_flagged) for pair, answer in shown)
        for name, outcome in OUTCOMES.items()
    }


def of_different_concepts(found: list[tuple]) -> list[tuple]:
    first: dict[str, tuple] = {}
    for pair, answer in found:
        first.setdefault(pair["about"]["concept"], (pair, answer))
    return [*first.values()][:COLUMNS]


def draw(part, found: list[tuple]) -> list[tuple]:
    """Draw pairs with their verdicts side by side, and return them."""
    for axes, (pair, answer) in zip(part.subplots(1, COLUMNS), found):
        axes.imshow(load_image(pair["images"][0]))
        said = f"{answer.category}, {answer.level}" if answer.is_flagged else "not flagged"
        axes.set_title(textwrap.fill(pair["about"]["question"], 34), fontsize=9, parse_math=False)
        axes.set_xlabel(said, fontsize=9)
    for axes in part.axes:
        axes.set_xticks([])
        axes.set_yticks([])
    return found


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
