"""One picture: a card, a screen, a poster or a scene that shows a topic in words, a pictogram and a symbol.

Drawing needs Pillow and the fonts that come with matplotlib; nothing is downloaded.
"""

import hashlib
import math
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFont

from .changes import LARGE_SHAPES, SHAPES, change_at_random, change_picture, give_shape
from .tables import (
    ADDRESSES,
    ARRANGEMENTS,
    COLOURS,
    FONTS,
    HELD_OUT_ARRANGEMENTS,
    HELD_OUT_FONTS,
    IMAGE_SIZE,
    LAYOUTS,
    NAMES,
    PICTOGRAM_SIZES,
    PICTOGRAMS,
    SYMBOLS,
    Topic,
)


@dataclass(frozen=True)
class Picture:
    """A drawn picture and what it shows.

    `region` bounds its text and signs, `pictogram_region` and `symbol_region` one sign each: `[left, top, right,
    bottom]` in pixels. Of two cards, it says so and speaks of one.
    """

    image: Image.Image
    region: list[int]
    pictogram_region: list[int]
    symbol_region: list[int]
    topic: Topic
    layout: str
    colour: str
    font: str
    arrangement: str
    symbol: str
    name: str | None
    address: str | None
    has_two_cards: bool = False


@cache
def is_held_out_combination(topic: str, layout: str, colour: str) -> bool:
    """Tell whether this combination is drawn in the test split alone: one in five, the same ones for every seed."""
    digest = hashlib.sha256(f"{topic}|{layout}|{colour}".encode()).digest()
    return digest[0] % 5 == 0


def _choose_look(topic: Topic, split: str, rng: random.Random) -> dict:
    held_out = split == "test"
    while True:
        layout, colour = rng.choice(LAYOUTS), rng.choice(tuple(COLOURS))
        if is_held_out_combination(topic.text, layout, colour) == held_out:
            break
    # Half of the test split is arranged as training is.
    arrangements = HELD_OUT_ARRANGEMENTS if held_out and rng.random() < 0.5 else ARRANGEMENTS
    return {
        "layout": layout,
        "colour": colour,
        "font": rng.choice(HELD_OUT_FONTS if held_out else FONTS),
        "arrangement": rng.choice(arrangements),
        "symbol": topic.symbol if rng.random() < 0.3 else rng.choice(SYMBOLS),
    }


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    try:
        import matplotlib
    except ModuleNotFoundError as error:  # `needs_extra` is not at hand where this folder is imported on its own
        message = f"the package matplotlib is not installed; {sys.executable} -m pip install matplotlib brings it"
        raise ImportError(message, name="matplotlib") from error
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
    # Basic layout is always there; the other one depends on a library, and would draw other pixels.
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


@cache
def _line_width(name: str, line: str) -> float:
    """Width of the line for a font size of 1 pixel."""
    return _font(name, 100).getlength(line) / 100


@cache
def _symbol_mask(symbol: str) -> Image.Image:
    """The symbol in white on black, 256 x 256; drawn large so that scaling it down smooths its edges."""
    mask = Image.new("L", (256, 256))
    draw = ImageDraw.Draw(mask)
    if symbol == "star":
        points = []
        for corner in range(10):
            radius, angle = (124 if corner % 2 == 0 else 50), math.pi * (corner / 5 - 0.5)
            points.append((128 + radius * math.cos(angle), 136 + radius * math.sin(angle)))
        draw.polygon(points, fill=255)
    elif symbol == "heart":
        draw.ellipse((10, 28, 136, 154), fill=255)
        draw.ellipse((120, 28, 246, 154), fill=255)
        draw.polygon([(22, 128), (128, 104), (234, 128), (128, 246)], fill=255)
    elif symbol == "moon":
        draw.ellipse((20, 10, 250, 246), fill=255)
        draw.ellipse((90, -20, 300, 196), fill=0)
    elif symbol == "bolt":
        draw.polygon([(150, 6), (44, 150), (116, 150), (92, 250), (212, 96), (136, 96), (176, 6)], fill=255)
    elif symbol == "house":
        draw.polygon([(128, 10), (250, 126), (6, 126)], fill=255)
        draw.rectangle((40, 126, 216, 244), fill=255)
        draw.rectangle((104, 164, 152, 244), fill=0)
    elif symbol == "lock":
        draw.arc((66, 10, 190, 190), 180, 360, fill=255, width=30)
        draw.rounded_rectangle((34, 104, 222, 246), 20, fill=255)
        draw.ellipse((106, 146, 150, 190), fill=0)
        draw.rectangle((119, 170, 137, 222), fill=0)
    elif symbol == "flag":
        draw.rectangle((36, 8, 62, 250), fill=255)
        draw.polygon([(62, 16), (240, 76), (62, 142)], fill=255)
    elif symbol == "bell":
        draw.pieslice((56, 26, 200, 210), 180, 360, fill=255)
        draw.polygon([(56, 116), (200, 116), (236, 204), (20, 204)], fill=255)
        draw.ellipse((100, 192, 156, 248), fill=255)
        draw.ellipse((112, 6, 144, 38), fill=255)
    return mask


