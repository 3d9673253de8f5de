"""Open the pictures in data URLs. Nothing is fetched, no file is opened, and sizes are checked before decoding."""

import base64
import re

from PIL import Image

from ..untrusted import pictures
from .errors import BadRequest
from .settings import Limits


# Small and large letters are the same. A parameter such as `charset=utf-8` says nothing of a picture and is skipped.
DATA_URL = re.compile(r"data:image/[\w.+-]{1,80}(;[\w.+-]{1,80}=[\w.+-]{0,80}){0,4};base64,", re.ASCII | re.IGNORECASE)
BLANKS = dict.fromkeys(map(ord, " \t\r\n"))  # programs break lines of base64 with them, and browsers skip them


def open_pictures(urls: list[str], limits: Limits) -> list[Image.Image]:
    """Return RGB images. Raises `BadRequest` for what is no data URL, is broken, or is over a limit."""
    if len(urls) > limits.images:
        raise BadRequest(f"The request has {len(urls)} pictures, more than {limits.images}.")
    contents = (_read_data_url(url, number) for number, url in enumerate(urls, start=1))
    try:
        return pictures.open_pictures(contents, limits.pixels, limits.ratio)
    except pictures.PictureError as error:
        subject = "The pictures" if error.number is None else f"Picture {error.number}"
        raise BadRequest(f"{subject} {error.reason}.") from None


def _read_data_url(url: str, number: int) -> bytes:
    found = DATA_URL.match(url)
    if not found:
        raise BadRequest(
            f"Picture {number} must be a data URL, `data:image/png;base64,...`: this server fetches no address and "
            "opens no file."
        )
    try:
        return base64.b64decode(url[found.end() :].translate(BLANKS), validate=True)
    except ValueError as error:  # binascii.Error, too
        raise BadRequest(f"Picture {number} is no base64: {error}.") from None
