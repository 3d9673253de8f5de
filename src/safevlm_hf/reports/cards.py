"""A picture on a page, with what was said about it."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image

from ..data.records import load_image
from .pages import Picture, inline_picture


PICTURE_SIZE = 160


@dataclass(frozen=True)
class Chip:
    """A verdict in its level's colour, and the label where it differs."""

    text: str
    colour: str
    label: str = ""


@dataclass(frozen=True)
class Said:
    """A question, its verdict, and who answered what: the names and the text of each answer."""

    question: str
    answers: Sequence[tuple[str, str]]
    verdict: Chip | None = None


@dataclass(frozen=True)
class Card:
    """A picture, what is wrong with the answer, and what was said about it.

    Attributes:
        is_blurred: the picture is hidden until it is clicked.
    """

    picture: Picture | None
    said: Sequence[Said]
    why: str = ""
    is_blurred: bool = False


def picture_at(reference: str, alt: str, caption: str) -> Picture:
    """Return the picture behind a reference, small."""
    return inline_picture(_jpeg(reference), "jpeg", alt, caption)


@lru_cache(maxsize=256)
def _jpeg(reference: str) -> bytes:
    """Return the picture as JPEG, at most 160 x 160 pixels: more than the page shows, so that it stays crisp."""
    # Pages show the same picture beside several answers, and decoding it takes longest.
    image = load_image(reference)
    image.thumbnail((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()
