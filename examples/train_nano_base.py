"""Trains a nano base: a vision language model of stock transformers classes with under four million parameters, on
RiskCards.

It is the embedded stand-in for `llava-hf/llava-1.5-7b-hf`, and shows the premise of SafeVLM (arXiv 2405.13581): it
refuses a harmful request that comes as text, and answers the same request when it comes through the picture, whatever
is said around it and wherever the picture shows it.

    OMP_NUM_THREADS=1 python examples/train_nano_base.py --output_dir nano_base

makes the shipped weights (docs/design.md): from scratch, on one core of a CPU. With `--family idefics3` it makes a
second one, which sees pictures of any shape as tiles, and starts from the first.
"""

import argparse
import json
import multiprocessing
import time
from pathlib import Path

import torch
from nano_base import idefics3, llava
from nano_base.evaluation import evaluate
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from safevlm_hf.files import refuse_to_overwrite


FAMILIES = {"llava": llava, "idefics3": idefics3}


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--overwrite", action="store_true", help="replace what the folder holds")
    parser.add_argument("--family", choices=FAMILIES, default="llava")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_pictures", type=int, help="for the tower")
    parser.add_argument("--num_cards", type=int, help="pictures for the language model")
    parser.add_argument("--num_samples", type=int, help="conversations, questions and prose")
    parser.add_argument("--num_test_samples", type=int, default=400)
    parser.add_argument("--tower_steps", type=int)
    parser.add_argument("--ideal_steps", type=int, help="of the language model, on ideal pictures (llava)")
    parser.add_argument("--steps", type=int, help="of the language model, on the tower's features")
    parser.add_argument("--learning_rate", type=float, default=3e-3)
    parser.add_argument("--num_workers", type=int, default=multiprocessing.cpu_count())
    family = FAMILIES[parser.parse_known_args(argv)[0].family]
    parser.set_defaults(**family.DEFAULTS)
    args = parser.parse_args(argv)
    if args.num_workers < 1:
        parser.error(f"--num_workers must be at least 1, got {args.num_workers}")
    return args


def save(model, processor, output_dir: Path) -> None:
    """Weights in half precision, to be small; the configuration says that they are loaded in single precision."""
    model.half().save_pretrained(output_dir)
    processor.save_pretrained(output_dir)
    config = AutoConfig.from_pretrained(output_dir, architectures=[type(model).__name__])
    for part in (config, config.text_config, config.vision_config):
        part.dtype = torch.float32
    config.save_pretrained(output_dir)


def main(argv=None) -> dict:
    args = parse_args(argv)
    if not args.overwrite:
        refuse_to_overwrite(args.output_dir, "`--overwrite` replaces it, another `--output_dir` keeps it")
    start = time.time()
    torch.manual_seed(args.seed)
    save(*FAMILIES[args.family].train(args), args.output_dir)
    # What is judged is what was saved.
    model = AutoModelForImageTextToText.from_pretrained(args.output_dir).eval()
    processor = AutoProcessor.from_pretrained(args.output_dir)
    figures = evaluate(model, processor, args.num_test_samples, args.seed, FAMILIES[args.family].VARIED_SHAPES)
    size = sum(file.stat().st_size for file in args.output_dir.iterdir())
    figures |= {"megabytes": round(size / 1e6, 2), "minutes": round((time.time() - start) / 60)}
    print(json.dumps(figures, indent=2))
    return figures


if __name__ == "__main__":
    main()
