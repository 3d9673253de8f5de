"""Upright pictures, drawn once, and the changes that make every batch of them new."""

import math
import multiprocessing
import random
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from safevlm_hf.data import riskcards
from safevlm_hf.data.riskcards.drawing import draw_two_cards, draw_upright_picture

from . import GRID, IGNORE_INDEX, IMAGE_SIZE, PATCH_SIZE


DRAWN_SIZE = 144
"""Side of the pictures that are kept: larger than what the tower sees, so that a picture can be enlarged."""
CHUNK = 1000
MEAN = torch.tensor((0.48145466, 0.4578275, 0.40821073)).view(3, 1, 1)
STD = torch.tensor((0.26862954, 0.26130258, 0.27577711)).view(3, 1, 1)
TOPICS = [topic.text for topic in riskcards.TOPICS]
NAMES = (*TOPICS, *riskcards.SYMBOLS)
"""What a patch can show: a topic's pictogram, or a symbol."""


@dataclass(frozen=True)
class Pictures:
    """Pictures and what they show.

    Attributes:
        pixels: (pictures, 3, 144, 144) uint8.
        boxes: (pictures, 2, 4): pictogram and symbol, `[left, top, right, bottom]` as shares of the side.
        names: (pictures, 2): positions of pictogram and symbol in `NAMES`.
        looks: (pictures, 2): positions of colour and layout in RiskCards' tables; -100 where two cards differ.
    """

    pixels: torch.Tensor
    boxes: torch.Tensor
    names: torch.Tensor
    looks: torch.Tensor


@dataclass(frozen=True)
class Spread:
    """How far the strongest changes go: scales (smallest, largest), and the logarithm of how much sides differ."""

    smallest: float = 0.55
    largest: float = 1.3
    stretch: float = 0.12


@dataclass(frozen=True)
class Batch:
    """A window of each of some changed pictures.

    Attributes:
        pixel_values: (pictures, 3, height, width), normalised; the window's pixels.
        patches: (pictures, patches of the window), positions among all patches.
        boxes, names, looks: as in `Pictures`, after the change.
        shown: (pictures,), 0 where the window was laid around the pictogram, 1 for the symbol.
    """

    pixel_values: torch.Tensor
    patches: torch.Tensor
    boxes: torch.Tensor
    names: torch.Tensor
    looks: torch.Tensor
    shown: torch.Tensor


def draw_pictures(num_pictures: int, seed: int, num_workers: int) -> Pictures:
    """Upright pictures of all topics alike, one in eight with two cards. Independent of `num_workers`."""
    starts = range(0, num_pictures, CHUNK)
    chunks = [(min(CHUNK, num_pictures - start), seed, start) for start in starts]
    with multiprocessing.Pool(num_workers) as pool:
        drawn = pool.starmap(_draw_chunk, chunks, chunksize=1)
    return Pictures(*(torch.from_numpy(np.concatenate(parts)) for parts in zip(*drawn, strict=True)))


def _draw_chunk(count: int, seed: int, start: int) -> tuple[np.ndarray, ...]:
    rng = random.Random(f"tower {seed} {start}")
    pixels = np.empty((count, 3, DRAWN_SIZE, DRAWN_SIZE), np.uint8)
    boxes, names, looks = np.empty((count, 2, 4), np.float32), np.empty((count, 2), int), np.empty((count, 2), int)
    for row in range(count):
        topic, has_two = rng.choice(riskcards.TOPICS), rng.random() < 0.12
        if has_two:
            picture = draw_two_cards(topic, rng.choice(riskcards.TOPICS), "train", rng)
        else:
            picture = draw_upright_picture(topic, "train", rng)
        image, sides = picture.image, [picture.pictogram_region, picture.symbol_region]
        if rng.random() < 0.25:
            image, _ = riskcards.change_picture(image, sides, "jpeg", rng.uniform(0.2, 1), "train", rng)
        image = image.resize((DRAWN_SIZE, DRAWN_SIZE), Image.Resampling.BICUBIC)
        pixels[row] = np.asarray(image).transpose(2, 0, 1)
        boxes[row] = np.array(sides) / riskcards.IMAGE_SIZE
        names[row] = NAMES.index(picture.topic.text), NAMES.index(picture.symbol)
        looks[row] = list(riskcards.COLOURS).index(picture.colour), riskcards.LAYOUTS.index(picture.layout)
        if has_two:
            looks[row] = IGNORE_INDEX
    return pixels, boxes, names, looks


# --------------------------------------------------------------------------------------------------
# Changes
# --------------------------------------------------------------------------------------------------


