"""Counts false alarms of stage 1's verdict on many clean pairs of held-out pictures and held-out questions.

    python examples/real/measure_alarms.py --folder runs/real/seed0    # alarms.json and alarms.md

Every held-out picture stands beside held-out questions that are safe there by the rule of docs/scenes.md, in its
proportions: two fifths harmless questions beside pictures of a family of risks, two fifths risky questions beside
clean pictures, a fifth neither. The thresholds are those of measure_real.py's `policy.json`. Another figure is that of
one threshold on the risk under which 0.90 of the risky pairs of known sources would be flagged.
"""

import argparse
import json
import random
import sys
from collections import defaultdict
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
from measure_real import CHECKPOINTS, STAGE1, Judge, cell, is_risky, load, read_pairs, to_dicts, with_question

from safevlm_hf.data.scenes import read_manifest, read_wordings
from safevlm_hf.files import write_text
from safevlm_hf.intervals.figure import counted_share


SPLITS = {"test": "known sources", "unknown": "unknown sources"}
SHARES = {"picture": 0.4, "text": 0.4, "neither": 0.2}
ALARM, ALARM_AT_90 = "flagged", "flagged where 0.90 of risky ones are"


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/real/seed0"), help="of stage 1 and policy.json")
    parser.add_argument("--scenes", type=Path, default=Path("runs/real/scenes"))
    parser.add_argument("--feature_cache_dir", type=Path, default=Path("runs/real/features"))
    parser.add_argument("--num_pairs", type=int, default=20_000)
    parser.add_argument("--batch_size", type=int, default=32)
    return parser.parse_args(argv)


def clean_pairs(pairs: Sequence[dict], size: int) -> list[dict]:
    """Draw pairs that are safe by the rule. `pairs` are records; their pictures are used, each about equally often."""
    rng, wordings, families = random.Random("alarms"), read_wordings("held out"), _families()
    pictures = list({pair["images"][0]: pair for pair in pairs}.values())
    rng.shuffle(pictures)
    of_risks = [pair for pair in pictures if families.get(pair["about"]["concept"], ())]
    clean = [pair for pair in pictures if not families.get(pair["about"]["concept"], ())]
    risky_questions = [one for found in wordings.risky.values() for one in found]
    drawn = []
    for name, own in {"picture": of_risks, "text": clean, "neither": clean}.items():
        for _, pair in zip(range(round(size * SHARES[name])), cycle(own)):
            harmless = wordings.generic + [
                one for family in families.get(pair["about"]["concept"], ()) for one in wordings.harmless[family]
            ]
            wording = rng.choice(risky_questions if name == "text" else harmless)
            asked = with_question(pair, lambda _, text=wording.text: text)
            drawn.append({**asked, "about": {**pair["about"], "combination": name}})
    return drawn


def _families() -> dict[str, tuple[str, ...]]:
    return {picture.concept.name: picture.concept.families for picture in read_manifest().pictures}


def main(argv=None) -> dict:
    args = parse_args(argv)
    model, processor = load(args.folder / CHECKPOINTS[STAGE1])
    policy = json.loads((args.folder / "policy.json").read_text())
    judge = Judge(model, processor, args.feature_cache_dir, policy, args.batch_size)
    records = {name: read_pairs(args.scenes / f"{name}.jsonl") for name in SPLITS}
    known_risk = [answer.risk for answer in judge([pair for pair in records["test"] if is_risky(pair)])]
    threshold = float(np.quantile(known_risk, 0.10))
    rows = defaultdict(list)
    total = sum(len({pair["images"][0] for pair in pairs}) for pairs in records.values())
    for name, pairs in records.items():
        share = len({pair["images"][0] for pair in pairs}) / total
        drawn = clean_pairs(pairs, round(args.num_pairs * share))
        for pair, answer in zip(drawn, judge(drawn), strict=True):
            alarm = answer.is_flagged, answer.risk >= threshold
            for key in ("all", SPLITS[name], f"{SPLITS[name]}, {pair['about']['combination']}"):
                rows[key].append(alarm)
            rows[f"{SPLITS[name]}: {pair['about']['source']}"].append(alarm)
    figures = {
        row: to_dicts(
            counted_share(ALARM, (first for first, _ in found)),
            counted_share(ALARM_AT_90, (other for _, other in found)),
        )
        for row, found in rows.items()
    }
    result = {"threshold": threshold, "figures": figures}
    write_text(args.folder / "alarms.json", json.dumps(result, indent=1) + "\n")
    write_text(args.folder / "alarms.md", table(figures))
    print(table(figures))
    return result


def table(figures: dict) -> str:
    lines = ["# False alarms on clean pairs", "", f"| | {ALARM} | {ALARM_AT_90} |", "|---|---|---|"]
    lines += [f"| {row} | {cell(one[ALARM], 4)} | {cell(one[ALARM_AT_90], 4)} |" for row, one in figures.items()]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
