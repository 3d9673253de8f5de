"""What RiskCards takes its words and sentences from: the files in `prose/`."""

import json
import random
from functools import cache
from pathlib import Path


_PROSE = Path(__file__).parent / "prose"


@cache
def prose_sentences(split: str) -> tuple[str, ...]:
    """The hand-written sentences of the split; `"validation"` shares those of `"train"`."""
    return _lines("test.txt" if split == "test" else "train.txt")


@cache
def example_sentences() -> tuple[str, ...]:
    """WordNet's, for training."""
    return _lines("examples.txt")


@cache
def dictionary_words() -> tuple[str, ...]:
    """Rarer words, for training."""
    return _lines("dictionary.txt")


@cache
def word_lists() -> dict[str, list[str]]:
    """What the grammar of made-up sentences puts in its places, and the syllables of words that are none."""
    return json.loads((_PROSE / "words.json").read_text(encoding="utf-8"))


def invent_word(rng: random.Random) -> str:
    """A word that is none, half of the time with a capital."""
    word = "".join(rng.choices(word_lists()["syllable"], k=rng.randint(2, 3)))
    return word.capitalize() if rng.random() < 0.5 else word


def _lines(name: str) -> tuple[str, ...]:
    """Of a file whose notice, if it has one, stands in lines that begin with #."""
    lines = (_PROSE / name).read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))
