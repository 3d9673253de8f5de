"""Records become short conversations about a picture.

What is learned stands in files of records (docs/data.md): more of them about a picture are learned together. A record
may say more, as those of `safevlm data scenes` do: what its picture shows ("revolver") and how one says it ("a
revolver"), which form it has, and what a model answers that sees no danger.

    {"image": "a.jpg", "concept": "revolver", "phrase": "a revolver", "looks": "photograph",
     "complying_answer": "It is a revolver.", "safe_type": 6, "safe_level": 0, "conversations": [...]}

A base is no safe model, so it learns the complying answer. Risky records without one are left out. From the concept
questions are made besides.
"""

import hashlib
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from safevlm_hf.data.records import read_records
from safevlm_hf.modeling.configuration_safety import DEFAULT_CATEGORIES, DEFAULT_LEVELS


PICTURE_ENDINGS = {".jpg", ".jpeg", ".png"}
NAMING = "What is this?"
NAMING_QUESTIONS = (
    NAMING,
    "What does the picture show?",
    "What can you see here?",
    "Describe the picture in a few words.",
    "Name what is shown.",
    "What am I looking at?",
    "Give this picture a caption.",
)
NO_KINDS = {"BACKGROUND_Google"}  # of folders: Caltech's pictures of anything


@dataclass
class Picture:
    """A picture with what is asked about it.

    Args:
        reference: see `safevlm_hf.data.records.load_image`.
        kind, phrase, looks: what it shows, how one says it, and in which form; "" where nobody says so.
        conversations: of records, messages without the picture's place in them.
    """

    reference: str
    kind: str = ""
    phrase: str = ""
    looks: str = ""
    conversations: list[list[dict]] = field(default_factory=list)

    def __post_init__(self):
        if self.kind and not self.phrase:
            self.phrase = with_article(self.kind)


def read_pictures(files: list[Path], folders: list[Path]) -> tuple[list[Picture], list[str]]:
    """Return the pictures of files of records and of folders with a folder for each kind, and what is wrong with
    others, as "file:line: reason"."""
    pictures: dict[str, Picture] = {}
    problems: list[str] = []
    for path in files:
        records, bad = read_records(path, DEFAULT_CATEGORIES, DEFAULT_LEVELS)
        problems += bad
        for record in records:
            _add_record(pictures, record)
    for root in folders:
        for path in sorted(root.glob("*/*")):
            if path.suffix.lower() in PICTURE_ENDINGS and path.parent.name not in NO_KINDS:
                kind = path.parent.name.replace("_", " ").lower()
                pictures.setdefault(str(path.absolute()), Picture(str(path.absolute()), kind, looks="photograph"))
    return list(pictures.values()), problems


def _add_record(pictures: dict[str, Picture], record: dict):
    """Add what a record asks to its picture. Records with several pictures, or none, are left out."""
    if len(record["images"]) != 1:
        return
    (reference,) = record["images"]
    extra = {name: str(value) for name, value in json.loads(record["extra"]).items()}
    said = [extra.get(name, "") for name in ("concept", "phrase", "looks")]
    picture = pictures.setdefault(reference, Picture(reference, *said))
    turns = [
        {**message, "content": [part for part in message["content"] if part["type"] == "text"]}
        for message in record["messages"]
    ]
    if turns[-1]["role"] != "assistant":
        return
    if "complying_answer" in extra:
        turns[-1] = {"role": "assistant", "content": [{"type": "text", "text": extra["complying_answer"]}]}
    elif record["safety_level"] != 0:
        return
    picture.conversations.append(turns)


def split(
    pictures: list[Picture], keys: dict[str, str], num_held_out: int, min_trained: int
) -> tuple[list[Picture], list[Picture]]:
    """Return pictures to train on, and held-out ones of kinds of which `min_trained` others are trained.

    Which ones depends on the bytes of a picture alone, so that more data leave most where they are, and a copy of a
    picture lies on the same side. `keys` are the digests of the files.
    """
    copies: dict[str, list[Picture]] = {}
    for picture in pictures:
        copies.setdefault(keys[picture.reference], []).append(picture)
    left = Counter(picture.kind for picture in pictures)
    held_out: dict[str, Picture] = {}
    for key in sorted(copies, key=lambda key: hashlib.sha256(f"held out {key}".encode()).digest()):
        kinds = Counter(picture.kind for picture in copies[key])
        is_trained = all(kind and left[kind] - kinds[kind] >= min_trained for kind in kinds)
        if len(held_out) < num_held_out and is_trained:
            held_out[key] = copies[key][0]
            left -= kinds
    trained = [picture for key, same in copies.items() if key not in held_out for picture in same]
    return trained, [*held_out.values()]


def of_trained_kinds(
    pictures: list[Picture], trained: list[Picture], keys: dict[str, str], num_held_out: int, min_trained: int
) -> list[Picture]:
    """Return pictures of other files, drawn by their bytes, of kinds of which `min_trained` are trained, without those
    that are trained themselves."""
    count, known = Counter(picture.kind for picture in trained), {keys[picture.reference] for picture in trained}
    fitting = {
        keys[picture.reference]: picture
        for picture in pictures
        if picture.kind and count[picture.kind] >= min_trained and keys[picture.reference] not in known
    }
    ordered = sorted(fitting, key=lambda key: hashlib.sha256(f"held out {key}".encode()).digest())
    return [fitting[key] for key in ordered[:num_held_out]]


def conversations(picture: Picture, phrases: list[str], told: dict[str, list[tuple[str, str]]], rng: random.Random):
    """Draw what is asked about a picture this time: its name, something about it, and one of its records.

    Args:
        phrases: of all kinds; others than its own are asked for, too.
        told: kind to questions with what the language model says about it by itself.
    """
    drawn = []
    if picture.kind:
        drawn.append((_naming_question(rng), caption(picture)))
        drawn.append(_about(picture, phrases, told.get(picture.kind, []), rng))
    chosen = [_turns(question, answer) for question, answer in drawn]
    if picture.conversations:
        chosen.append(rng.choice(picture.conversations))
    return chosen


def _naming_question(rng: random.Random) -> str:
    return NAMING if rng.random() < 0.4 else rng.choice(NAMING_QUESTIONS)


def caption(picture: Picture) -> str:
    """Return as "A photograph of a revolver." """
    looks = with_article(picture.looks or "picture")
    return f"{looks[0].upper()}{looks[1:]} of {picture.phrase}."


def with_article(name: str) -> str:
    if name.endswith("s") and not name.endswith("ss"):
        return name
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _about(picture: Picture, phrases: list[str], told: list[tuple[str, str]], rng: random.Random) -> tuple[str, str]:
    drawn = rng.random()
    if told and drawn < 0.4:
        return rng.choice(told)
    if picture.looks and drawn < 0.5:
        return "Is this a photograph or a drawing?", f"It is {with_article(picture.looks)}."
    other = rng.choice(phrases)
    if drawn < 0.75 or other == picture.phrase:
        return f"Is this {picture.phrase}?", f"Yes, it is {picture.phrase}."
    return f"Is this {other}?", f"No, it is {picture.phrase}."


def _turns(question: str, answer: str) -> list[dict]:
    return [
        {"role": role, "content": [{"type": "text", "text": text}]}
        for role, text in (("user", question), ("assistant", answer))
    ]
