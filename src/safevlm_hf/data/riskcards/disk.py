"""RiskCards on disk: JSON lines in the published form, and pictures beside them."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import PIL

from .sampling import RiskCard, draw_riskcards


# On disk
# --------------------------------------------------------------------------------------------------


GENERATOR_VERSION = 1
"""Raised with every change of what is drawn or asked: what lies on disk was made by one version."""


def _parameters(split: str, num_samples: int, seed: int, clean_share: float) -> dict:
    """What decides the bytes on disk: the arguments, the generator, and Pillow."""
    return {
        "split": split,
        "num_samples": num_samples,
        "seed": seed,
        "clean_share": clean_share,
        "generator": GENERATOR_VERSION,
        "pillow": PIL.__version__,
    }


def _record(card: RiskCard, image: str) -> dict:
    """The sample in the published form (arXiv 2405.13581), followed by what only RiskCards know."""
    extra = {key: value for key, value in vars(card).items() if key not in ("image", "question", "answer")}
    return {
        "image": image,
        "safe_type": extra.pop("safety_category"),
        "safe_level": extra.pop("safety_level"),
        "conversations": [
            {"from": "USER", "value": f"<image>\n{card.question}"},
            {"from": "ASSISTANT", "value": card.answer},
        ],
        **extra,
    }


def write_riskcards(
    output_dir: str | Path,
    split: str,
    num_samples: int,
    seed: int = 0,
    clean_share: float = 0.5,
    answer: str = "answer",
    new_category: bool = False,
) -> Path:
    """Writes `<split>.jsonl` and its pictures (JPEG, 336 x 336), and returns the path of the former.

    What is there already is reused if it was made with the same arguments by the same code. Several processes may call
    this at once: every file appears under its name only when it is complete.

    Args:
        answer: which answer the conversations hold: `"answer"` (the safe one) or `"complying_answer"`.
        new_category: as in [`draw_riskcards`].
    """
    output_dir = Path(output_dir)
    parameters = {**_parameters(split, num_samples, seed, clean_share), "answer": answer, "new": new_category}
    key = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:12]
    records, made_with = output_dir / f"{split}.jsonl", output_dir / f"{split}.json"
    images = output_dir / f"{split}-{key}"
    if _is_complete(records, images, made_with, parameters):
        return records

    cards = draw_riskcards(split, num_samples, seed, clean_share, new_category)
    output_dir.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{split}-", dir=output_dir))
    try:
        lines = _write_pictures(cards, temporary, images.name, answer)
        temporary.chmod(0o755)
        _move_folder(temporary, images)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _write_atomically(records, "".join(lines))
    _write_atomically(made_with, json.dumps(parameters, indent=2) + "\n")
    return records


def _is_complete(records: Path, images: Path, made_with: Path, parameters: dict) -> bool:
    if not (records.is_file() and images.is_dir() and made_with.is_file()):
        return False
    return json.loads(made_with.read_text()) == parameters


def _write_pictures(cards: Iterator[RiskCard], folder: Path, name: str, answer: str) -> list[str]:
    """Saves the pictures in the folder and returns the records' lines, which call the folder `name`."""
    lines, last, file = [], None, ""
    for index, card in enumerate(cards):
        if card.image is not last:  # the second question of a pair shares its picture
            file, last = f"{index:06d}.jpg", card.image
            card.image.save(folder / file, quality=90)
        card = replace(card, answer=getattr(card, answer))
        lines.append(json.dumps(_record(card, f"{name}/{file}")) + "\n")
    return lines


def _move_folder(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError:
        # The name says what is inside: another process made the same folder first, and ours is not needed.
        if not target.is_dir():
            raise


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)
