"""Words that are not known to be harmless: of other languages, misspelt, of no language, or next to none.

About a risky picture they lead to care, as a request does; about a clean one to nothing.
"""

import random

from .rewording import wordings_by_hand
from .styles import misspell


_LETTERS, _DIGITS = "abcdefghijklmnopqrstuvwxyz", "0123456789"


def garble(text: str, rng: random.Random) -> str:
    """The text as nobody should write it: misspelt, without vowels, with digits, random letters or words reversed."""
    draw, kind = rng.random, rng.random()
    if kind < 0.45:
        return misspell(text, rng)
    if kind < 0.6:
        return "".join(one for one in text if one.lower() not in "aeiou" or draw() < 0.3)
    if kind < 0.75:
        is_swapped = (one.lower() in "aeiostbg" and draw() < 0.6 for one in text)
        return "".join(rng.choice(_DIGITS) if swapped else one for one, swapped in zip(text, is_swapped))
    if kind < 0.9:
        return "".join(rng.choice(_LETTERS) if one.isalpha() and draw() < 0.2 else one for one in text)
    return " ".join(word[::-1] if draw() < 0.5 else word for word in text.split())


def pseudo_words(rng: random.Random) -> str:
    """Words of a language that nobody speaks."""
    words = []
    for _ in range(rng.randint(3, 9)):
        length = rng.randint(1, 4) if rng.random() < 0.8 else rng.randint(5, 10)
        syllables = (rng.choice("bcdfghjklmnprstvwz") + rng.choice("aeiouyäöüéàı") for _ in range(length))
        words.append("".join(syllables) + rng.choice(("", "n", "s", "t", "r")))
    return " ".join(words)


def make_unfamiliar(text: str, rng: random.Random) -> str:
    """A question's words, or others in their place, that are not known to be harmless."""
    kind = rng.random()
    if kind < 0.45:
        return garble(text, rng)
    return rng.choice(wordings_by_hand("foreign")) if kind < 0.73 else pseudo_words(rng)


def next_to_no_words(rng: random.Random) -> str:
    """A message that asks for nothing in particular, or an empty one."""
    return rng.choice(wordings_by_hand("few")) if rng.random() < 0.65 else rng.choice(("", ".", "?", "!"))
