"""RiskCards on disk: JSON lines with pictures beside them.

The records are `<split>.jsonl`; surroundings and a change that are asked for stand in the name
(`test-words-4-turned-0.5.jsonl`), so that parts of a split share a folder. Several processes may write the same at
once: every file appears under its name only when it is complete.
"""

import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import PIL
from tqdm.auto import tqdm

from ...files import write_text
from .sampling import RiskCard, draw_riskcards
from .text_only import TextSample, first_messages


GENERATOR_VERSION = 24
"""It rises with every change of what is drawn or asked: what lies on disk was made by one version."""
MANY = 1000
"""So many cards take a while to draw; where there is no bar, as in a log file, a line says so."""
NOT_EXTRA = (
    "images",
    "messages",
    "answer",
    "safety_category",
    "safety_level",
    "image_categories",
    "image_levels",
)
"""Fields of a card that stand elsewhere in its record."""


def write_riskcards(
    output_dir: str | Path,
    split: str,
    num_samples: int,
    seed: int = 0,
    clean_share: float = 0.5,
    answer: str = "answer",
    new_category: bool = False,
    surroundings: str | None = None,
    change: str | None = None,
    strength: float = 1.0,
    varied_shapes: bool = False,
    num_text_only: int = 0,
) -> Path:
    """Write records and their pictures (JPEG), and return the path of the former.

    What is there already is reused if it was made with the same arguments by the same code, and replaced if
    `<split>.json` beside it says that it was made with others.

    Args:
        answer: which answer the conversations hold: `"answer"` (the safe one) or `"complying_answer"`.
        clean_share, new_category, surroundings, change, strength, varied_shapes: as in [`draw_riskcards`].
        num_text_only: further records, without a picture: [`first_messages`].

    Raises:
        ValueError: records of somebody else lie there.
    """
    output_dir = Path(output_dir)
    options = {"seed": seed, "clean_share": clean_share, "new_category": new_category, "surroundings": surroundings}
    options |= {"change": change, "strength": strength, "varied_shapes": varied_shapes}
    cards = draw_riskcards(split, num_samples, **options)
    parameters = {"split": split, "num_samples": num_samples, "answer": answer, **options}
    # Beside the arguments, the generator and Pillow decide the bytes on disk.
    parameters |= {"num_text_only": num_text_only, "generator": GENERATOR_VERSION, "pillow": PIL.__version__}
    key = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:12]
    name = "-".join([split, *filter(None, [surroundings]), *([] if change is None else [change, f"{strength:g}"])])
    records, made_with = output_dir / f"{name}.jsonl", output_dir / f"{name}.json"
    images = output_dir / f"{name}-{key}"
    if records.is_file() and images.is_dir() and _read_parameters(made_with) == parameters:
        return records
    if not images.is_dir():  # or a call with the same arguments is about to write its records, or was killed there
        _refuse_foreign(records, made_with, split)
    lines = _write_pictures(cards, num_samples, images, name, answer)
    text = "".join((*lines, *map(_text_record, first_messages(num_text_only, seed))))
    _refuse_foreign(records, made_with, split, text)
    write_text(records, text)
    write_text(made_with, json.dumps(parameters, indent=2) + "\n")
    return records


def _refuse_foreign(records: Path, made_with: Path, split: str, text: str | None = None):
    """Raise `ValueError` where a file would be replaced that is not made here; records with this text are ours."""
    parameters = _read_parameters(made_with)
    if parameters.get("split") == split and {"num_samples", "answer", "generator"} <= set(parameters):
        return
    is_same = text is not None and records.is_file() and records.read_bytes() == text.encode()
    for file in [made_with] if is_same else [records, made_with]:
        if file.exists():
            raise ValueError(
                f"{file} is there, and {made_with} does not say that it was drawn here: RiskCards would replace it. "
                "Move it away, or draw into another folder."
            )


def _read_parameters(made_with: Path) -> dict:
    """Return what the records were made with; nothing where the file is none of ours."""
    try:
        parameters = json.loads(made_with.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return parameters if isinstance(parameters, dict) else {}


def _write_pictures(cards: Iterator[RiskCard], num_cards: int, images: Path, name: str, answer: str) -> list[str]:
    """Draw the cards called `name` into a new folder, and return the records' lines."""
    images.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=images.parent))
    try:
        if num_cards >= MANY and not sys.stderr.isatty():
            print(f"drawing {num_cards} cards into {images}", file=sys.stderr, flush=True)
        shown = tqdm(cards, f"drawing {name}", num_cards, unit="card", disable=None, leave=False)
        lines = _save_pictures(shown, temporary, images.name, answer)
        # A folder of `mkdtemp` is its owner's alone.
        temporary.chmod(0o755)
        try:
            temporary.rename(images)
        except OSError:
            # The name says what is inside: another process made the same folder first, and ours is not needed.
            if not images.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return lines


def _save_pictures(cards: Iterable[RiskCard], folder: Path, name: str, answer: str) -> list[str]:
    """Save the pictures in the folder, and return the records' lines, which call the folder `name`."""
    lines, last_files, last_images = [], [], []
    for index, card in enumerate(cards):
        files = []
        for place, image in enumerate(card.images):
            shared = [file for file, other in zip(last_files, last_images) if other is image]
            if not shared:  # further questions about a picture share its file
                image.save(folder / f"{index:06d}-{place}.jpg", quality=90)
            files.append(shared[0] if shared else f"{index:06d}-{place}.jpg")
        last_files, last_images = files, card.images
        record = _record(card, [f"{name}/{file}" for file in files], getattr(card, answer))
        lines.append(json.dumps(record) + "\n")
    return lines


def _record(card: RiskCard, images: list[str], answer: str) -> dict:
    """Make the sample a record (see `data/records.py`), followed by what only RiskCards know."""
    extra = {key: value for key, value in vars(card).items() if key not in NOT_EXTRA}
    if len(card.messages) == 1 and len(images) == 1:
        # The form of arXiv 2405.13581 has one user turn and one image.
        text = card.messages[0]["content"][-1]["text"]
        return {
            "image": images[0],
            "safe_type": card.safety_category,
            "safe_level": card.safety_level,
            "conversations": [{"from": "USER", "value": f"<image>\n{text}"}, {"from": "ASSISTANT", "value": answer}],
            **extra,
        }
    return {
        "images": images,
        "safety_category": card.image_categories,
        "safety_level": card.image_levels,
        "messages": [*card.messages, {"role": "assistant", "content": answer}],
        **extra,
    }


def _text_record(sample: TextSample) -> str:
    turns = (("user", sample.question), ("assistant", sample.answer))
    return json.dumps({"images": [], "messages": [{"role": role, "content": text} for role, text in turns]}) + "\n"
