"""The vision tower, which learns to name the sign that its patches show.

CLIP's patches tell what is in a picture, for CLIP has learned from captions. A small tower that learned from answers
alone leaves that to the language model, and a safety head on its features would have nothing to read. Three things let
a tower of 1.3 million parameters learn it within half an hour: it starts as a convolution, it starts with signs of one
size on a raster of patches and earns its freedom by what it gets right, and most of its batches are small windows.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPVisionConfig

from . import GRID, IGNORE_INDEX, IMAGE_SIZE, NUM_PATCHES, PATCH_SIZE
from .muon import Muon
from .pictures import NAMES, Batch, Pictures, Spread, coverage, draw_batch


OFFSETS = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))
"""Rows and columns to the patch that a head looks at: one head for each of 3 x 3 neighbours."""
FREQUENCIES = tuple(cycles * 2 * math.pi / 16 for cycles in (1, 2.5, 4, 6))
PLACE_SIZE = 4 * len(FREQUENCIES)
WINDOWS = (4, 8, 4, 6, 4, 8, 4, 4)
BATCH_SIZES = {3: 96, 4: 96, 6: 48, 8: 32}
LEAST_COVERAGE = 0.3


def tower_config() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        hidden_size=144,
        intermediate_size=576,
        num_hidden_layers=5,
        num_attention_heads=len(OFFSETS),
        projection_dim=144,
        hidden_act="gelu",
    )


# --------------------------------------------------------------------------------------------------
# Where it starts
# --------------------------------------------------------------------------------------------------


@torch.no_grad()
def start_as_convolution(tower, pictures: Pictures, generator: torch.Generator) -> None:
    """Patches start as their low frequencies, and every head of every layer looks at one neighbour.

    The last `PLACE_SIZE` features hold nothing at first but a code of the place. A head's query turns the code by its
    offset, so that it fits the key of that neighbour.
    """
    width = tower.config.hidden_size
    embeddings = tower.embeddings
    embeddings.patch_embedding.weight.zero_()
    embeddings.patch_embedding.weight[:-PLACE_SIZE] = _low_frequencies(width - PLACE_SIZE, pictures, generator)
    embeddings.position_embedding.weight.normal_(std=0.02, generator=generator)
    embeddings.position_embedding.weight[1:, -PLACE_SIZE:] = _place_code()
    for layer in tower.encoder.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for linear, gain in ((attention.v_proj, 1), (attention.out_proj, 0.5), (mlp.fc1, 1), (mlp.fc2, 0.5)):
            linear.weight.normal_(std=gain / math.sqrt(linear.in_features), generator=generator)
        attention.v_proj.weight[:, -PLACE_SIZE:] = 0
        attention.out_proj.weight[-PLACE_SIZE:] = 0
        mlp.fc2.weight[-PLACE_SIZE:] = 0
        size = width // len(OFFSETS)
        for head, offset in enumerate(OFFSETS):
            rows = slice(head * size, head * size + PLACE_SIZE)
            for linear, code in ((attention.q_proj, _rotation(offset)), (attention.k_proj, torch.eye(PLACE_SIZE))):
                linear.weight[rows] = 0
                linear.weight[rows, -PLACE_SIZE:] = 2.2 * code


def _low_frequencies(count: int, pictures: Pictures, generator: torch.Generator) -> torch.Tensor:
    """Cosine filters (count, 3, 14, 14), most of them for brightness, scaled to variance 1 on pictures."""
    steps = torch.arange(PATCH_SIZE) + 0.5
    waves = torch.stack([torch.cos(math.pi * steps * number / PATCH_SIZE) for number in range(PATCH_SIZE)])
    waves = waves / waves.norm(dim=1, keepdim=True)
    order = sorted(
        ((row, column) for row in range(PATCH_SIZE) for column in range(PATCH_SIZE)),
        key=lambda pair: pair[0] ** 2 + pair[1] ** 2,
    )
    num_colour = count // 9
    filters = []
    for colour, number in (
        ((0.5, 0.6, 0.4), count - 2 * num_colour),
        ((0.7, -0.7, 0.0), num_colour),
        ((0.4, 0.4, -0.8), num_colour),
    ):
        planes = [waves[row][:, None] * waves[column] for row, column in order[:number]]
        filters += [torch.tensor(colour).view(3, 1, 1) * plane for plane in planes]
    filters = torch.stack(filters)
    pixels = draw_batch(pictures, 128, 5, 1.0, 0.5, generator).pixel_values
    return filters / F.conv2d(pixels, filters, stride=PATCH_SIZE).std(dim=(0, 2, 3)).view(-1, 1, 1, 1)


def _place_code() -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    codes = [
        turn(frequency * axis.flatten())
        for axis in (columns, rows)
        for frequency in FREQUENCIES
        for turn in (torch.cos, torch.sin)
    ]
    return torch.stack(codes, dim=1)


def _rotation(offset: tuple[int, int]) -> torch.Tensor:
    rows, columns = offset
    blocks = []
    for distance in (columns, rows):
        for frequency in FREQUENCIES:
            cos, sin = math.cos(frequency * distance), math.sin(frequency * distance)
            blocks.append(torch.tensor([[cos, -sin], [sin, cos]]))
    return torch.block_diag(*blocks)


# --------------------------------------------------------------------------------------------------
# What it learns
# --------------------------------------------------------------------------------------------------


class Namer(nn.Module):
    """Reads names from features of patches, and colour and layout from their mean. Thrown away after training."""

    def __init__(self, width: int):
        super().__init__()
        self.name = nn.Linear(width, len(NAMES))
        self.colour = nn.Linear(width, 7)
        self.layout = nn.Linear(width, 4)


def patch_features(tower, pixel_values: torch.Tensor, patches: torch.Tensor | None = None) -> torch.Tensor:
    """What LLaVA takes from the tower: the layer before the last, without CLS; (pictures, patches, width).

    Args:
        patches: (pictures, patches), which of all patches the pixels are, where they are not the whole picture.
    """
    embeddings = tower.embeddings
    states = embeddings.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
    places = embeddings.position_embedding.weight
    states = states + (places[1:] if patches is None else places[1:][patches])
    first = (embeddings.class_embedding + places[0]).expand(len(states), 1, -1)
    states = tower.pre_layrnorm(torch.cat([first, states], dim=1))
    for layer in tower.encoder.layers[:-1]:
        states = layer(states, attention_mask=None)
    return states[:, 1:]


def _normalise(features: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(features, features.shape[-1:])


def _sign_loss(namer: Namer, features: torch.Tensor, batch: Batch, which: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Cross-entropy of the name, from each patch of the sign and from their mean; and the share of right names."""
    everyone = torch.arange(len(features))
    names = batch.names[everyone, which]
    covered = coverage(batch.boxes[everyone, which])
    shows = (covered >= LEAST_COVERAGE) | (covered == covered.amax(dim=1, keepdim=True))
    weights = shows.float().gather(1, batch.patches)
    weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1)
    logits = namer.name(_normalise(features))
    targets = names[:, None].expand(-1, logits.shape[1])
    each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(weights)
    pooled = namer.name(_normalise((features * weights[..., None]).sum(dim=1)))
    right = (pooled.argmax(dim=1) == names).float().mean().item()
    return 0.7 * ((each * weights).sum(dim=1).mean() + F.cross_entropy(pooled, names)), right


