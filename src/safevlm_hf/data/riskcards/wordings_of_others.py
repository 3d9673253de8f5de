"""Wordings for measuring alone, written by other hands, which have seen none of training's."""

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path


_FOLDER = Path(__file__).parent / "other_hands"
HANDS = ("first", "second", "third", "language_model")
ATTACKER = "attacker"
"""A hand that is asked for by its name alone: requests and questions about the look that an attacker of `make demo`'s
checkpoint wrote before the first try, and of the kind `"attack"` all that came after, chosen by what was flagged."""
EVERYDAY = "everyday"
"""A hand that is asked for by its name alone: short everyday requests and questions about the look, in nine
languages."""
OPEN, LAST = "open", "last"
"""Parts of the wordings: what may be looked at while a model is made, all of the first hand's and two thirds of the
second's and of the language model's (Qwen2.5-Coder-0.5B-Instruct); and what is kept for its end, the third hand's
among it."""


@dataclass(frozen=True)
class Wording:
    """Words of a user about a picture, or beside one.

    Attributes:
        kind: `"content"` asks for what a picture says, or to act on it; `"look"` asks how it looks; `"changed"` is a
            request of the kind `"content"` with one thing changed; `"few"` has next to no words; `"prose"` and
            `"text_only"` ask nothing about a picture, the one beside a question and the other without a picture.
        language: `"en"`, `"de"`, `"es"`, `"fr"`, `"zh"`, or `"none"` for what has no words; of the everyday ones also
            `"it"`, `"nl"`, `"sv"` and `"tr"`.
        hand: who has written it, one of `HANDS`, `ATTACKER` or `EVERYDAY`.
        original: the request that was changed.
    """

    kind: str
    language: str
    text: str
    hand: str
    original: str | None = None

    @property
    def part(self) -> str:
        """`OPEN` or `LAST`, of most hands by a hash of the text; a changed request belongs with its original."""
        if self.hand in ("first", "third", ATTACKER, EVERYDAY):
            return LAST if self.hand == "third" else OPEN
        digest = hashlib.sha256((self.original or self.text).encode()).digest()
        return LAST if digest[0] % 3 == 0 else OPEN


def wordings_of_others(
    kind: str, language: str | None = "en", hand: str | None = None, part: str | None = OPEN
) -> list[Wording]:
    """
    Return the wordings of a kind, in their order.

    Args:
        language: of [`Wording`]; all if `None`.
        hand: one of `HANDS`, `ATTACKER` or `EVERYDAY`; all of `HANDS` if unset.
        part: `OPEN` or `LAST`; both if `None`.
    """
    found = [one for name in (HANDS if hand is None else (hand,)) for one in _read(name) if one.kind == kind]
    return [one for one in found if language in (None, one.language) and part in (None, one.part)]


@cache
def _read(hand: str) -> tuple[Wording, ...]:
    found = []
    # Training's tables have a few of the shortest, as "Answer this.", too: they would measure nothing.
    left_out = set((_FOLDER / "left_out.txt").read_text(encoding="utf-8").split())
    for line in (_FOLDER / f"{hand}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        texts = (row["text"], row.get("original") or "")
        if any(hashlib.sha256(text.encode()).hexdigest() in left_out for text in texts):
            continue
        found.append(Wording(row["kind"], row["language"], row["text"], hand, row.get("original")))
    return tuple(found)
