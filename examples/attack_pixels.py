"""Attacks a safe model through the pixels: its head, its language model, and both, by gradients of its own weights.

    python examples/attack_pixels.py --model runs/demo/stage2

Each attacker changes held-out RiskCards by at most epsilon. The pictures are then saved with 8 bits and asked about as
any others, and that is what counts. It writes one table (attack.md), every figure (attack.json) and a plot
(attack.png). docs/evaluation.md says how to read them, and what they do not cover.
"""

import argparse
import json
import platform
import sys
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedConfig

from safevlm_hf.checkpoints.families import find_family
from safevlm_hf.files import refuse_to_overwrite, write_text
from safevlm_hf.quiet import quiet
from safevlm_hf.studies.attacks.losses import attackers
from safevlm_hf.studies.attacks.measure import Attacks, draw_cards
from safevlm_hf.studies.attacks.pgd import UNBOUNDED, Budget
from safevlm_hf.studies.attacks.report import Report, markdown, plain
from safevlm_hf.version import __version__


LEAST_CARDS = 10
MORE_STEPS = 4
WRITTEN = TABLE, FIGURES, PLOT = "attack.md", "attack.json", "attack.png"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/demo/stage2", help="a trained safe checkpoint: folder or Hub id")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/attack"))
    parser.add_argument("--size", type=int, default=50, help="risky cards, and as many clean ones")
    parser.add_argument(
        "--epsilons",
        nargs="+",
        type=parse_epsilon,
        default=[epsilon / 255 for epsilon in (2, 4, 8, 16, 32)] + [UNBOUNDED],
        metavar="EPSILON",
        help="largest change of a pixel, in 255ths, or 'unbounded' (2 4 8 16 32 unbounded)",
    )
    parser.add_argument("--steps", type=int, default=100, help="steps of the gradient")
    parser.add_argument("--restarts", type=int, default=1, help="attacks on each picture, from other starts")
    parser.add_argument("--risk_weight", type=float, default=1.0, help="the head's part in the loss of A3")
    parser.add_argument(
        "--more_steps_at",
        nargs="*",
        type=parse_epsilon,
        default=[],
        metavar="EPSILON",
        help=f"epsilons that are attacked once more with {MORE_STEPS} times the steps, which must not help less",
    )
    parser.add_argument("--batch_size", type=int, default=25, help="pictures that are attacked at once")
    parser.add_argument("--seed", type=int, default=0, help="of the cards and of the noise")
    parser.add_argument("--overwrite", action="store_true", help="replace the result of an earlier run")
    args = parser.parse_args(argv)
    if args.size < LEAST_CARDS:
        parser.error(f"--size is {args.size}: a share of fewer than {LEAST_CARDS} cards says nothing")
    for name in ("steps", "restarts", "batch_size"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if not args.risk_weight > 0:
        parser.error("--risk_weight must be more than 0: an attack without it ignores the head")
    if not {*args.more_steps_at} <= {*args.epsilons}:
        parser.error("--more_steps_at must name some of --epsilons, which it is compared with")
    return args


def parse_epsilon(text: str) -> float:
    if text == "unbounded":
        return UNBOUNDED
    try:
        return Budget(float(text) / 255).epsilon
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text} is no epsilon: a number of 255ths, over 0 and up to 255, or 'unbounded'"
        ) from None


def load(checkpoint: str):
    """Model, in float32, and processor of a trained safe checkpoint."""
    if not Path(checkpoint).is_dir() and (checkpoint.count("/") > 1 or checkpoint.startswith((".", "/", "~"))):
        raise ValueError(f"there is no checkpoint {checkpoint} (`safevlm demo` makes runs/demo/stage2)")
    if "safety_config" not in PreTrainedConfig.get_config_dict(checkpoint)[0]:
        raise ValueError(f"{checkpoint} is no safe checkpoint: it has no safety head to attack")
    family = find_family(checkpoint)
    if not family.config.from_pretrained(checkpoint).safety_config.is_trained:
        raise ValueError(f"{checkpoint} has an untrained safety head: there is nothing to attack before stage 1")
    # A rounded gradient points elsewhere: low precision would look like robustness.
    model = family.model.from_pretrained(checkpoint, dtype=torch.float32, device_map=DEVICE)
    return model.eval(), family.processor.from_pretrained(checkpoint)


def run(args) -> Report:
    for name in () if args.overwrite else WRITTEN:
        refuse_to_overwrite(args.output_dir / name, "`--overwrite` replaces it, another `--output_dir` keeps it")
    model, processor = load(args.model)
    risky, clean = draw_cards(args.output_dir / "data", args.size, args.seed)
    attacks = Attacks(model, processor, risky, clean, args.restarts, args.batch_size, args.seed)
    everyone = attackers(args.risk_weight)
    untouched = [(one, 0.0, 0) for one in everyone if one.losses is None]
    plan = [(one, epsilon, args.steps) for one in everyone for epsilon in args.epsilons]
    more = [
        (one, epsilon, MORE_STEPS * args.steps)
        for one in everyone
        for epsilon in args.more_steps_at
        if one.losses is not None
    ]
    print(
        f"{len(risky)} risky and {len(clean)} clean cards under {len(plan) + len(more)} attacks. With the defaults it "
        "takes about seven minutes on one thread.",
        flush=True,
    )
    rows = attacks.measure([*untouched, *plan, *more], progress=sys.stderr.isatty())
    return Report(everyone, rows[: len(rows) - len(more)], rows[len(rows) - len(more) :])


def settings(args) -> dict:
    """What was run, and with what."""
    versions = {
        "safevlm_hf": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
    given = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    return {**given, "dtype": "float32", "device": DEVICE, "machine": platform.machine(), "versions": versions}


def main(argv=None) -> Report:
    args = parse_args(argv)
    quiet("safevlm_hf", "timm")
    try:
        report = run(args)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    text = f"{markdown(report.table())}\n\n" + "".join(f"- {note}\n" for note in report.notes())
    write_text(args.output_dir / TABLE, text)
    write_text(args.output_dir / FIGURES, json.dumps(report.as_json(settings(args)), indent=2) + "\n")
    report.plot(args.output_dir / PLOT)
    print(plain(report.table(intervals=False)), *report.notes(), sep="\n")
    print(f"with intervals: {args.output_dir / TABLE}   plot: {args.output_dir / PLOT}")
    return report


if __name__ == "__main__":
    main()
