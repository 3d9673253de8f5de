"""Small changes of a picture: moved, turned, scaled, cropped, compressed, blurred, or seen in other light.

Every change keeps the picture's size, keeps what it is told to keep inside, and moves the boxes with what they bound.
[`give_shape`] alone makes another size and shape of it.
"""

import io
import math
import random
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter


CHANGES = ("moved", "turned", "scaled", "cropped", "jpeg", "blurred", "light")
MILD_STRENGTHS = (0.15, 0.85)
"""Strengths of the changes in the training and validation splits; 1.0 is the strongest."""
FILLS = ("edge", "black", "white", "colour")
HELD_OUT_FILLS = ("reflect", "grey")
"""What shows beside a picture that was moved, turned or made smaller; the latter in the test split, too."""

SHAPES = ((1.0, 1.0), (1.5, 1.0), (1.0, 1.5), (2.0, 1.0), (1.0, 2.0), (2.0, 2.0))
"""Width and height of pictures of varied shapes, in sides of the square that is drawn."""
LARGE_SHAPES = ((2.0, 2.0),)
TRAINED_SHAPES = (*SHAPES, *LARGE_SHAPES)
"""The large shape comes twice: it shows small print, as the card takes a quarter of it."""
SIZES = (0.7, 1.3)
"""They are scaled by a factor between these."""

Box = list[int]


def change_picture(
    image: Image.Image,
    boxes: Sequence[Box],
    change: str,
    strength: float,
    split: str,
    rng: random.Random,
) -> tuple[Image.Image, list[Box]]:
    """Change a square RGB picture; return it in the same size, with the boxes where their contents are now.

    At strength 1.0 the picture is moved by an eighth of its side, turned by 10 degrees, scaled to 0.6 or 1.3, cropped
    by 12% on a side, a JPEG of quality 15, blurred by 2.5 pixels of 336, or 40% off in brightness, contrast and
    colours. The change's amount lies between 0.6 and 1.0 of the strength.

    Args:
        boxes: `[left, top, right, bottom]` in pixels; the first stays inside the picture.
        strength: above 0, at most 1.
        split: `"test"` has backgrounds of its own, and light that comes from one side.

    Raises:
        ValueError: unknown change, or a strength outside 0 to 1.
    """
    if change not in CHANGES:
        raise ValueError(f"change is {change!r}, expected one of {CHANGES}")
    if not 0 < strength <= 1:
        raise ValueError(f"strength is {strength}, expected a number above 0 and at most 1")
    amount = strength * rng.uniform(0.6, 1.0)
    if change == "cropped":
        return _crop(image, boxes, amount, rng)
    if change in ("moved", "turned", "scaled"):
        return _transform(image, boxes, _matrix(change, amount, image.width, rng), split, rng)
    boxes = [list(box) for box in boxes]
    if change == "jpeg":
        file = io.BytesIO()
        image.save(file, "JPEG", quality=round(90 - 75 * amount))
        return Image.open(file).convert("RGB"), boxes
    if change == "blurred":
        return image.filter(ImageFilter.GaussianBlur(2.5 / 336 * image.width * amount)), boxes
    return _relight(image, amount, split, rng), boxes


def change_at_random(
    image: Image.Image, boxes: Sequence[Box], split: str, rng: random.Random
) -> tuple[Image.Image, list[Box]]:
    """Make up to three mild changes, most often one or two, each as `change_picture` makes it."""
    count = rng.choices((0, 1, 2, 3), (0.2, 0.4, 0.3, 0.1))[0]
    chosen = sorted(rng.sample(CHANGES, count), key=CHANGES.index)
    boxes = [list(box) for box in boxes]
    for change in chosen:
        image, boxes = change_picture(image, boxes, change, rng.uniform(*MILD_STRENGTHS), split, rng)
    return image, boxes


def give_shape(
    image: Image.Image,
    boxes: Sequence[Box],
    split: str,
    rng: random.Random,
    shapes: Sequence[tuple[float, float]] = SHAPES,
) -> tuple[Image.Image, list[Box]]:
    """Lay a square picture anywhere on a canvas of another shape, one of `shapes`, and scale it; return it with its
    boxes."""
    width, height = (round(image.width * sides) for sides in rng.choice(shapes))
    canvas, margin = _surround(image, image.width, split, rng)
    left, top = (rng.randint(max(0, margin + image.width - side), min(margin, canvas.width - side))
                 for side in (width, height))  # fmt: skip
    scale = rng.uniform(*SIZES)
    size = round(width * scale), round(height * scale)
    shaped = canvas.crop((left, top, left + width, top + height)).resize(size, Image.Resampling.BICUBIC)
    matrix = np.array([[scale, 0, scale * (margin - left)], [0, scale, scale * (margin - top)]])
    return shaped, [_clip_to(_move_box(box, matrix), size) for box in boxes]


