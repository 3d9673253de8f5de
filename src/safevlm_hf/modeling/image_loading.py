"""Images as they should be judged, wherever they come from: RGB of 8 bits, upright, first frame, on a white ground.

What cannot be read so is a `ValueError`. Bombs are refused by what the file's head says, before anything is decoded.
"""

import base64
import binascii
import io
import os
import re
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from PIL import ExifTags, Image
from transformers.utils import is_numpy_array

from .image_structure import check_avif, check_directory, check_structure


Image.init()
# Pillow reads more than these, and runs some of the others (EPS) as programs, whatever the name of the file says.
_PICTURES = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
FORMATS = tuple(name for name in _PICTURES if name in Image.OPEN)
PROGRAMS = ("EPS", "WMF")
MAX_ASPECT_RATIO = 200  # a longer strip takes gigabytes once its short side is as long as the model's
MAX_COVER = 8  # times that a file's tiles cover it: a TIFF's channels may have their own
MAX_FILE = 2**30  # bytes of a local file: more than the largest picture that Pillow opens has without compression
MAX_DOWNLOAD = 64 * 2**20  # bytes
DOWNLOAD_TIMEOUT = 30.0  # seconds without an answer
MAX_DOWNLOAD_TIME = 300.0  # seconds in all
LARGEST_16_BIT = 2**16 - 1
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Turns that set a picture upright, by EXIF's orientation."""


def load_images(images):
    """Load what a processor is given as `images`, nested as it was: paths, URLs, base64 texts and PIL images become
    RGB images, integers become bytes."""
    if isinstance(images, (list, tuple)):
        return [load_images(image) for image in images]
    if isinstance(images, (str, os.PathLike)):
        return open_image(images)
    if isinstance(images, Image.Image):
        return to_rgb(images)
    return _to_bytes(images)


def open_image(
    source: str | os.PathLike, draft_size: tuple[int, int] | None = None, urlopen: Callable = urllib.request.urlopen
) -> Image.Image:
    """Return the RGB image of a path, an http(s) URL, a data URL or a base64 text.

    Args:
        source: where the image is.
        draft_size: a JPEG may be decoded at a fraction of its size, no smaller than this.
        urlopen: what opens a URL, as `urllib.request.urlopen` does.

    Raises:
        ValueError: it is not there, is no image, is cut off, is a bomb, or has pixels without a meaning.
    """
    source = os.fspath(source)
    name = source if len(source) <= 200 else f"{source[:200]}..."
    try:
        content = _find(source, urlopen)
        check_structure(content)
        check_avif(content)
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check_size(image)
            if draft_size:
                image.draft("RGB", draft_size)
            return _to_rgb(image)
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error and more for broken files
        raise ValueError(f"unreadable image: {name} ({_reason(error)})") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a PIL image as [`open_image`] gives it."""
    try:
        _check_size(image)
        return _to_rgb(image)
    except Exception as error:
        raise ValueError(
            f"unreadable image: {getattr(image, 'filename', '') or 'a PIL image'} ({_reason(error)})"
        ) from error


def _reason(error: Exception) -> str:
    """Return an error's text without objects in memory, whose addresses differ from run to run."""
    return re.sub(r" ?<[^<>]* at 0x[0-9a-fA-F]+>", "", str(error))


def _find(source: str, urlopen: Callable) -> bytes:
    if source.startswith(("http://", "https://")):
        return _download(source, urlopen)
    if os.path.isfile(source):
        if os.path.getsize(source) > MAX_FILE:
            raise ValueError(f"more than {MAX_FILE} bytes")
        return Path(source).read_bytes()
    text = source.partition(",")[2] if source.startswith("data:image/") else source
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("neither a file, an http(s) URL nor base64") from None


def _download(url: str, urlopen: Callable) -> bytes:
    content, end = bytearray(), time.monotonic() + MAX_DOWNLOAD_TIME
    with urlopen(url, timeout=DOWNLOAD_TIMEOUT) as response:
        while part := response.read1(2**16):
            content += part
            if len(content) > MAX_DOWNLOAD:
                raise ValueError(f"more than {MAX_DOWNLOAD} bytes")
            if time.monotonic() > end:
                raise ValueError(f"not there after {MAX_DOWNLOAD_TIME:.0f} seconds")
    return bytes(content)


def _check_size(image: Image.Image):
    if image.format in PROGRAMS:
        raise ValueError(f"{image.format} files are programs, which are not run: save it as PNG or JPEG")
    width, height = image.size
    if Image.MAX_IMAGE_PIXELS and width * height > Image.MAX_IMAGE_PIXELS:
        raise ValueError(f"{width} x {height} pixels, more than {Image.MAX_IMAGE_PIXELS}")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise ValueError(f"{width} x {height} pixels, one side is more than {MAX_ASPECT_RATIO} times the other")
    boxes = [tile[1] or (0, 0, width, height) for tile in getattr(image, "tile", ())]
    if sum((right - left) * (lower - upper) for left, upper, right, lower in boxes) > MAX_COVER * width * height:
        raise ValueError(f"its tiles cover it more than {MAX_COVER} times: save it anew")


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    image = _to_8_bits(_upright(image))
    if image.has_transparency_data:
        # Without a ground the colours of transparent pixels would show, which nobody sees.
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    image.info.clear()  # the orientation in it has been followed
    return image


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image as `ImageOps.exif_transpose` does, which also reads and writes all of the EXIF."""
    # The block is what `getexif` reads; a TIFF has none.
    block = image.info.get("exif")
    if block is None:
        lines = image.info.get("Raw profile type exif", "").split("\n")
        block = bytes.fromhex("".join(lines[3:]))
    check_directory(block)
    turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    return image if turn is None else image.transpose(turn)


def _to_8_bits(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are fractions, and nothing says which is white: save it with 8 bits")
    if not image.mode.startswith("I"):
        return image
    is_16_bit = image.mode != "I"  # that mode holds either
    image = image.convert("I")
    low, high = cast(tuple[int, int], image.getextrema())  # one band has one pair
    if low < 0 or high > LARGEST_16_BIT:
        raise ValueError(f"its pixels go from {low} to {high}: save it with 8 or 16 bits")
    if is_16_bit or high > 255:
        image = image.point(lambda value: value * (255 / LARGEST_16_BIT) + 0.5)
    return image.convert("L")


def _to_bytes(image):
    """Return an array as it is, integers of any type as 8 bits."""
    if torch.is_tensor(image) and not (image.is_floating_point() or image.is_complex()):
        values, convert = image.to(torch.int64), lambda values: values.to(torch.uint8)
    elif is_numpy_array(image) and image.dtype.kind in "iu":
        values, convert = image, lambda values: values.astype("uint8")
    else:
        return image
    if 0 not in values.shape and (values.min() < 0 or values.max() > 255):
        raise ValueError(f"Pixels given as integers must be in 0 to 255, got {values.min()} to {values.max()}.")
    return convert(values)
