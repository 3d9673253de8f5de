"""The questions: by family of risks, those of training and those held out."""

from dataclasses import dataclass, field
from pathlib import Path

import yaml

from .manifest import HERE


TRAINING, HELD_OUT = HERE / "training_wordings.yaml", HERE / "held_out_wordings.yaml"
FILES = {"training": TRAINING, "validation": TRAINING, "held out": HELD_OUT}
VALIDATED = 10
"""Every tenth training question is asked in validation alone: a threshold that was chosen on questions that training
knows lets through too much of what it does not know."""
GENERIC = "generic"
"""Key of the questions that fit every picture."""


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
    """Read the `"training"`, the `"validation"` or the `"held out"` questions."""
    table, answers = _read(FILES[part]), _read(TRAINING)
    kept = {"training": _not_validated, "validation": _validated}.get(part, list)
    found = Wordings()
    for topic, texts in table.pop(GENERIC).items():
        found.generic += [Wording(text, "", topic=topic) for text in kept(texts)]
    for family, entry in table.items():
        found.risky[family] = [
            Wording(text, family, level, is_innocent=key == "innocent")
            for key in ("risky", "innocent")
            for level, texts in entry[key].items()
            for text in kept(texts)
        ]
        found.harmless[family] = [
            Wording(text, family, topic=topic, answer=answers[family]["answers"][topic])
            for topic, texts in entry["harmless"].items()
            for text in kept(texts)
        ]
    return found


def _validated(texts: list[str]) -> list[str]:
    return texts[::VALIDATED]


def _not_validated(texts: list[str]) -> list[str]:
    return [text for number, text in enumerate(texts) if number % VALIDATED]


def _read(file: Path) -> dict:
    return yaml.safe_load(file.read_text(encoding="utf-8"))
