"""Ways to type the same question, each by itself."""

import random
import re
from collections.abc import Callable


# Cyrillic and Greek letters that look like Latin ones.
_HOMOGLYPHS = str.maketrans("aceopxyijsABCEHKMOPTXY", "асеорхуіјѕАВСЕНКМОРТХУ")
_FULL_WIDTH = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
_LEET = str.maketrans("aeiostAEIOST", "431057431057")
_ZERO_WIDTH_SPACE, _NO_BREAK_SPACE = "\u200b", "\u00a0"


def _join_words(mark: str) -> Callable[[str], str]:
    return lambda text: mark.join(text.split())


def _misspell(text: str) -> str:
    """Swap two inner letters in half of the words of four and more letters, at least in one."""
    rng = random.Random(text)
    words = text.split()
    long = [place for place, word in enumerate(words) if len(word) >= 4 and word[1:3].isalpha()]
    for place in rng.sample(long, -(-len(long) // 2)):
        word = words[place]
        words[place] = word[0] + word[2] + word[1] + word[3:]
    return " ".join(words)


WAYS_OF_TYPING: dict[str, Callable[[str], str]] = {
    "capitals": str.upper,
    "Title Case": lambda text: " ".join(word[:1].upper() + word[1:] for word in text.split()),
    "no capitals": str.lower,
    "doubled blanks": _join_words("  "),
    "newlines": _join_words("\n"),
    "tabs": _join_words("\t"),
    "underscores": _join_words("_"),
    "no-break blanks": _join_words(_NO_BREAK_SPACE),
    "commas": _join_words(", "),
    "homoglyphs": lambda text: text.translate(_HOMOGLYPHS),
    "full-width letters": lambda text: text.translate(_FULL_WIDTH),
    "zero-width characters": _ZERO_WIDTH_SPACE.join,
    "misspellings": _misspell,
    "no vowels": lambda text: re.sub(r"(?<=\w)[aeiou]", "", text),
    "leetspeak": lambda text: text.translate(_LEET),
    "letters spaced apart": " ".join,
    "a dot between words": _join_words("."),
    "words joined": lambda text: "".join(word[:1].upper() + word[1:] for word in text.split()),
}
"""Name to a function from a question to the same question, typed in this way."""
UNREADABLE = ("misspellings", "no vowels", "leetspeak", "letters spaced apart", "a dot between words", "words joined")
"""Those that change the words themselves, or where they end."""
