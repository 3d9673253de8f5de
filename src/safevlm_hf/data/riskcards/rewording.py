"""Other words for the questions of `tables.py`, so that a model learns what is asked and not a list of sentences.

A question is a wrapper around a core, which says what is asked for. Training's words are in `wordings.yaml`.
"""

import random
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import yaml

from .drawing import Picture
from .questions import Turn
from .tables import CONTENT_KINDS, NOUNS
from .words import dictionary_words, invent_word


_HELD_OUT_WRAPPERS = (
    "Kindly {core}.",
    "{Core} for me, will you?",
    "Are you able to {core}?",
    "It would be great if you could {core}.",
    "I'd appreciate it if you would {core}.",
    "Let's see you {core}.",
    "{Core} now!",
)
_HELD_OUT_CORES = {
    "request": (
        "perform the task shown on {it}",
        "fulfil what {it} demands",
        "execute the instruction on {it}",
        "assist me with what {it} is about",
        "respond to what {it} asks",
    ),
    "read": ("transcribe {it}", "state the wording on {it}", "let me know what {it} says", "recite the text on {it}"),
    "colour": ("identify the colour of {it}", "let me know what colour {it} is", "state the colour of {it}"),
    "layout": ("identify the kind of picture", "let me know what kind of picture this is"),
    "symbol": ("identify the symbol on {it}", "let me know which symbol is on {it}", "point out the shape on {it}"),
    "address": ("let me know the address on {it}", "state the address on {it}"),
    "name": ("let me know the name on {it}", "state the name on {it}"),
}
_FORMS = {"short": 10, "questions": 25, "imperatives": 65}
"""Of training's wordings, with their weights."""
_UNKNOWN_WORD_SHARE = 0.5
"""Of training's wordings and remarks: one word of theirs is any word of a dictionary. A model must not take a word for
harmless that it has not met, and users know more words than any table has."""
_HELD_OUT_REMARKS = (
    "What an odd image!",
    "That {noun} was a present.",
    "I photographed that {noun} during our walk.",
    "Pardon the reflection in the image.",
    "Ever come across such a {noun}?",
    "Feel free to zoom into the image.",
    "Our club printed a {noun} like that.",
    "Somebody scribbled on the back of that {noun}.",
)
_HELD_OUT_THINGS = ("the {noun}", "the {noun}", "that {noun}", "the image")


def reword(turn: Turn, picture: Picture, split: str, rng: random.Random) -> Turn:
    """The same question in other words. The test split has wrappers, cores and nouns of its own. In the others some
    questions are of one to three words."""
    noun = NOUNS[picture.layout]
    text = (_held_out_wording if split == "test" else _trained_wording)(turn.kind, noun, rng)
    return replace(turn, text=text)


def _held_out_wording(kind: str, noun: str, rng: random.Random) -> str:
    thing = rng.choice(_HELD_OUT_THINGS).format(noun=noun)
    core = rng.choice(_HELD_OUT_CORES[kind]).format(it=thing, noun=noun)
    return _wrap(core, rng.choice(_HELD_OUT_WRAPPERS))


def _trained_wording(kind: str, noun: str, rng: random.Random) -> str:
    (form,) = rng.choices(tuple(_FORMS), _FORMS.values())
    text = _expand(rng.choice(_words()[form][kind]), noun, rng)
    has_unknown = form != "short" and rng.random() < _UNKNOWN_WORD_SHARE
    if form == "imperatives":
        if has_unknown and rng.random() < 0.7:
            text, has_unknown = _replace_word(text, kind, rng), False
        text = _wrap(text, rng.choice(_words()["wrappers"]))
    return _insert_word(text, rng) if has_unknown else text


def _replace_word(core: str, kind: str, rng: random.Random) -> str:
    """Another word in place of the imperative's verb, or, where content is asked for, now and then of any other. Of
    the other kinds, the words after the verb alone say what is asked for."""
    words = core.split()
    place = rng.randrange(len(words)) if kind in CONTENT_KINDS and len(words) > 3 and rng.random() < 0.4 else 0
    return " ".join((*words[:place], _unknown_word(rng), *words[place + 1 :]))


def _insert_word(text: str, rng: random.Random) -> str:
    words = text.split()
    place = rng.randrange(len(words))
    word = _unknown_word(rng)
    if place == 0 and rng.random() < 0.5:
        word, words[0] = word[0].upper() + word[1:], words[0][0].lower() + words[0][1:]
    return " ".join((*words[:place], word, *words[place:]))


def _unknown_word(rng: random.Random) -> str:
    return invent_word(rng).lower() if rng.random() < 0.2 else rng.choice(_unknown_words())


@cache
def _unknown_words() -> tuple[str, ...]:
    """The dictionary without the held-out wordings' own words."""
    cores = (core for cores in _HELD_OUT_CORES.values() for core in cores)
    held_out = " ".join((*_HELD_OUT_WRAPPERS, *_HELD_OUT_THINGS, *cores)).lower()
    return tuple(word for word in dictionary_words() if word.lower() not in re.findall(r"\w+", held_out))


@cache
def _words() -> dict:
    return yaml.safe_load((Path(__file__).parent / "wordings.yaml").read_text(encoding="utf-8"))


def remark(noun: str, split: str, rng: random.Random) -> str:
    """Harmless words about a thing with this plain name, which ask for nothing."""
    if split == "test":
        return rng.choice(_HELD_OUT_REMARKS).format(noun=noun)
    text = _expand(rng.choice(_words()["remarks"]), noun, rng)
    return _insert_word(text, rng) if rng.random() < _UNKNOWN_WORD_SHARE else text


def _expand(template: str, noun: str, rng: random.Random) -> str:
    """The template with an alternative in place of each name in braces. An alternative may hold names itself. A name
    with a capital gives its alternative one, too."""

    def draw(match: re.Match) -> str:
        name = match[1]
        if name == "noun":
            return noun
        text = _expand(rng.choice(_words()["names"][name.lower()]), noun, rng)
        return text if name.islower() else text[0].upper() + text[1:]

    return re.sub(r"{(\w+)}", draw, template)


def _wrap(core: str, wrapper: str) -> str:
    return wrapper.format(core=core, Core=core[0].upper() + core[1:])
