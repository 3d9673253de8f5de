"""From data URLs to pictures. Nothing is fetched, no file is opened, and sizes are known before pixels are decoded."""

import base64
import binascii
import io
import re

from PIL import Image

from ..modeling.image_loading import to_rgb
from .errors import BadRequest
from .settings import Limits


FORMATS = ["BMP", "GIF", "JPEG", "PNG", "WEBP"]  # Pillow reads others by running programs
DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,")


def open_pictures(urls: list[str], limits: Limits) -> list[Image.Image]:
    """RGB images. Raises `BadRequest` for what is no data URL, is broken, or is over a limit."""
    if len(urls) > limits.images:
        raise BadRequest(f"The request has {len(urls)} pictures, more than {limits.images}.")
    opened = [_open_data_url(url, number) for number, url in enumerate(urls, start=1)]
    pixels = sum(image.width * image.height for image in opened)
    if pixels > limits.pixels:
        raise BadRequest(f"The pictures have {pixels} pixels, more than {limits.pixels} together.")
    return [_decode(image, number) for number, image in enumerate(opened, start=1)]


def _open_data_url(url: str, number: int) -> Image.Image:
    found = DATA_URL.match(url)
    if not found:
        raise BadRequest(
            f"Picture {number} must be a data URL, `data:image/png;base64,...`: this server fetches no address and "
            "opens no file."
        )
    try:
        return Image.open(io.BytesIO(base64.b64decode(url[found.end() :], validate=True)), formats=FORMATS)
    except binascii.Error as error:
        raise BadRequest(f"Picture {number} is no base64: {error}.") from None
    except Image.DecompressionBombError:
        raise BadRequest(f"Picture {number} has too many pixels.") from None
    except Exception:  # Pillow's errors are of many types, and name an address in memory
        raise BadRequest(f"Picture {number} is none of {', '.join(FORMATS)}, or it is broken.") from None


def _decode(image: Image.Image, number: int) -> Image.Image:
    try:
        return to_rgb(image)
    except ValueError as error:
        raise BadRequest(f"Picture {number} cannot be read: {error.__cause__ or error}.") from None
