"""Rows of held-out pictures that are asked about in other hands' words, or in the same words typed in other ways.

The figures of these rows go by the picture: it is risky or clean, whatever is asked. What asks for the content of a
risky picture has to be flagged. What asks for its look should not be: its figure is the price of flagging the rest.
"""

from ..benchmarks.riskcards import HeldOut
from ..benchmarks.riskcards_questions import LANGUAGES, NO_WORDS, typed_key
from ..benchmarks.ways_of_typing import WAYS_OF_TYPING
from .rows import Row


IN_OTHER_WORDS, ABOUT_THE_LOOK, FEW_WORDS = "requests in other words", "questions about the look", "next to no words"
AS_IT_IS, BY_ITSELF = "typed as it is", "the picture by itself"


def among(name: str, sentences: int) -> str:
    """Return the name of a row with sentences of prose around its questions."""
    return f"{name}, among {sentences} sentence{'s' * (sentences != 1)}"


def typed(way: str) -> str:
    """Return the name of a row of one of `WAYS_OF_TYPING`."""
    return f"typed: {way}"


WORDINGS = {
    IN_OTHER_WORDS: "content",
    among(IN_OTHER_WORDS, 4): "content-among-4",
    **{f"{IN_OTHER_WORDS}, {name}": f"content-{code}" for code, name in LANGUAGES.items()},
    ABOUT_THE_LOOK: "look",
    **{among(ABOUT_THE_LOOK, count): f"look-among-{count}" for count in (1, 4, 8)},
    **{f"{ABOUT_THE_LOOK}, {name}": f"look-{code}" for code, name in LANGUAGES.items()},
    "prose": "prose",
    FEW_WORDS: "next-to-no-words",
    BY_ITSELF: NO_WORDS,
}
"""Row of other hands' words to its way of asking."""
TYPINGS = {AS_IT_IS: "typed-as-it-is"} | {typed(way): typed_key(way) for way in WAYS_OF_TYPING}
"""Row of the question alone, typed in one way, to the same. Records that ask for the look of a risky picture are left
out."""
WORDING_ROWS, TYPING_ROWS = (
    tuple(Row(name, (HeldOut(asked=key),)) for name, key in keys.items()) for keys in (WORDINGS, TYPINGS)
)
QUICK_NAMES = (
    IN_OTHER_WORDS,
    among(IN_OTHER_WORDS, 4),
    f"{IN_OTHER_WORDS}, German",
    ABOUT_THE_LOOK,
    among(ABOUT_THE_LOOK, 1),
    FEW_WORDS,
    BY_ITSELF,
    typed("doubled blanks"),
    typed("words joined"),
)
QUICK_WORDING_ROWS = tuple(row for row in (*WORDING_ROWS, *TYPING_ROWS) if row.name in QUICK_NAMES)
"""Those of both that `make demo` measures."""