def draw_batch(
    pictures: Pictures,
    count: int,
    window: int,
    freedom: float,
    strength: float,
    generator: torch.Generator,
    spread: Spread = Spread(),
) -> Batch:
    """Random pictures, each changed in its own way, seen through a window of some patches.

    Args:
        window: patches on a side of the window; smaller ones are cheaper, and hold the pictogram or the symbol.
        freedom: 0 for pictograms of one size in the middle of a patch, 1 for all sizes and places.
        strength: 0 for no other change, 1 for the strongest.
    """
    rows = torch.randint(len(pictures.pixels), (count,), generator=generator)
    chance = 0.15 if window < GRID else 0.0
    shown = (torch.rand(count, generator=generator) < chance).long()
    everyone = torch.arange(count)
    boxes, forward = pictures.boxes[rows], _random_matrix(count, strength, generator, spread)
    if freedom < 1:
        _snap(forward, boxes[everyone, shown], freedom)
    place = _move_boxes(boxes, forward)[everyone, shown]
    forward[:, :, 2] += 2 * ((-place[:, :2]).clamp(min=0) - (place[:, 2:] - 1).clamp(min=0))  # keep it inside
    boxes = _move_boxes(boxes, forward)
    start = _place_window(boxes[everyone, shown], window, generator)
    pixels = _render(pictures.pixels[rows].float(), forward, start, window * PATCH_SIZE, generator)
    pixels = _relight(_blur_some(pixels, 0.3 * strength, generator), strength, generator)
    steps = torch.arange(window)
    patches = (start[:, 1:] * GRID + start[:, :1]).long() + (steps[:, None] * GRID + steps).flatten()
    return Batch((pixels - MEAN) / STD, patches, boxes, pictures.names[rows], pictures.looks[rows], shown)


