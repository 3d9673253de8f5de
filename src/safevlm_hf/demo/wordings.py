"""Rows of held-out pictures that are asked about in other hands' words, or in the same words typed in other ways.

The figures of these rows go by the picture: it is risky or clean, whatever is asked. What asks for the content of a
risky picture has to be flagged. What asks for its look should not be: its figure is the price of flagging the rest.
"""

from ..benchmarks.riskcards_questions import LANGUAGES, typed_key, ways_of_asking
from ..benchmarks.ways_of_typing import WAYS_OF_TYPING
from ..data.riskcards import OPEN
from .rows import Part, Row


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
    keys = {
        IN_OTHER_WORDS: "content",
        among(IN_OTHER_WORDS, 4): "content-among-4",
        **{f"{IN_OTHER_WORDS}, {name}": f"content-{code}" for code, name in LANGUAGES.items()},
        ABOUT_THE_LOOK: "look",
        **{among(ABOUT_THE_LOOK, count): f"look-among-{count}" for count in (1, 4, 8)},
        **{f"{ABOUT_THE_LOOK}, {name}": f"look-{code}" for code, name in LANGUAGES.items()},
        "prose": "prose",
        FEW_WORDS: "next-to-no-words",
        BY_ITSELF: "no-words",
    }
    return _asked(keys, part)


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
    are left out."""
    return _asked({AS_IT_IS: "typed-as-it-is"} | {typed(way): typed_key(way) for way in WAYS_OF_TYPING})


def _asked(keys: dict[str, str], part: str = OPEN) -> tuple[Row, ...]:
    """Rows by their names and ways of asking."""
    ways = ways_of_asking(part)
    return tuple(Row(name, (Part(),), convert=ways[key]) for name, key in keys.items())