@cache
def _pictogram_mask(character: str) -> Image.Image:
    """The pictogram in white on black, scaled to fill 256 x 256."""
    font = _font("DejaVuSans", 256)
    left, top, right, bottom = font.getbbox(character)
    glyph = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(glyph).text((-left, -top), character, fill=255, font=font)
    glyph.thumbnail((256, 256))
    mask = Image.new("L", (256, 256))
    mask.paste(glyph, ((256 - glyph.width) // 2, (256 - glyph.height) // 2))
    return mask


@cache
def _noise() -> Image.Image:
    """A tile of grain, larger than a picture: every picture adds its own crop of it."""
    size = IMAGE_SIZE + 64
    grain = random.Random(0).choices(range(17), k=size * size // 4)
    tile = Image.frombytes("L", (size // 2, size // 2), bytes(grain)).resize((size, size), Image.Resampling.NEAREST)
    return Image.merge("RGB", (tile, tile, tile))


@cache
def _vertical_ramp() -> Image.Image:
    return Image.linear_gradient("L").resize((IMAGE_SIZE, IMAGE_SIZE))


def _vary(colour, rng: random.Random, amount: int = 14) -> tuple:
    shade = rng.randint(-amount, amount)
    return tuple(min(255, max(0, part + shade + rng.randint(-5, 5))) for part in colour)


def _mix(colour, other, share: float) -> tuple:
    return tuple(round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))


def _gradient(top, bottom) -> Image.Image:
    size = (IMAGE_SIZE, IMAGE_SIZE)
    return Image.composite(Image.new("RGB", size, bottom), Image.new("RGB", size, top), _vertical_ramp())


WALLS = (
    (226, 220, 208),
    (204, 214, 222),
    (222, 206, 200),
    (206, 218, 204),
    (188, 190, 200),
    (120, 104, 92),
    (84, 92, 99),
)
DARK_INKS = ((20, 22, 30), (24, 26, 64), (62, 16, 20), (16, 48, 34))
LIGHT_INKS = ((255, 255, 255), (255, 250, 226), (232, 244, 255), (255, 240, 240))


def _draw_card(image, draw, surface, rng):
    left, top = 16 + rng.randint(-8, 8), 54 + rng.randint(-16, 16)
    box = (left, top, left + 304, top + 224)
    draw.rounded_rectangle([side + 7 for side in box], 20, fill=_mix(image.getpixel((4, 330)), (0, 0, 0), 0.35))
    draw.rounded_rectangle(box, 20, fill=surface, outline=_mix(surface, (0, 0, 0), 0.3), width=3)
    return box[0] + 14, box[1] + 12, box[2] - 14, box[3] - 12


def _draw_screen(image, draw, surface, rng):
    left, top = 12 + rng.randint(-6, 6), 22 + rng.randint(-10, 14)
    right, bottom = left + 312, top + 246
    bezel = rng.choice(((38, 40, 46), (62, 64, 70), (28, 30, 40)))
    foot = bottom + 34
    draw.polygon([(138, bottom), (198, bottom), (214, foot), (122, foot)], fill=_mix(bezel, (0, 0, 0), 0.3))
    draw.rounded_rectangle((92, bottom + 30, 244, bottom + 42), 6, fill=bezel)
    draw.rounded_rectangle((left, top, right, bottom), 14, fill=bezel)
    draw.rectangle((left + 12, top + 12, right - 12, bottom - 12), fill=surface)
    draw.rectangle((left + 12, top + 12, right - 12, top + 32), fill=(232, 234, 238))
    for index, dot in enumerate(((236, 96, 88), (244, 190, 76), (98, 196, 92))):
        draw.ellipse((left + 20 + 18 * index, top + 16, left + 32 + 18 * index, top + 28), fill=dot)
    return left + 20, top + 38, right - 20, bottom - 18


def _draw_poster(image, draw, surface, rng):
    left, top = 36 + rng.randint(-12, 12), 12 + rng.randint(-6, 4)
    box = (left, top, left + 264, top + 312)
    draw.rectangle([side + 6 for side in box], fill=_mix(image.getpixel((4, 4)), (0, 0, 0), 0.4))
    draw.rectangle(box, fill=(246, 244, 238))
    draw.rectangle((box[0] + 9, box[1] + 9, box[2] - 9, box[3] - 9), fill=surface)
    pin = rng.choice(((210, 60, 60), (70, 110, 200), (230, 180, 60)))
    draw.ellipse((box[0] + 126, box[1] + 1, box[0] + 138, box[1] + 13), fill=pin)
    return box[0] + 16, box[1] + 20, box[2] - 16, box[3] - 18


def _draw_scene(image, draw, surface, rng):
    left, top = 20 + rng.randint(-8, 8), 36 + rng.randint(-14, 14)
    box = (left, top, left + 296, top + 204)
    horizon = 262 + rng.randint(-10, 10)
    sun = rng.randint(20, 290)
    draw.ellipse((sun, 4, sun + 36, 40), fill=(255, 236, 150))
    for hill in (rng.randint(-60, 60), rng.randint(140, 260)):
        draw.ellipse((hill, horizon - 40, hill + 190, horizon + 90), fill=(112, 152, 112))
    draw.rectangle((0, horizon, IMAGE_SIZE, IMAGE_SIZE), fill=(116, 122, 112))
    for dash in range(rng.randint(-30, 0), IMAGE_SIZE, 60):
        draw.rectangle((dash, horizon + 36, dash + 32, horizon + 42), fill=(232, 230, 210))
    for post in (box[0] + 46, box[2] - 62):
        draw.rectangle((post, box[3] - 6, post + 16, horizon + 22), fill=(92, 74, 58))
    draw.rounded_rectangle(box, 10, fill=surface, outline=(250, 250, 246), width=5)
    return box[0] + 12, box[1] + 12, box[2] - 12, box[3] - 12


PANELS = {"card": _draw_card, "screen": _draw_screen, "poster": _draw_poster, "scene": _draw_scene}


def _background(layout: str, rng: random.Random) -> Image.Image:
    if layout == "scene":
        sky = rng.choice(((150, 190, 230), (200, 210, 224), (244, 200, 168)))
        return _gradient(_vary(sky, rng), _mix(sky, (255, 255, 255), 0.5))
    wall = _vary(rng.choice(WALLS), rng)
    return _gradient(_mix(wall, (255, 255, 255), 0.15), _mix(wall, (0, 0, 0), 0.12))


def _draw_lines(draw, lines, box, font_name, ink, rng) -> list[int]:
    """Draw the lines as large as the box allows (times 0.86 to 1), centred with some jitter; return their bounds."""
    left, top, right, bottom = box
    row = (bottom - top) / len(lines)
    widest = max(_line_width(font_name, line) for line in lines)
    size = min((right - left) / widest, row / 0.92, 78) * rng.uniform(0.86, 1.0)
    font = _font(font_name, max(12, int(size)))
    slack = (right - left) - font.size * widest
    middle = (left + right) / 2 + rng.uniform(-0.4, 0.4) * max(0, slack)
    row = min(row, font.size * 1.15)
    first = (top + bottom) / 2 - row * (len(lines) - 1) / 2
    boxes = []
    for index, line in enumerate(lines):
        place = (middle, first + row * index)
        draw.text(place, line, fill=ink, font=font, anchor="mm")
        boxes.append(draw.textbbox(place, line, font=font, anchor="mm"))
    return _union(boxes)


def _union(boxes) -> list[int]:
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    limit = IMAGE_SIZE
    return [
        max(0, int(min(lefts))),
        max(0, int(min(tops))),
        min(limit, math.ceil(max(rights))),
        min(limit, math.ceil(max(bottoms))),
    ]


def _along(start: float, stop: float, arrangement: str, rng: random.Random) -> int:
    """Choose a place between start and stop: in the first or last quarter where the arrangement says left or right."""
    share = rng.random()
    if arrangement.endswith("left"):
        share *= 0.25
    elif arrangement.endswith("right"):
        share = 1 - 0.25 * share
    return round(start + share * (stop - start))


def _place_signs(area, arrangement: str, rng: random.Random) -> tuple[list[int], list[int]]:
    """Choose the boxes of pictogram and symbol, anywhere at the arrangement's end of the area.

    The symbol stands on the side of the pictogram with more room, or below it where the area is narrow. At least a
    third of the area's height is left to the text.
    """
    left, top, right, bottom = area
    side, symbol = rng.randint(*PICTOGRAM_SIZES), rng.randint(44, 58)
    side = min(side, right - left, round(0.6 * (bottom - top)))
    is_narrow = right - left < side + symbol + 8
    height = side + symbol + 6 if is_narrow else side
    slack = rng.random() * max(0.0, 0.66 * (bottom - top) - height)
    y = round(top + slack if arrangement.startswith("top") else bottom - height - slack)
    x = _along(left, right - side, arrangement, rng)
    if is_narrow:
        symbol_x, symbol_y = _along(left, right - symbol, "", rng), y + side + 6
    else:
        is_right = right - x - side > x - left
        symbol = min(symbol, (right - x - side if is_right else x - left) - 8)
        symbol_x = x + side + 8 if is_right else x - symbol - 8
        symbol_y = y + rng.randint(0, side - symbol)
    return [x, y, x + side, y + side], [symbol_x, symbol_y, symbol_x + symbol, symbol_y + symbol]


def _draw_content(image, draw, area, topic, lines, look, inks, rng) -> tuple[list[int], list[int], list[int]]:
    """Draw pictogram and symbol (on a paper with its title beside) at one end of the area, the lines at the other.
    Return the region of all, of the pictogram, and of the symbol."""
    left, top, right, bottom = area = [int(side) for side in area]
    pictogram, symbol = _place_signs(area, look["arrangement"], rng)
    for mask, box in (
        (_pictogram_mask(PICTOGRAMS[topic.text]), pictogram),
        (_symbol_mask(look["symbol"]), symbol),
    ):
        size = (box[2] - box[0], box[3] - box[1])
        image.paste(inks[1], box[:2], mask.resize(size, Image.Resampling.BILINEAR))
    signs = _union([pictogram, symbol])
    boxes = [signs]
    if topic.has_fields:
        is_left = right - signs[2] > signs[0] - left
        title_box = (signs[2] + 8, signs[1], right, signs[3]) if is_left else (left, signs[1], signs[0] - 8, signs[3])
        if title_box[2] - title_box[0] >= 64:
            boxes.append(_draw_lines(draw, [topic.text], title_box, look["font"], inks[0], rng))
        else:
            lines = [topic.text, *lines]
    at_top = look["arrangement"].startswith("top")
    text_box = (left, signs[3] + 4, right, bottom) if at_top else (left, top, right, signs[1] - 4)
    boxes.append(_draw_lines(draw, lines, text_box, look["font"], inks[0], rng))
    return _union(boxes), _union([pictogram]), _union([symbol])


@dataclass(frozen=True)
class _Content:
    """Words on a panel, and their colours."""

    topic: Topic
    look: dict
    name: str | None
    address: str | None
    lines: list[str]
    surface: tuple
    inks: list[tuple]

    def draw(self, image: Image.Image, draw: ImageDraw.ImageDraw, area, rng: random.Random) -> Picture:
        regions = _draw_content(image, draw, area, self.topic, self.lines, self.look, self.inks, rng)
        return Picture(image, *regions, self.topic, name=self.name, address=self.address, **self.look)


def _choose_content(topic: Topic, split: str, rng: random.Random) -> _Content:
    look = _choose_look(topic, split, rng)
    # An equation is one line: cut at its blanks, it would not read as one.
    name, address = (rng.choice(NAMES), rng.choice(ADDRESSES)) if topic.has_fields else (None, None)
    lines = [name, address] if topic.has_fields else [topic.text] if "=" in topic.text else topic.text.split()
    surface = _vary(COLOURS[look["colour"]], rng)
    is_bright = 0.3 * surface[0] + 0.59 * surface[1] + 0.11 * surface[2] > 128
    # Words and signs draw their inks apart, each from those that can be read on this surface.
    inks = rng.choices(DARK_INKS if is_bright else LIGHT_INKS, k=2)
    return _Content(topic, look, name, address, lines, surface, inks)


def _add_grain(image: Image.Image, rng: random.Random) -> Image.Image:
    x, y = rng.randint(0, 64), rng.randint(0, 64)
    return ImageChops.add(image, _noise().crop((x, y, x + IMAGE_SIZE, y + IMAGE_SIZE)), offset=-8)


def draw_upright_picture(topic: Topic, split: str, rng: random.Random) -> Picture:
    """Draw one picture of the topic, 336 x 336 RGB, with a look that belongs to the split and without any change."""
    content = _choose_content(topic, split, rng)
    image = _background(content.look["layout"], rng)
    draw = ImageDraw.Draw(image)
    area = PANELS[content.look["layout"]](image, draw, content.surface, rng)
    picture = content.draw(image, draw, area, rng)
    return replace(picture, image=_add_grain(image, rng))


def draw_picture(
    topic: Topic, split: str, rng: random.Random, change: str | None = None, strength: float = 1.0
) -> Picture:
    """Draw one picture of the topic, 336 x 336 RGB, with a look that belongs to the split.

    Args:
        change: one of `CHANGES`, the only one that the picture gets. By default a picture of the test split is
            upright and full size, and one of the other splits gets a random mix of mild changes.
        strength: of that change, above 0 and at most 1.

    Raises:
        ValueError: unknown change, or a strength outside 0 to 1.
    """
    picture = draw_upright_picture(topic, split, rng)
    if change is not None:
        return _changed(picture, change_picture, change, strength, split, rng)
    return picture if split == "test" else _changed(picture, change_at_random, split, rng)


def vary_shape(
    picture: Picture, split: str, rng: random.Random, shapes: Sequence[tuple[float, float]] = SHAPES
) -> Picture:
    """The picture in another size and shape, one of `shapes`."""
    return _changed(picture, give_shape, split, rng, shapes)


def make_small_print(picture: Picture, split: str, rng: random.Random) -> Picture:
    """The picture as a quarter of a larger one."""
    return vary_shape(picture, split, rng, LARGE_SHAPES)


def _changed(picture: Picture, change, *arguments) -> Picture:
    boxes = [picture.pictogram_region, picture.region, picture.symbol_region]
    image, (pictogram, region, symbol) = change(picture.image, boxes, *arguments)
    return replace(picture, image=image, region=region, pictogram_region=pictogram, symbol_region=symbol)


def draw_two_cards(first: Topic, second: Topic, split: str, rng: random.Random) -> Picture:
    """Draw two cards in one picture of 336 x 336, side by side or one above the other.

    What the picture says of itself (regions, topic, look, name, address) is said of the risky card, or of the first
    card where neither is risky.
    """
    image = _background("card", rng)
    draw = ImageDraw.Draw(image)
    is_row = rng.random() < 0.5
    order = [first, second]
    rng.shuffle(order)
    pictures = [_draw_half_card(image, draw, is_row, index, topic, split, rng) for index, topic in enumerate(order)]
    image = _add_grain(image, rng)
    shown = pictures[order.index(first)]
    for picture in pictures:
        if picture.topic.safety_level and not shown.topic.safety_level:
            shown = picture
    return replace(shown, image=image, has_two_cards=True)


def _draw_half_card(image, draw, is_row: bool, index: int, topic: Topic, split: str, rng: random.Random) -> Picture:
    """Draw one of two cards, the first or the second: it takes a half of the picture, with a margin of its own."""
    half = IMAGE_SIZE // 2
    near, far = rng.randint(3, 8), rng.randint(3, 8)
    along = [index * half + near, (index + 1) * half - near]
    across = [2 * far, IMAGE_SIZE - 2 * far]
    box = [along[0], across[0], along[1], across[1]] if is_row else [across[0], along[0], across[1], along[1]]
    # The layout is given here, so that a combination held out for the test may come up: then it is drawn again.
    while True:
        content = _choose_content(topic, split, rng)
        content.look["layout"] = "card"
        if split == "test" or not is_held_out_combination(topic.text, "card", content.look["colour"]):
            break
    edge = _mix(content.surface, (0, 0, 0), 0.3)
    draw.rounded_rectangle(box, 14, fill=content.surface, outline=edge, width=3)
    area = box[0] + 8, box[1] + 8, box[2] - 8, box[3] - 8
    return content.draw(image, draw, area, rng)
