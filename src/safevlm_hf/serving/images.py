"""From data URLs to pictures. Nothing is fetched, no file is opened, and sizes are known before pixels are decoded."""

import base64
import io
import re
from collections import deque
from collections.abc import Iterable

from PIL import Image, PngImagePlugin

from ..modeling.image_loading import to_rgb
from ..modeling.image_structure import check_structure
from .errors import BadRequest
from .settings import Limits


# Pillow reads others by running programs, or in Python, pixel by pixel (BMP).
FORMATS = ["GIF", "JPEG", "PNG", "WEBP"]
# Small or large letters; a parameter such as `charset=utf-8` says nothing of a picture.
DATA_URL = re.compile(r"data:image/[\w.+-]{1,80}(;[\w.+-]{1,80}=[\w.+-]{0,80}){0,4};base64,", re.ASCII | re.IGNORECASE)
BLANKS = dict.fromkeys(map(ord, " \t\r\n"))  # which programs break base64 with, and browsers pass over
# Bytes of all texts inside a PNG, unpacked. Pillow's 64 MiB are in memory for each picture of a request at a time.
PngImagePlugin.MAX_TEXT_MEMORY = 2**21


def open_pictures(urls: list[str], limits: Limits) -> list[Image.Image]:
    """RGB images. Raises `BadRequest` for what is no data URL, is broken, or is over a limit."""
    if len(urls) > limits.images:
        raise BadRequest(f"The request has {len(urls)} pictures, more than {limits.images}.")
    opened = deque(_open_data_url(url, number) for number, url in enumerate(urls, start=1))
    _check_sizes(opened, limits)
    # Each is let go with its decoder and its pixels before the next one is decoded.
    return [_decode(opened.popleft(), number) for number in range(1, len(urls) + 1)]


def _check_sizes(images: Iterable[Image.Image], limits: Limits):
    pixels = sum(image.width * image.height for image in images)
    if pixels > limits.pixels:
        raise BadRequest(f"The pictures have {pixels} pixels, more than {limits.pixels} together.")
    for number, image in enumerate(images, start=1):
        if max(image.size) > limits.ratio * min(image.size):
            raise BadRequest(f"Picture {number} is a strip: one side is more than {limits.ratio} times the other.")


def _open_data_url(url: str, number: int) -> Image.Image:
    found = DATA_URL.match(url)
    if not found:
        raise BadRequest(
            f"Picture {number} must be a data URL, `data:image/png;base64,...`: this server fetches no address and "
            "opens no file."
        )
    try:
        content = base64.b64decode(url[found.end() :].translate(BLANKS), validate=True)
    except ValueError as error:  # binascii.Error, too
        raise BadRequest(f"Picture {number} is no base64: {error}.") from None
    try:
        check_structure(content)
    except ValueError as error:
        raise BadRequest(f"Picture {number} has {error}.") from None
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError:
        raise BadRequest(f"Picture {number} has too many pixels.") from None
    except Exception:  # Pillow's errors are of many types, and name an address in memory
        raise BadRequest(f"Picture {number} is none of {', '.join(FORMATS)}, or it is broken.") from None


def _decode(image: Image.Image, number: int) -> Image.Image:
    try:
        return to_rgb(image)
    except ValueError as error:
        raise BadRequest(f"Picture {number} cannot be read: {error.__cause__ or error}.") from None
