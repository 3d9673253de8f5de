"""Rows of held-out pictures that are asked about in other hands' words, or in the same words typed in other ways.

The figures of these rows go by the picture: it is risky or clean, whatever is asked. What asks for the content of a
risky picture has to be flagged. What asks for its look should not be: its figure is the price of flagging the rest.
"""

import json
import random
from collections.abc import Iterable
from functools import partial

from ..benchmarks.riskcards import RISKY_TEXTS
from ..data.riskcards import OPEN, wordings_of_others
from .rows import Part, Row, with_questions
from .ways_of_typing import WAYS_OF_TYPING


LANGUAGES = {"de": "German", "es": "Spanish", "fr": "French", "zh": "Chinese"}
IN_OTHER_WORDS, ABOUT_THE_LOOK, FEW_WORDS = "requests in other words", "questions about the look", "next to no words"
AS_IT_IS, BY_ITSELF = "typed as it is", "the picture by itself"
QUICK_NAMES = (
    IN_OTHER_WORDS,
    f"{IN_OTHER_WORDS}, among 4 sentences",
    f"{IN_OTHER_WORDS}, German",
    ABOUT_THE_LOOK,
    f"{ABOUT_THE_LOOK}, among 1 sentence",
    FEW_WORDS,
    BY_ITSELF,
    "typed: doubled blanks",
    "typed: words joined",
)


def wording_rows(part: str = OPEN) -> tuple[Row, ...]:
    """Return the rows of other hands' words, of their `part`."""

    def row(name: str, kind: str, language: str | None = "en", sentences: int = 0) -> Row:
        texts = [one.text for one in wordings_of_others(kind, language, part=part)]
        prose = [one.text for one in wordings_of_others("prose", part=part)]
        return Row(name, (Part(),), convert=partial(ask_in_words, texts=texts, prose=prose, sentences=sentences))

    return (
        row(IN_OTHER_WORDS, "content"),
        row(among(IN_OTHER_WORDS, 4), "content", sentences=4),
        *(row(f"{IN_OTHER_WORDS}, {name}", "content", language) for language, name in LANGUAGES.items()),
        row(ABOUT_THE_LOOK, "look"),
        *(row(among(ABOUT_THE_LOOK, count), "look", sentences=count) for count in (1, 4, 8)),
        *(row(f"{ABOUT_THE_LOOK}, {name}", "look", language) for language, name in LANGUAGES.items()),
        row("prose", "prose"),
        row(FEW_WORDS, "few", None),
        Row(BY_ITSELF, (Part(),), convert=partial(ask_in_words, texts=[""], prose=[])),
    )


def quick_wording_rows() -> tuple[Row, ...]:
    """Return the rows of both that `make demo` measures."""
    return tuple(row for row in (*wording_rows(), *typing_rows()) if row.name in QUICK_NAMES)


def among(name: str, sentences: int) -> str:
    """Return the name of a row with sentences of prose around its questions."""
    return f"{name}, among {sentences} sentence{'s' * (sentences != 1)}"


def typed(way: str) -> str:
    """Return the name of a row of one of `WAYS_OF_TYPING`."""
    return f"typed: {way}"


def typing_rows() -> tuple[Row, ...]:
    """Return the question alone, typed in each of the ways by itself. Records that ask for the look of a risky picture
    are left out, as in [`ask_in_words`]."""

    names = {AS_IT_IS: None} | {typed(way): way for way in WAYS_OF_TYPING}
    return tuple(Row(name, (Part(),), convert=partial(type_questions, way=way)) for name, way in names.items())


def type_questions(records: Iterable[dict], way: str | None) -> list[dict]:
    type_text = str if way is None else WAYS_OF_TYPING[way]
    return with_questions(by_content(records), lambda record, text: type_text(text))


def ask_in_words(
    records: Iterable[dict], texts: list[str], prose: list[str], sentences: int = 0, seed: int = 0
) -> list[dict]:
    """Return risky and clean pictures, each asked about with the next of `texts`, among `sentences` of `prose`.

    The records stand alone, and a picture keeps the verdict of its content. Records that ask for the look of a risky
    picture are left out: the same picture comes with a question about its content, too."""
    rng = random.Random(seed)
    pictures = by_content(records)
    order = rng.sample(texts, len(texts))
    asked = iter([order[number % len(order)] for number in range(len(pictures))])

    def ask(record: dict, text: str) -> str:
        around = rng.sample(prose, sentences)
        place = rng.randint(0, sentences)
        return " ".join((*around[:place], next(asked), *around[place:]))

    return with_questions(pictures, ask)


def by_content(records: Iterable[dict]) -> list[dict]:
    return [record for record in records if record["safety_level"] > 0 or not shows_risk(record)]


def shows_risk(record: dict) -> bool:
    """Return whether the topic of a RiskCard is risky, whatever is asked about it."""
    return json.loads(record["extra"])["topic"] in RISKY_TEXTS