def _look_loss(namer: Namer, features: torch.Tensor, looks: torch.Tensor) -> torch.Tensor:
    mean = _normalise(features.mean(dim=1))
    return sum(
        F.cross_entropy(linear(mean), looks[:, column], ignore_index=IGNORE_INDEX)
        for column, linear in enumerate((namer.colour, namer.layout))
    )


def tower_loss(features: torch.Tensor, namer: Namer, batch: Batch) -> tuple[torch.Tensor, float]:
    """The loss, and the share of signs that are named rightly, by features (pictures, patches, width)."""
    loss, right = _sign_loss(namer, features, batch, batch.shown)
    if batch.patches.shape[1] == NUM_PATCHES:
        symbol_loss, _ = _sign_loss(namer, features, batch, torch.ones_like(batch.shown))
        loss = loss + symbol_loss / 7 + 0.1 * _look_loss(namer, features, batch.looks)
    return loss, right


def build_optimizers(hidden: list[nn.Parameter], others: list[nn.Parameter], lr: float) -> list:
    return [Muon(hidden, lr), torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.01)]


def take_step(optimizers: list, loss: torch.Tensor, learning_rate: float) -> None:
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    weights = [weight for optimizer in optimizers for group in optimizer.param_groups for weight in group["params"]]
    nn.utils.clip_grad_norm_(weights, 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()


def learning_rate_at(step: int, num_steps: int, peak: float) -> float:
    """Linear warm-up over 60 steps, constant, then from three tenths of the way linear to a fiftieth of the peak."""
    return peak * min(1, (step + 1) / 60) * (0.02 + 0.98 * min(1, (1 - step / num_steps) / 0.7))


def train_tower(tower, pictures: Pictures, num_steps: int, learning_rate: float, seed: int) -> None:
    """Trains LLaVA's tower, in place, from a convolution on."""
    generator = torch.Generator().manual_seed(seed)
    start_as_convolution(tower, pictures, generator)
    layers = tower.encoder.layers[:-1]  # nobody reads what the last layer makes
    modules = (tower.embeddings, tower.pre_layrnorm)
    course = Course(partial(patch_features, tower), layers, modules, tower.config.hidden_size)
    course.run(pictures, num_steps, learning_rate, generator)


@dataclass
class Course:
    """The training of a tower. The difficulty rises as long as most signs are named rightly.

    Attributes:
        features: pixel values and the positions of their patches to features (pictures, patches, width).
        layers, modules: what is trained.
        width: of the features.
        difficulty: where it begins: 0 for signs of one size in the middle of a patch, 1.6 for every change.
        spread: how far the changes go.
    """

    features: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    layers: nn.ModuleList
    modules: Sequence[nn.Module]
    width: int
    difficulty: float = 0.0
    spread: Spread = Spread()

    def run(self, pictures: Pictures, num_steps: int, learning_rate: float, generator: torch.Generator) -> None:
        namer = Namer(self.width)
        hidden = [weight for weight in self.layers.parameters() if weight.ndim == 2]
        others = [weight for weight in self.layers.parameters() if weight.ndim < 2]
        others += [weight for module in (*self.modules, namer) for weight in module.parameters()]
        optimizers = build_optimizers(hidden, others, learning_rate)
        right, start = 0.0, time.time()
        for step in range(num_steps):
            if step > 20:
                self.difficulty += 0.005 if right > 0.85 else 0.002 if right > 0.7 else 0.0005
            freedom, strength = min(1.0, self.difficulty), min(1.0, max(0.0, self.difficulty - 0.6))
            window = 3 if freedom < 0.1 else 4 if freedom < 0.6 else WINDOWS[step % len(WINDOWS)]
            batch = draw_batch(pictures, BATCH_SIZES[window], window, freedom, strength, generator, self.spread)
            loss, share = tower_loss(self.features(batch.pixel_values, batch.patches), namer, batch)
            take_step(optimizers, loss, learning_rate_at(step, num_steps, learning_rate))
            right += 0.05 * (share - right)
            if (step + 1) % 250 == 0:
                left = (time.time() - start) / (step + 1) * (num_steps - step - 1) / 60
                print(
                    f"tower step {step + 1} of {num_steps}  right {right:.3f}  freedom {freedom:.2f}  strength "
                    f"{strength:.2f}  minutes left {left:.0f}",
                    flush=True,
                )
