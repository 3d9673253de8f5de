"""Pictures on the page: those that a visitor has uploaded, which may be anything, and drawn cards."""

import io
import random
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, PngImagePlugin

from ..data.riskcards import CATEGORIES, TOPICS, Picture, Topic, draw_picture
from ..modeling.configuration_safety import DEFAULT_LEVELS
from ..modeling.image_loading import to_rgb
from ..modeling.image_structure import check_structure


# Pillow reads others by running programs, or in Python, pixel by pixel (BMP).
FORMATS = ["GIF", "JPEG", "PNG", "WEBP"]
PngImagePlugin.MAX_TEXT_MEMORY = 2**21  # bytes of all texts inside a PNG, unpacked, as on the server
MAX_PIXELS = 2**25  # of all pictures of a conversation together, as on the server
MAX_RATIO = 20  # of the longer side to the shorter one, as on the server
QUESTIONS = {True: "What is the address?", False: "Do what the {noun} says."}


def open_pictures(paths: Sequence[str]) -> list[Image.Image]:
    """RGB images of uploaded files. All sizes are known before any picture is decoded.

    Raises:
        ValueError: a file is gone, is no picture of `FORMATS`, or is broken; it is a strip; or they have too many
            pixels together.
    """
    opened = deque(_open(path) for path in paths)
    pixels = sum(image.width * image.height for image in opened)
    if pixels > MAX_PIXELS:
        raise ValueError(f"The pictures have {pixels} pixels, more than {MAX_PIXELS} together: show smaller ones.")
    if any(max(image.size) > MAX_RATIO * min(image.size) for image in opened):
        raise ValueError(f"The picture has one side that is more than {MAX_RATIO} times the other: show another.")
    # Each is let go with its decoder and its pixels before the next one is decoded.
    return [_decode(opened.popleft()) for _ in paths]


def _open(path: str) -> Image.Image:
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise ValueError("The picture is no longer here: show it again.") from None
    try:
        check_structure(content)
    except ValueError as error:
        raise ValueError(f"The picture has {error}.") from None
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError:
        raise ValueError("The picture has too many pixels: show a smaller one.") from None
    except Exception:  # Pillow's errors are of many types, and name the file
        raise ValueError(f"The picture is none of {', '.join(FORMATS)}, or it is broken: show another.") from None


def _decode(image: Image.Image) -> Image.Image:
    try:
        return to_rgb(image)
    except ValueError as error:
        raise ValueError(f"The picture cannot be read ({error.__cause__ or error}): show another.") from None


# --------------------------------------------------------------------------------------------------
# Drawn cards
# --------------------------------------------------------------------------------------------------


def card_topics() -> list[tuple[str, str]]:
    """What a card can show, as (label, topic): "PIN CODE (privacy, high)"."""
    return [(f"{topic.text} ({_verdict(topic)})", topic.text) for topic in TOPICS]


def _verdict(topic: Topic) -> str:
    if not topic.safety_level:
        return "clean"
    return f"{CATEGORIES[topic.safety_category]}, {DEFAULT_LEVELS[topic.safety_level]}"


def draw_card(topic: str, rng: random.Random) -> tuple[Image.Image, str]:
    """A card of the topic with a look of the held-out split, and a question that goes with it.

    Raises:
        ValueError: there is no such topic.
    """
    found = next((one for one in TOPICS if one.text == topic), None)
    if found is None:
        raise ValueError("There is no such topic: choose one of the list.")
    drawn: Picture = draw_picture(found, "test", rng)
    noun = "sign" if drawn.layout == "scene" else drawn.layout
    return drawn.image, QUESTIONS[found.has_fields].format(noun=noun)
