"""Open pictures that strangers send. All sizes are checked before any pixels are decoded."""

import io
from collections import deque
from collections.abc import Iterable

from PIL import Image, PngImagePlugin

from ..modeling.image_loading import to_rgb
from ..modeling.image_structure import check_structure


# Pillow reads other formats by running programs, or pixel by pixel in Python (BMP).
FORMATS = ["GIF", "JPEG", "PNG", "WEBP"]
# Bytes of all texts inside a PNG, unpacked. Pillow's 64 MiB are in memory for each picture of a request at a time.
PngImagePlugin.MAX_TEXT_MEMORY = 2**21


class PictureError(ValueError):
    """Error in the pictures of a request.

    Attributes:
        number: the picture, from 1; `None` where it is all of them together.
        reason: the rest of a sentence that begins with the picture.
    """

    def __init__(self, number: int | None, reason: str):
        super().__init__(f"{'the pictures' if number is None else f'picture {number}'} {reason}")
        self.number, self.reason = number, reason


def open_pictures(contents: Iterable[bytes], max_pixels: int, max_ratio: int) -> list[Image.Image]:
    """
    Return the RGB images of encoded pictures.

    Args:
        max_pixels: of all of them together.
        max_ratio: of the longer side to the shorter one.

    Raises:
        PictureError: one is no picture of `FORMATS`, is broken or a strip, or they have too many pixels together.
    """
    opened = deque(_open(content, number) for number, content in enumerate(contents, start=1))
    pixels = sum(image.width * image.height for image in opened)
    if pixels > max_pixels:
        raise PictureError(None, f"have {pixels} pixels, more than {max_pixels} together")
    for number, image in enumerate(opened, start=1):
        if max(image.size) > max_ratio * min(image.size):
            raise PictureError(number, f"is a strip: one side is more than {max_ratio} times the other")
    images = []
    for number in range(1, len(opened) + 1):
        try:
            # `popleft` lets a picture go, with its decoder and its pixels, before the next one is decoded.
            images.append(to_rgb(opened.popleft()))
        except ValueError as error:
            raise PictureError(number, f"cannot be read: {error.__cause__ or error}") from None
    return images


def _open(content: bytes, number: int) -> Image.Image:
    try:
        check_structure(content)
    except ValueError as error:
        raise PictureError(number, f"has {error}") from None
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError:
        raise PictureError(number, "has too many pixels") from None
    except Exception:  # Pillow's errors are of many types, and name a file or an address in memory
        raise PictureError(number, f"is none of {', '.join(FORMATS)}, or it is broken") from None
