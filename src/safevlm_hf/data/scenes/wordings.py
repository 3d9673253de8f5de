"""The questions: by family of risks, those of training and those held out."""

from dataclasses import dataclass, field
from pathlib import Path

import yaml

from .manifest import HERE


FILES = {"training": HERE / "training_wordings.yaml", "held out": HERE / "held_out_wordings.yaml"}
GENERIC = "generic"
"""Key of the questions that fit every picture."""
SPLIT_WORDINGS = {"train": "training", "validation": "training", "test": "held out", "unknown": "held out"}


@dataclass(frozen=True)
class Wording:
    """A question.

    Attributes:
        text: the question; it names no thing, so that the picture says what it is about.
        family: of risks; empty where it fits every picture.
        level: 1 to 3 beside a picture of its family, 0 where it is harmless there, too.
        is_innocent: it sounds harmless by itself, and is risky only beside such a picture.
        topic: what a harmless question asks for.
        answer: to a harmless question, with `{phrase}` for the thing shown; empty for the generic ones.
    """

    text: str
    family: str
    level: int = 0
    is_innocent: bool = False
    topic: str = ""
    answer: str = ""


@dataclass
class Wordings:
    """The questions of one part: for every picture, and by family the risky and the harmless ones."""

    generic: list[Wording] = field(default_factory=list)
    risky: dict[str, list[Wording]] = field(default_factory=dict)
    harmless: dict[str, list[Wording]] = field(default_factory=dict)


def read_wordings(part: str) -> Wordings:
    """Read the `"training"` or the `"held out"` questions."""
    table, answers = _read(FILES[part]), _read(FILES["training"])
    found = Wordings()
    for topic, texts in table.pop(GENERIC).items():
        found.generic += [Wording(text, "", topic=topic) for text in texts]
    for family, entry in table.items():
        found.risky[family] = [
            Wording(text, family, level, is_innocent=key == "innocent")
            for key in ("risky", "innocent")
            for level, texts in entry[key].items()
            for text in texts
        ]
        found.harmless[family] = [
            Wording(text, family, topic=topic, answer=answers[family]["answers"][topic])
            for topic, texts in entry["harmless"].items()
            for text in texts
        ]
    return found


def _read(file: Path) -> dict:
    return yaml.safe_load(file.read_text(encoding="utf-8"))
