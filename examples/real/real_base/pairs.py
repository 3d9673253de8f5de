"""Records become short conversations about a picture.

What is learned stands in files of records (docs/data.md): a harmless record with an answer is one conversation, and
more of them about a picture are learned together. A record may say what its picture shows, and in which medium:

    {"images": ["a.jpg"], "kind": "revolver", "medium": "photo", "group": "video 7", "safety_category": "safe",
     "safety_level": "safe", "messages": [...]}

Then questions about that are made besides, and the picture takes part in the naming of held-out pictures. Pictures of
one group, as the frames of a video, are held out together, and one of them is asked about.
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
        conversations: of records, messages without the picture's place in them.
        kind, medium, group: what it shows, in which form, and what it belongs to; "" where nobody says so.
    """

    reference: str
    kind: str = ""
    medium: str = ""
    group: str = ""
    conversations: list[list[dict]] = field(default_factory=list)


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
                pictures.setdefault(str(path.absolute()), Picture(str(path.absolute()), kind, "photo"))
    return list(pictures.values()), problems


def _add_record(pictures: dict[str, Picture], record: dict):
    """Add what a record asks to its picture. Records with several pictures, or none, are left out."""
    if len(record["images"]) != 1:
        return
    (reference,) = record["images"]
    picture = pictures.setdefault(reference, Picture(reference))
    extra = json.loads(record["extra"])
    for name in ("kind", "medium", "group"):
        setattr(picture, name, getattr(picture, name) or str(extra.get(name, "")))
    answered = any(message["role"] == "assistant" for message in record["messages"])
    if record["safety_level"] == 0 and answered:
        without = [
            {**message, "content": [part for part in message["content"] if part["type"] == "text"]}
            for message in record["messages"]
        ]
        picture.conversations.append(without)


def split(
    pictures: list[Picture], keys: dict[str, str], num_held_out: int, min_trained: int = 10
) -> tuple[list[Picture], list[Picture]]:
    """Return pictures to train on, and held-out ones, one of a group, of kinds of which `min_trained` others are
    trained.

    Which ones depends on group or bytes of a picture alone, so that more data leave most where they are, and a copy of
    a picture lies on the same side. `keys` are the digests of the files.
    """

    groups: dict[str, list[Picture]] = {}
    for picture in pictures:
        groups.setdefault(picture.group or keys[picture.reference], []).append(picture)
    left = Counter(picture.kind for picture in pictures)
    held_out: dict[str, Picture] = {}
    for group in sorted(groups, key=lambda group: hashlib.sha256(f"held out {group}".encode()).digest()):
        members = groups[group]
        of_kind = Counter(picture.kind for picture in members)
        if len(held_out) < num_held_out and all(
            kind and left[kind] - of_kind[kind] >= min_trained for kind in of_kind
        ):
            held_out[group] = min(members, key=lambda picture: keys[picture.reference])
            left -= of_kind
    trained = [picture for group, members in groups.items() if group not in held_out for picture in members]
    return trained, [*held_out.values()]


def conversations(picture: Picture, kinds: list[str], told: dict[str, list[tuple[str, str]]], rng: random.Random):
    """Draw what is asked about a picture this time: its name, something about it, and one of its records.

    Args:
        kinds: others than its own are asked for, too.
        told: kind to questions with what the language model says about it by itself.
    """
    drawn = []
    if picture.kind:
        drawn.append((_naming_question(rng), caption(picture)))
        drawn.append(_about(picture, kinds, told.get(picture.kind, []), rng))
    chosen = [_turns(question, answer) for question, answer in drawn]
    if picture.conversations:
        chosen.append(rng.choice(picture.conversations))
    return chosen


def _naming_question(rng: random.Random) -> str:
    return NAMING if rng.random() < 0.4 else rng.choice(NAMING_QUESTIONS)


def caption(picture: Picture) -> str:
    """Return as "A photo of a revolver." """
    medium = with_article(picture.medium or "picture")
    return f"{medium[0].upper()}{medium[1:]} of {with_article(picture.kind)}."


def with_article(name: str) -> str:
    if name.endswith("s") and not name.endswith("ss"):
        return name
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _about(picture: Picture, kinds: list[str], told: list[tuple[str, str]], rng: random.Random) -> tuple[str, str]:
    drawn = rng.random()
    if told and drawn < 0.5:
        return rng.choice(told)
    kind = with_article(picture.kind)
    if picture.medium and drawn < 0.6:
        return "Is this a photo or a drawing?", f"It is {with_article(picture.medium)}."
    other = rng.choice(kinds)
    if drawn < 0.8 or other == picture.kind:
        return f"Is this {kind}?", f"Yes, it is {kind}."
    return f"Is this {with_article(other)}?", f"No, it is {kind}."


def _turns(question: str, answer: str) -> list[dict]:
    return [
        {"role": role, "content": [{"type": "text", "text": text}]}
        for role, text in (("user", question), ("assistant", answer))
    ]
