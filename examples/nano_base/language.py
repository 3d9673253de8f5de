"""The language model, which learns to answer.

It begins with ideal pictures, whose patches say outright what they show: so it learns to read prompts and to find the
patch that matters, and needs no tower yet. Then the projector is fitted to give the same for the tower's features, and
both go on with those.
"""

import math
import random
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import nn
from transformers import LlamaConfig

from safevlm_hf.data import riskcards

from . import IGNORE_INDEX, NUM_PATCHES
from .conversations import Encoded
from .pictures import NAMES, change_whole, coverage
from .tower import LEAST_COVERAGE, build_optimizers, learning_rate_at, patch_features, take_step


TOKENS_PER_BATCH = 6500
BUCKET = 1500
PROSE_WEIGHT = 0.3
VIEWS = (0.1, 0.3, 0.8)
"""How strongly cards are changed, beyond how they are drawn, for each of their views."""


def language_config(vocabulary_size: int, token_ids: dict[str, int]) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        **token_ids,
    )


@torch.no_grad()
def initialise_layers(language_model) -> None:
    for layer in language_model.layers:
        for weight in layer.parameters():
            if weight.ndim == 2:
                weight.normal_(std=0.7 / math.sqrt(weight.shape[1]))
        layer.self_attn.o_proj.weight.mul_(0.5)
        layer.mlp.down_proj.weight.mul_(0.5)


class IdealImages(nn.Module):
    """Image tokens that are learned vectors of what a patch shows: sign, colour and layout."""

    def __init__(self, cards: list[riskcards.Picture], width: int):
        super().__init__()
        self.shows = torch.stack([_what_patches_show(card) for card in cards])
        sizes = (len(NAMES) + 1, len(riskcards.COLOURS) + 1, len(riskcards.LAYOUTS))
        self.vectors = nn.ModuleList(nn.Embedding(size, width) for size in sizes)
        self.places = nn.Parameter(torch.randn(NUM_PATCHES, width) * 0.02)
        for embedding in self.vectors:
            nn.init.normal_(embedding.weight, std=0.05)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Image tokens (cards, patches, width)."""
        shows = self.shows[rows]
        return sum(table(shows[..., column]) for column, table in enumerate(self.vectors)) + self.places


def _what_patches_show(picture: riskcards.Picture) -> torch.Tensor:
    """(patches, 3): name, where 0 is none, colour, where 0 is unclear, and layout."""
    shows = torch.zeros(NUM_PATCHES, 3, dtype=torch.long)
    for box, name in ((picture.symbol_region, picture.symbol), (picture.pictogram_region, picture.topic.text)):
        covered = coverage(torch.tensor([box]) / riskcards.IMAGE_SIZE)[0]
        shows[(covered >= LEAST_COVERAGE) | (covered == covered.max()), 0] = NAMES.index(name) + 1
    shows[:, 1] = 0 if picture.has_two_cards else list(riskcards.COLOURS).index(picture.colour) + 1
    shows[:, 2] = riskcards.LAYOUTS.index(picture.layout)
    return shows


@torch.no_grad()
def tower_features(tower, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Features (views, cards, patches, width) in half precision: cards as they are drawn, and changed once more."""
    views = []
    for strength in VIEWS:
        parts = (change_whole(part, strength, generator) for part in pixels.split(128))
        views.append(torch.cat([patch_features(tower, part).half() for part in parts]))
    return torch.stack(views)


def fit_projector(projector, features: torch.Tensor, ideal: IdealImages, num_steps: int = 300) -> None:
    """Least squares from the tower's features to the ideal image tokens."""
    optimizer = torch.optim.AdamW(projector.parameters(), lr=3e-3, weight_decay=0.0)
    for step in range(num_steps):
        rows = torch.randint(features.shape[1], (48,))
        views = torch.randint(features.shape[0], (48,))
        with torch.no_grad():
            target = ideal(rows)
        loss = F.mse_loss(projector(features[views, rows].float()), target)
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / num_steps)
        optimizer.step()


def batches(encoded: list[Encoded], seed: int) -> Iterator[list[Encoded]]:
    """Endless batches of samples of about one length, of some `TOKENS_PER_BATCH` ids each."""
    rng = random.Random(f"batches {seed}")
    while True:
        order = list(encoded)
        rng.shuffle(order)
        for start in range(0, len(order), BUCKET):
            bucket = sorted(order[start : start + BUCKET], key=lambda sample: len(sample.input_ids))
            parts, part = [], []
            for sample in bucket:
                if part and (len(part) + 1) * len(sample.input_ids) > TOKENS_PER_BATCH:
                    parts, part = [*parts, part], []
                part.append(sample)
            parts.append(part)
            rng.shuffle(parts)
            yield from parts


def answer_loss(model, batch: list[Encoded], image_tokens: Callable) -> torch.Tensor:
    """Cross-entropy of what is learned. Samples are padded on the right, where a causal model does not look."""
    pad = nn.utils.rnn.pad_sequence
    input_ids = pad([sample.input_ids for sample in batch], batch_first=True)
    labels = pad([sample.labels for sample in batch], batch_first=True, padding_value=IGNORE_INDEX)
    embeddings = model.get_input_embeddings()(input_ids)
    rows = [card for sample in batch for card in sample.cards]
    if rows:
        is_image = (input_ids == model.config.image_token_id)[..., None]
        embeddings = embeddings.masked_scatter(is_image, image_tokens(torch.tensor(rows)))
    states = model.get_decoder()(inputs_embeds=embeddings, use_cache=False).last_hidden_state
    is_learned = labels[:, 1:] != IGNORE_INDEX
    logits = model.lm_head(states[:, :-1][is_learned])
    each = F.cross_entropy(logits, labels[:, 1:][is_learned], reduction="none")
    weights = torch.tensor([PROSE_WEIGHT if sample.is_prose else 1.0 for sample in batch])
    weights = weights[:, None].expand_as(is_learned)[is_learned]
    return (each * weights).sum() / weights.sum()


def train_language(
    model,
    encoded: list[Encoded],
    images: nn.Module,
    image_tokens: Callable,
    num_steps: int,
    learning_rate: float,
    seed: int,
) -> None:
    """Trains the language model and `images`, in place.

    Args:
        images: the module behind `image_tokens`.
        image_tokens: cards' numbers to image tokens, (..., width), one card after the other.
    """
    language_model = model.get_decoder()
    hidden = [weight for weight in language_model.layers.parameters() if weight.ndim == 2]
    known = {id(weight) for weight in hidden}
    others = [*language_model.parameters(), *images.parameters()]
    optimizers = build_optimizers(hidden, [weight for weight in others if id(weight) not in known], learning_rate)
    drawn, mean, start = batches(encoded, seed), None, time.time()
    for step in range(num_steps):
        loss = answer_loss(model, next(drawn), image_tokens)
        take_step(optimizers, loss, learning_rate_at(step, num_steps, learning_rate))
        mean = loss.item() if mean is None else 0.95 * mean + 0.05 * loss.item()
        if (step + 1) % 100 == 0:
            left = (time.time() - start) / (step + 1) * (num_steps - step - 1) / 60
            print(f"language step {step + 1} of {num_steps}  loss {mean:.3f}  minutes left {left:.0f}", flush=True)
