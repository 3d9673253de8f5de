"""Read answers of multiple choice, and of yes or no, by rule. Unreadable answers are an outcome of their own."""

import math
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..items import Answer, Item


LETTER_PROMPT = "Answer with the option's letter from the given choices directly."
SHORT_PROMPT = "Answer the question using a single word or phrase."
Score = Callable[[np.ndarray], dict[str, float]]
"""A function from weights (n,), how often each item counts, to the official figures; NaN where nothing has weight."""
CHOICE = "choice "
"""Beginning of the label that holds the text of a choice: `labels["choice A"]`."""


def pair_answers(items: Sequence[Item], answers: Sequence[Answer]) -> list[tuple[Item, str | None]]:
    """Pair every item with its answer's text, `None` if the system failed.

    Raises:
        ValueError: an item has no answer or two, an answer no item, or an item no reference answer.
    """
    texts = {answer.item_id: answer.text for answer in answers}
    unknown = sorted(set(texts) ^ {item.id for item in items})
    if unknown or len(texts) != len(answers) or not items:
        named = f", such as {unknown[0]!r}" if unknown else ""
        raise ValueError(
            f"{len(items)} items need one answer each, got {len(answers)}; {len(unknown)} ids differ{named}"
        )
    hidden = [item.id for item in items if item.expected is None]
    if hidden:
        raise ValueError(
            f"{len(hidden)} of {len(items)} items have no reference answer, such as {hidden[0]!r}: this part of the "
            "benchmark hides them, take another part"
        )
    return [(item, texts[item.id]) for item in items]


def with_choices(question: str, choices: Mapping[str, str]) -> str:
    """Return the letter prompt of LLaVA-1.5: question, one line per choice, and how to answer."""
    lines = [f"{letter}. {text}" for letter, text in choices.items()]
    return "\n".join([question, *lines, LETTER_PROMPT])


def choice_labels(choices: Mapping[str, str]) -> dict[str, str]:
    return {f"{CHOICE}{letter}": text for letter, text in choices.items()}


def read_letter(item: Item, text: str | None) -> str | None:
    """Return the letter that an answer chooses, or `None` if it chooses none or several.

    An answer chooses the letter that it is or begins with ("B", "(B)", "B. A cat"), or that it calls its answer ("The
    answer is B"); else the choice whose text it is ("Vitamin C" is no C); else the letter that is the only one in it;
    else the choice whose text alone it holds.
    """
    choices = {name.removeprefix(CHOICE): str(value) for name, value in item.labels.items() if name.startswith(CHOICE)}
    if not choices:
        raise ValueError(f"item {item.id!r} has no choices")
    text = (text or "").strip(" \n\t*_`\"'")
    if text.strip("()[].:").upper() in choices:
        return text.strip("()[].:").upper()
    letters = f"[{''.join(choices)}]"
    for pattern in (
        rf"[(\[]({letters})[)\]]|({letters})[).:,](?:\s|$)",
        rf"(?i:.*\b(?:answer|option|choice)(?: is)?:?) \**[(\[]?({letters})\b(?!')",
    ):
        found = re.match(pattern, text, re.DOTALL)
        if found:
            return next(filter(None, found.groups()))
    said = [letter for letter, choice in choices.items() if _plain(choice) == _plain(text)]
    alone = set(re.findall(rf"\b({letters})\b(?!')", text))
    if not re.search(r"\bA\W*$", text):  # elsewhere a lonely "A" may be the article
        alone -= {"A"}
    if alone and not said:
        return alone.pop() if len(alone) == 1 else None
    named = said or [letter for letter, choice in choices.items() if _names(text, choice)]
    return named[0] if len(named) == 1 else None


def is_right_letter(item: Item, text: str | None) -> bool:
    """Return `True` if the answer chooses the right letter. An answer without a letter is wrong."""
    return item.expected is not None and read_letter(item, text) == item.expected


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).strip(" .")


def _names(text: str, choice: str) -> bool:
    choice = _plain(choice)
    return bool(choice) and re.search(rf"(?<!\w){re.escape(choice)}(?!\w)", _plain(text)) is not None


def share(hits: np.ndarray, weights: np.ndarray) -> float:
    """Return the weighted share of true values, (n,) bool with weights (n,); NaN if nothing has weight."""
    total = weights.sum()
    return float((hits * weights).sum() / total) if total else math.nan