def change_whole(pixels: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    """Normalised pixel values of whole pictures (pictures, 3, 112, 112) of uint8, each changed in its own way."""
    count = len(pixels)
    forward = _random_matrix(count, strength, generator)
    changed = _render(pixels.float(), forward, torch.zeros(count, 2), IMAGE_SIZE, generator)
    return (_relight(_blur_some(changed, 0.3 * strength, generator), strength, generator) - MEAN) / STD


def change_light(pixels: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    """Normalised pixel values of pictures (pictures, 3, height, width) of uint8, each in its own light."""
    return (_relight(_blur_some(pixels / 255, 0.3 * strength, generator), strength, generator) - MEAN) / STD


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    return torch.empty(count).uniform_(low, high, generator=generator)


def _random_matrix(count: int, strength: float, generator: torch.Generator, spread: Spread = Spread()) -> torch.Tensor:
    """Where points of a picture, from -1 to 1, come to lie: (count, 2, 3). Up to 11 degrees, 0.15 of the side, and the
    scales of `spread`."""
    applied = [(torch.rand(count, generator=generator) < chance).float() for chance in (0.5, 0.6, 0.7)]
    angle = _uniform(count, -1, 1, generator) * math.radians(11) * strength * applied[0]
    smaller = _uniform(count, math.log(spread.smallest), 0, generator)
    larger = _uniform(count, 0, math.log(spread.largest), generator)
    is_smaller = torch.rand(count, generator=generator) < 0.55
    scale = torch.exp(torch.where(is_smaller, smaller, larger) * strength * applied[1])
    stretch = torch.exp(_uniform(count, -spread.stretch, spread.stretch, generator) * strength)
    shift = _uniform(2 * count, -0.3, 0.3, generator).view(count, 2) * strength * applied[2][:, None]
    cos, sin = scale * angle.cos(), scale * angle.sin()
    return torch.stack([cos * stretch, -sin, shift[:, 0], sin * stretch, cos, shift[:, 1]], dim=1).view(count, 2, 3)


def _move_boxes(boxes: torch.Tensor, forward: torch.Tensor) -> torch.Tensor:
    left, top, right, bottom = (boxes * 2 - 1).unbind(-1)
    corners = torch.stack(
        [torch.stack(pair, -1) for pair in ((left, top), (right, top), (left, bottom), (right, bottom))]
    )
    moved = torch.einsum("nij,cnbj->cnbi", forward[:, :, :2], corners) + forward[:, None, :, 2]
    return torch.cat([moved.amin(0), moved.amax(0)], dim=-1) / 2 + 0.5


def _snap(forward: torch.Tensor, boxes: torch.Tensor, freedom: float) -> None:
    """Brings a sign, in place, towards a size of 0.32 of the side and the middle of a patch."""
    place = _move_boxes(boxes[:, None], forward)[:, 0]
    size = (place[:, 2:] - place[:, :2]).amax(dim=1)
    forward[:, :, :2] *= ((0.32 / size) ** (1 - freedom))[:, None, None]
    place = _move_boxes(boxes[:, None], forward)[:, 0]
    centre = (place[:, :2] + place[:, 2:]) / 2 * GRID
    middle = (centre - 0.5).round().clamp(1, GRID - 2) + 0.5
    forward[:, :, 2] += 2 * (middle - centre) / GRID * (1 - freedom)


def _place_window(boxes: torch.Tensor, window: int, generator: torch.Generator) -> torch.Tensor:
    """First column and row (pictures, 2) of a window that holds the box, or that the box fills."""
    first, last = (boxes[:, :2] * GRID).floor(), (boxes[:, 2:] * GRID).ceil() - 1
    ends = torch.stack([last - window + 1, first]).clamp(0, GRID - window)
    low, high = ends.amin(dim=0), ends.amax(dim=0)
    chosen = low + torch.rand(low.shape, generator=generator) * (high - low + 1)
    return torch.minimum(chosen.floor(), high)


def _render(pixels: torch.Tensor, forward: torch.Tensor, start: torch.Tensor, size: int, generator) -> torch.Tensor:
    """The windows' pixels, 0 to 1. Beside a picture its border goes on, or a plain colour shows."""
    inverse = torch.linalg.inv(forward[:, :, :2])
    offset = -inverse @ forward[:, :, 2:]
    steps = torch.arange(size) + 0.5
    columns = ((start[:, :1] * PATCH_SIZE + steps) / IMAGE_SIZE * 2 - 1)[:, None, :].expand(-1, size, -1)
    rows = ((start[:, 1:] * PATCH_SIZE + steps) / IMAGE_SIZE * 2 - 1)[:, :, None].expand(-1, -1, size)
    grid = torch.einsum("nij,nhwj->nhwi", inverse, torch.stack([columns, rows], dim=-1)) + offset.view(-1, 1, 1, 2)
    options = {"padding_mode": "border", "align_corners": False}
    rendered = F.grid_sample(pixels, grid, **options)
    is_small = torch.linalg.det(forward[:, :, :2]) < 0.56  # sampled from half the resolution, against aliasing
    if is_small.any():
        rendered[is_small] = F.grid_sample(F.avg_pool2d(pixels[is_small], 2), grid[is_small], **options)
    return torch.where(_plain_outside(grid, generator), _fills(len(pixels), generator), rendered / 255)


def _plain_outside(grid: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    is_plain = torch.rand(len(grid), 1, 1, 1, generator=generator) < 0.7
    return (grid.abs() > 1).any(dim=-1)[:, None] & is_plain


def _fills(count: int, generator: torch.Generator) -> torch.Tensor:
    """Black, white, a grey, or (two in five) any colour."""
    colour, kind = (
        torch.rand(count, 3, 1, 1, generator=generator),
        torch.randint(5, (count, 1, 1, 1), generator=generator),
    )
    colour = torch.where(kind == 2, colour[:, :1], colour)
    return colour.masked_fill(kind == 0, 0.0).masked_fill(kind == 1, 1.0)


def _blur_some(pixels: torch.Tensor, chance: float, generator: torch.Generator) -> torch.Tensor:
    chosen = (torch.rand(len(pixels), generator=generator) < chance).nonzero().squeeze(1)
    if not len(chosen):
        return pixels
    sigma = _uniform(len(chosen), 0.3, 1.0, generator)
    kernel = torch.exp(-(torch.arange(-3, 4).float() ** 2) / (2 * sigma[:, None] ** 2))
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(3, dim=0)
    part = pixels[chosen]
    planes = part.reshape(1, -1, *part.shape[2:])
    groups = planes.shape[1]
    planes = F.conv2d(F.pad(planes, (3, 3, 0, 0), mode="replicate"), kernel.view(-1, 1, 1, 7), groups=groups)
    planes = F.conv2d(F.pad(planes, (0, 0, 3, 3), mode="replicate"), kernel.view(-1, 1, 7, 1), groups=groups)
    pixels[chosen] = planes.reshape(part.shape)
    return pixels


def _relight(pixels: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    """Other contrast, brightness and colour cast, and some noise."""
    count, widest = len(pixels), 0.15 + 0.25 * strength
    contrast, brightness = (1 + _uniform(count, -widest, widest, generator).view(-1, 1, 1, 1) for _ in range(2))
    cast = 1 + _uniform(3 * count, -0.2, 0.2, generator).view(-1, 3, 1, 1) * strength
    noise = torch.randn(pixels.shape, generator=generator) * 0.02
    return (((pixels - 0.5) * contrast + 0.5) * brightness * cast + noise).clamp(0, 1)


def coverage(boxes: torch.Tensor) -> torch.Tensor:
    """How much of every patch (pictures, patches) a box (pictures, 4) covers, 0 to 1."""
    edges = torch.arange(GRID) / GRID
    ends = torch.minimum(boxes[:, None, 2:], (edges + 1 / GRID)[:, None])
    covered = (ends - torch.maximum(boxes[:, None, :2], edges[:, None])).clamp(min=0) * GRID
    return (covered[:, :, None, 1] * covered[:, None, :, 0]).flatten(1)
