"""Ways of typing a text: in capitals, without punctuation, misspelt, with stray blanks. Its meaning stays."""

import random
import re


_NEIGHBOURS = {
    "a": "s", "b": "v", "c": "x", "d": "f", "e": "r", "f": "g", "g": "h", "h": "j", "i": "o", "k": "l", "l": "k",
    "m": "n", "n": "m", "o": "p", "p": "o", "r": "t", "s": "a", "t": "y", "u": "i", "v": "b", "w": "e", "y": "u",
}  # fmt: skip


def _without_punctuation(text: str, rng: random.Random) -> str:
    return re.sub(r"[.,;:!?'\"]", "", text)


def _swap_letters(letters: str, at: int) -> str:
    return letters[:at] + letters[at + 1] + letters[at] + letters[at + 2 :]


def _drop_letter(letters: str, at: int) -> str:
    return letters[:at] + letters[at + 1 :]


def _double_letter(letters: str, at: int) -> str:
    return letters[: at + 1] + letters[at:]


def _hit_neighbour(letters: str, at: int) -> str:
    return letters[:at] + _NEIGHBOURS.get(letters[at], letters[at]) + letters[at + 1 :]


def _misspell_words(text: str, rng: random.Random, edits, share: float) -> str:
    """Edit about this share of the words of four and more letters, each once, and at least one if there is any."""
    words = re.split(r"(\s+)", text)
    places = [index for index, word in enumerate(words) if len(word) >= 4 and word.isascii()]
    if not places:
        return text
    for index in rng.sample(places, max(1, round(share * len(places)))):
        # First and last letter stay, so that the word can still be read.
        words[index] = rng.choice(edits)(words[index], rng.randrange(1, len(words[index]) - 2))
    return "".join(words)


def misspell(text: str, rng: random.Random) -> str:
    """The text with an edit in a third of its longer words."""
    return _misspell_words(text, rng, (_swap_letters, _drop_letter, _double_letter), 0.3)


def _misspell_more(text: str, rng: random.Random) -> str:
    return _misspell_words(text, rng, (_swap_letters, _drop_letter, _double_letter, _hit_neighbour), 0.4)


def _stray_blanks(text: str, rng: random.Random) -> str:
    gaps = ("  ", "   ", "\n", " \n", "\n\n")
    words = [word + (rng.choice(gaps) if rng.random() < 0.4 else " ") for word in text.split(" ")]
    return rng.choice(("", " ", "\n")) + "".join(words).rstrip(" ")


def _upper(text: str, rng: random.Random) -> str:
    return text.upper()


def _lower(text: str, rng: random.Random) -> str:
    return text.lower()


def _plain(text: str, rng: random.Random) -> str:
    return _without_punctuation(text, rng).lower()


def _title(text: str, rng: random.Random) -> str:
    return " ".join(word[:1].upper() + word[1:] for word in text.split(" "))


def _shout(text: str, rng: random.Random) -> str:
    return text.rstrip(".!?") + rng.choice(("!!!", "...", "??", " :)", " please"))


def _mixed_case(text: str, rng: random.Random) -> str:
    return "".join(letter.upper() if rng.random() < 0.5 else letter.lower() for letter in text)


STYLES = (
    *(_upper, _upper, _upper, _lower, _without_punctuation, _plain),
    *(misspell, misspell, misspell, _stray_blanks),
)
"""Most of them break words into other tokens."""
HELD_OUT_STYLES = (_upper, _lower, _plain, _misspell_more, _misspell_more, _stray_blanks, _title, _shout)
RARE_STYLES = (_mixed_case, _title)


def draw_style(split: str, rng: random.Random):
    """A function `(text, rng) -> text` that types a text in another way. The test split has ways of its own, too."""
    if split == "test":
        return rng.choice(HELD_OUT_STYLES)
    return rng.choice(RARE_STYLES if rng.random() < 0.1 else STYLES)