def _matrix(change: str, amount: float, size: int, rng: random.Random) -> np.ndarray:
    """Draw the matrix (2, 3) that moves a point of the old picture, relative to its centre, into the new one."""
    if change == "moved":
        angle = rng.uniform(0, 2 * math.pi)
        distance = amount * size / 8
        return np.array([[1, 0, distance * math.cos(angle)], [0, 1, distance * math.sin(angle)]])
    if change == "turned":
        angle = math.radians(10 * amount) * rng.choice((-1, 1))
        return np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0]])
    scale = 1 - 0.4 * amount if rng.random() < 0.6 else 1 + 0.3 * amount
    return np.array([[scale, 0, 0], [0, scale, 0]])


def _transform(image, boxes, matrix, split, rng) -> tuple[Image.Image, list[Box]]:
    size = image.width
    centre = size / 2
    matrix[:, 2] += centre - matrix[:, :2] @ (centre, centre)
    moved = [_move_box(box, matrix) for box in boxes]
    # The first box has to stay inside: the picture is shifted until it does.
    left, top, right, bottom = moved[0]
    matrix[:, 2] += _shift_inside(left, right, size), _shift_inside(top, bottom, size)
    # PIL asks for the way back: where each pixel of the new picture lies in the old one, here within its margin.
    inverse = np.linalg.inv(matrix[:, :2])
    offset = -inverse @ matrix[:, 2]
    canvas, margin = _surround(image, image.width // 2, split, rng)
    offset += margin
    data = (inverse[0, 0], inverse[0, 1], offset[0], inverse[1, 0], inverse[1, 1], offset[1])
    changed = canvas.transform((size, size), Image.Transform.AFFINE, data, Image.Resampling.BICUBIC)
    return changed, [_clip(_move_box(box, matrix), size) for box in boxes]


def _surround(image: Image.Image, margin: int, split: str, rng: random.Random) -> tuple[Image.Image, int]:
    """Return the picture within a margin, and the margin's width."""
    fill = rng.choice(FILLS + HELD_OUT_FILLS if split == "test" else FILLS)
    if fill in ("edge", "reflect"):
        widths = ((margin, margin), (margin, margin), (0, 0))
        return Image.fromarray(np.pad(np.asarray(image), widths, mode=fill)), margin
    grey = rng.randint(90, 170)
    colours = {"black": (0, 0, 0), "white": (255, 255, 255), "grey": (grey, grey, grey)}
    colour = colours.get(fill) or tuple(rng.randint(0, 255) for _ in range(3))
    canvas = Image.new("RGB", (image.width + 2 * margin, image.height + 2 * margin), colour)
    canvas.paste(image, (margin, margin))
    return canvas, margin


def _shift_inside(start: float, stop: float, size: int) -> float:
    return max(0.0, -start) - max(0.0, stop - size)


def _move_box(box, matrix: np.ndarray) -> list[float]:
    left, top, right, bottom = box
    corners = np.array([(left, top), (right, top), (left, bottom), (right, bottom)]) @ matrix[:, :2].T + matrix[:, 2]
    return [*corners.min(axis=0), *corners.max(axis=0)]


def _clip(box: Sequence[float], size: int) -> Box:
    return _clip_to(box, (size, size))


def _clip_to(box: Sequence[float], size: tuple[int, int]) -> Box:
    left, top, right, bottom = box
    return [max(0, int(left)), max(0, int(top)), min(size[0], math.ceil(right)), min(size[1], math.ceil(bottom))]


def _crop(image, boxes, amount: float, rng: random.Random) -> tuple[Image.Image, list[Box]]:
    """Cut off borders, each of them by another width, and make the rest as large as the picture was."""
    size = image.width
    left, top, right, bottom = boxes[0]
    widest = 0.12 * amount * size
    cuts = [widest * rng.uniform(0.3, 1) if rng.random() < 0.75 else 0.0 for _ in range(4)]
    cuts[rng.randrange(4)] = widest
    x, y = min(cuts[0], left), min(cuts[1], top)
    width, height = size - min(cuts[2], size - right) - x, size - min(cuts[3], size - bottom) - y
    # The resampling has no box of its own: PIL's `box` argument takes fractions of pixels.
    changed = image.resize((size, size), Image.Resampling.BICUBIC, box=(x, y, x + width, y + height))
    matrix = np.array([[size / width, 0, -x * size / width], [0, size / height, -y * size / height]])
    return changed, [_clip(_move_box(box, matrix), size) for box in boxes]


def _relight(image: Image.Image, amount: float, split: str, rng: random.Random) -> Image.Image:
    """Change brightness, contrast and colour cast; in half of the test split the light comes from one side."""
    widest = 0.4 * amount
    contrast, brightness = 1 + rng.uniform(-widest, widest), 1 + rng.uniform(-widest, widest)
    table = []
    for cast in (rng.uniform(-widest, widest) / 2 for _ in range(3)):
        gain = brightness * (1 + cast)
        table += [min(255, max(0, round(((value - 128) * contrast + 128) * gain))) for value in range(256)]
    image = image.point(table)
    if split != "test" or rng.random() < 0.5:
        return image
    shade = Image.linear_gradient("L").resize(image.size).rotate(rng.choice((0, 90, 180, 270)))
    shade = shade.point([round(255 * widest * value / 255) for value in range(256)])
    return Image.composite(Image.new("RGB", image.size), image, shade)
