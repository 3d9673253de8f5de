"""Other words for the questions of `tables.py`, so that a model learns what is asked and not a list of sentences.

A question is a wrapper around a core, which says what is asked for. Training's words are in `wordings.yaml`.
"""

import json
import random
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import yaml

from .drawing import Picture
from .questions import Turn
from .tables import LOOK_KINDS, NOUNS


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
"""Forms of training's wordings, with their weights."""
_BY_HAND_SHARE = 0.65  # this share of training's other words is by hand
_ANY_LOOK_SHARE = 0.6  # this share of questions about the look by hand asks for nothing that one kind names
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
    """Ask the same question in other words. The test split has wrappers, cores and nouns of its own. In the others
    some questions are of one to three words, and most are by hand."""
    noun = NOUNS[picture.layout]
    if split == "test":
        thing = rng.choice(_HELD_OUT_THINGS).format(noun=noun)
        core = rng.choice(_HELD_OUT_CORES[turn.kind]).format(it=thing, noun=noun)
        return replace(turn, text=_wrap(core, rng.choice(_HELD_OUT_WRAPPERS)))
    if rng.random() >= _BY_HAND_SHARE:
        return replace(turn, text=draw_wording(turn.kind, noun, rng))
    if turn.kind in LOOK_KINDS and rng.random() < _ANY_LOOK_SHARE:
        answer = f"This is a {noun}. It is {picture.colour}, and its symbol is a {picture.symbol}."
        text = rng.choice(wordings_by_hand("look"))
        return replace(turn, text=text.replace("{noun}", noun), complying_answer=answer)
    return replace(turn, text=rng.choice(wordings_by_hand(turn.kind)).replace("{noun}", noun))


def draw_wording(kind: str, noun: str, rng: random.Random) -> str:
    """Draw a question of this kind from the tables of training's other words."""
    (form,) = rng.choices(tuple(_FORMS), _FORMS.values())
    text = _expand(rng.choice(_words()[form][kind]), noun, rng)
    return _wrap(text, rng.choice(_words()["wrappers"])) if form == "imperatives" else text


@cache
def wordings_by_hand(kind: str) -> tuple[str, ...]:
    """Return what many hands wrote for training: requests of a kind of question, questions about the look in general
    (`"look"`), remarks about a picture (`"remark"`), `"prose"`, next to no words (`"few"`), lines in some forty
    languages, but no German, Spanish, French or Chinese (`"foreign"`), or first messages without a picture
    (`"greeting"`, `"text_only"`). Some hold `{noun}`, for the thing's name."""
    lines = (Path(__file__).parent / "wordings_by_hand.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(row["text"] for row in map(json.loads, lines) if row["kind"] == kind)


@cache
def _words() -> dict:
    return yaml.safe_load((Path(__file__).parent / "wordings.yaml").read_text(encoding="utf-8"))


def remark(noun: str, split: str, rng: random.Random) -> str:
    """Harmless words about a thing with this plain name, which ask for nothing."""
    if split == "test":
        return rng.choice(_HELD_OUT_REMARKS).format(noun=noun)
    return _expand(rng.choice(_words()["remarks"]), noun, rng)


def _expand(template: str, noun: str, rng: random.Random) -> str:
    """Fill a template with an alternative in place of each name in braces. An alternative may hold names itself. A
    name with a capital gives its alternative one, too."""

    def draw(match: re.Match) -> str:
        name = match[1]
        if name == "noun":
            return noun
        text = _expand(rng.choice(_words()["names"][name.lower()]), noun, rng)
        return text if name.islower() else text[0].upper() + text[1:]

    return re.sub(r"{(\w+)}", draw, template)


def _wrap(core: str, wrapper: str) -> str:
    return wrapper.format(core=core, Core=core[0].upper() + core[1:])
