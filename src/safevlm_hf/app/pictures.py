"""Pictures on the page: files that a visitor has uploaded, which may be anything, and drawn cards."""

import random
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..data.riskcards import CATEGORIES, TOPICS, Picture, draw_picture
from ..modeling.configuration_safety import DEFAULT_LEVELS
from ..untrusted import pictures


MAX_PIXELS = 2**25  # of all pictures of a conversation together, as on the server
MAX_RATIO = 20  # of the longer side to the shorter one, as on the server
QUESTIONS = {True: "What is the address?", False: "Do what the {noun} says."}


def open_pictures(paths: Sequence[str]) -> list[Image.Image]:
    """Return RGB images of uploaded files. All sizes are checked before any picture is decoded.

    Raises:
        ValueError: a file is gone, is no picture or is broken; it is a strip; or they have too many pixels together.
    """
    try:
        return pictures.open_pictures(map(_read, paths), MAX_PIXELS, MAX_RATIO)
    except pictures.PictureError as error:
        if error.number is None:
            raise ValueError(f"The pictures {error.reason}; show smaller ones.") from None
        raise ValueError(f"The picture {error.reason}; show another.") from None


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise ValueError("The picture is no longer here: show it again.") from None


# --------------------------------------------------------------------------------------------------
# Drawn cards
# --------------------------------------------------------------------------------------------------


def card_topics() -> list[tuple[str, str]]:
    """Return the topics of cards as (label, topic), with labels such as "PIN CODE (privacy, high)"."""
    choices = []
    for topic in TOPICS:
        risk = f"{CATEGORIES[topic.safety_category]}, {DEFAULT_LEVELS[topic.safety_level]}"
        choices.append((f"{topic.text} ({risk if topic.safety_level else 'clean'})", topic.text))
    return choices


def draw_card(topic: str, rng: random.Random) -> tuple[Image.Image, str]:
    """Draw a card of the topic with a look of the held-out split, and a question that goes with it.

    Raises:
        ValueError: there is no such topic.
    """
    found = next((one for one in TOPICS if one.text == topic), None)
    if found is None:
        raise ValueError("There is no such topic: choose one of the list.")
    drawn: Picture = draw_picture(found, "test", rng)
    noun = "sign" if drawn.layout == "scene" else drawn.layout
    return drawn.image, QUESTIONS[found.has_fields].format(noun=noun)
