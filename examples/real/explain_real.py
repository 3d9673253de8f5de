"""Draws what stage 1's verdicts rest on: for each category, twenty risky held-out pairs that it flags, with maps.

    python examples/real/explain_real.py --folder runs/real/seed0    # explained/CATEGORY.png, to be looked at

The drawings show pictures of class B, too (docs/scenes.md): they are for your own eyes, unless `--shippable` leaves
only class A. Printed is, of each category, which part of the margin over "safe" comes from the picture's positions one
by one, from what they show together, from the safety tokens, and from what no picture changes.
"""

import argparse
import json
import random
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from measure_real import CHECKPOINTS, STAGE1, is_risky, load, read_pairs

from safevlm_hf.asking import encode
from safevlm_hf.data.records import load_image, place_images
from safevlm_hf.modeling.configuration_safety import DEFAULT_CATEGORIES
from safevlm_hf.progress import Progress
from safevlm_hf.reports.plot_verdict import HEAT


COLUMNS, ROWS = 5, 4


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/real/seed0"), help="of stage 1 and policy.json")
    parser.add_argument("--scenes", type=Path, default=Path("runs/real/scenes"))
    parser.add_argument("--split", default="test", help="file of the pairs")
    parser.add_argument("--shippable", action="store_true", help="pictures of class A alone")
    return parser.parse_args(argv)


def main(argv=None) -> dict[str, list[float]]:
    args = parse_args(argv)
    model, processor = load(args.folder / CHECKPOINTS[STAGE1])
    policy = json.loads((args.folder / "policy.json").read_text())
    folder = args.folder / "explained"
    folder.mkdir(exist_ok=True)
    pairs = [pair for pair in read_pairs(args.scenes / f"{args.split}.jsonl") if is_risky(pair)]
    if args.shippable:
        pairs = [pair for pair in pairs if pair["about"]["class"] == "A"]
    random.Random("explained").shuffle(pairs)
    parts = {}
    for number, category in enumerate(DEFAULT_CATEGORIES):
        own = [pair for pair in pairs if pair["safety_category"] == number]
        found = explain_flagged(model, processor, own, policy, category)
        if found:
            name = category.replace(" ", "_")
            draw(found, f"{category}, {args.split}").savefig(folder / f"{name}_{args.split}.png", dpi=70)
            parts[category] = np.mean([margin_parts(explanation) for _, explanation in found], axis=0).tolist()
    print("share of the margin: positions, positions together, safety tokens, neither")
    for category, shares in parts.items():
        print(f"{category:22}" + "".join(f"{share:8.2f}" for share in shares))
    return parts


@torch.inference_mode()
def explain_flagged(model, processor, pairs: Sequence[dict], policy: dict, title: str) -> list[tuple]:
    """Return up to `COLUMNS * ROWS` pairs that are flagged, with their explanations."""
    found = []
    with Progress(min(len(pairs), COLUMNS * ROWS), title, "verdict") as bar:
        for pair in pairs:
            if len(found) == COLUMNS * ROWS:
                break
            inputs = encode(processor, [place_images(pair["messages"][:1], pair["images"], load_image)])
            explanation = model.explain(**inputs, safety_policy=policy)
            if processor.post_process_safety(explanation)[0].flagged_categories:
                found.append((pair, explanation))
                bar.update(1)
    return found


def margin_parts(explanation) -> list[float]:
    """Return the parts of the sum of a margin's positive and negative parts, each by its size."""
    parts = [
        explanation.image_contributions[0].sum(),
        explanation.together_contributions[0],
        explanation.safety_token_contributions[0],
        explanation.bias_contributions[0],
    ]
    total = sum(abs(float(part)) for part in parts) or 1.0
    return [float(part) / total for part in parts]


def draw(found: Sequence[tuple], title: str) -> Figure:
    figure = Figure(figsize=(3 * COLUMNS, 3.4 * ROWS), layout="constrained")
    figure.suptitle(title)
    for axes, (pair, explanation) in zip(figure.subplots(ROWS, COLUMNS).flat, found):
        picture = np.asarray(load_image(pair["images"][0]).convert("L"))
        axes.imshow(picture, cmap="gray", alpha=0.8)
        edges = (-0.5, picture.shape[1] - 0.5, picture.shape[0] - 0.5, -0.5)
        axes.imshow(explanation.map[0].float().numpy(), cmap=HEAT, vmin=0, interpolation="bilinear", extent=edges)
        text = textwrap.fill(f"{pair['about']['concept']}: {pair['about']['question']}", 42)
        axes.set_title(text, fontsize=7, parse_math=False)
    for axes in figure.axes:
        axes.set_axis_off()
    return figure


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
