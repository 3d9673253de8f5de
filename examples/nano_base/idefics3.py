"""The nano Idefics3, as SmolVLM's first checkpoints are Idefics3s, too: pictures of any shape, cut into tiles.

It starts from the nano LLaVA: its words are known, and so is what a sign looks like. What it learns is to see signs of
other sizes, which tiles and squeezed whole pictures show, through a connector that joins 2 x 2 patches, and to read
them between the tokens that say which tile is which.
"""

import multiprocessing
import random
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
)

from safevlm_hf.data.riskcards.drawing import vary_shape

from . import GRID, IMAGE_SIZE, NANO_BASE, PATCH_SIZE, riskcards
from .conversations import CHUNK, draw_any, draw_samples, encode
from .language import train_language
from .pictures import MEAN, STD, Spread, change_light, draw_pictures
from .tower import Course, patch_features


VARIED_SHAPES = True
DEFAULTS = {
    "num_pictures": 20_000,
    "num_cards": 12_000,
    "num_samples": 42_000,
    "tower_steps": 2200,
    "ideal_steps": 0,
    "steps": 1800,
}
MOST_TILES = 2
"""Rows and columns of tiles, at most."""
SCALE = 2
IDS_PER_TILE = (GRID // SCALE) ** 2
TOKENS = (
    *("<fake_token_around_image>", "<end_of_utterance>", "<global-img>"),
    *(f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)),
)
SPREAD = Spread(smallest=0.4, largest=2.2, stretch=0.35)
VIEWS = (0.1, 0.6)
"""How strongly the light changes, for each of the views of a card."""


@dataclass(frozen=True)
class Cards:
    """Cards as tiles, the whole picture last.

    Attributes:
        pixels: (tiles, 3, 112, 112) uint8.
        ends: (cards,), number of tiles up to the end of each card.
        grids: rows and columns of each card.
        shown: what the cards show.
    """

    pixels: torch.Tensor
    ends: np.ndarray
    grids: list[tuple[int, int]]
    shown: list[riskcards.Picture]

    def tiles(self, card: int) -> range:
        return range(0 if card == 0 else int(self.ends[card - 1]), int(self.ends[card]))


def train(args) -> tuple[Idefics3ForConditionalGeneration, Idefics3Processor]:
    """From the nano LLaVA. `args` as those of `train_nano_base.py`."""
    start = time.time()
    nano, tokenizer = AutoModelForImageTextToText.from_pretrained(NANO_BASE), load_tokenizer()
    pictures = draw_pictures(args.num_pictures, args.seed, args.num_workers)
    cards = draw_cards(args.num_cards, args.seed, args.num_workers)
    samples = draw_samples(cards.shown, args.num_samples, args.seed)
    processor, model = build_processor(tokenizer), build_model(nano, tokenizer, cards.pixels[:256])
    ids = {grid: image_ids(processor, *grid) for grid in set(cards.grids)}
    encoded = encode(tokenizer, samples, lambda card: ids[cards.grids[card]])
    print(
        f"{len(tokenizer)} tokens, {model.num_parameters():,} parameters, {len(pictures.pixels) + len(cards.shown)} "
        f"pictures and {len(encoded)} samples; ready after {time.time() - start:.0f} s",
        flush=True,
    )
    generator = torch.Generator().manual_seed(args.seed)
    tower = model.model.vision_model
    modules = (tower.embeddings, tower.post_layernorm)
    course = Course(
        lambda pixels, patches: encode_patches(tower, pixels, patches),
        tower.encoder.layers,
        modules,
        tower.config.hidden_size,
        difficulty=1.6,
        spread=SPREAD,
    )
    course.run(pictures, args.tower_steps, args.learning_rate / 2, generator)
    teach_answers(model, nano, encoded, cards, args, generator)
    return model, processor


# --------------------------------------------------------------------------------------------------
# Pictures
# --------------------------------------------------------------------------------------------------


def draw_cards(num_cards: int, seed: int, num_workers: int) -> Cards:
    """Training pictures of varied shapes. Independent of `num_workers`."""
    chunks = [(min(CHUNK, num_cards - start), seed, start) for start in range(0, num_cards, CHUNK)]
    # The image processor computes with torch, which a forked process cannot use after its parent has.
    with multiprocessing.get_context("spawn").Pool(num_workers) as pool:
        drawn = pool.starmap(_draw_chunk, chunks, chunksize=1)
    pixels = torch.from_numpy(np.concatenate([tile for tiles, _, _ in drawn for tile in tiles]))
    counts = [len(tile) for tiles, _, _ in drawn for tile in tiles]
    grids = [grid for _, grids, _ in drawn for grid in grids]
    return Cards(pixels, np.cumsum(counts), grids, [one for _, _, shown in drawn for one in shown])


def _draw_chunk(count: int, seed: int, start: int) -> tuple[list[np.ndarray], list, list]:
    torch.set_num_threads(1)
    rng, process = random.Random(f"tiles {seed} {start}"), image_processor(do_normalize=False, do_rescale=False)
    tiles, grids, shown = [], [], []
    for _ in range(count):
        picture = vary_shape(draw_any(rng), "train", rng)
        found = process([[picture.image]], return_row_col_info=True, return_tensors="np")
        tiles.append(found["pixel_values"][0].astype(np.uint8))
        grids.append((int(found["rows"][0][0]), int(found["cols"][0][0])))
        shown.append(replace(picture, image=None))
    return tiles, grids, shown


# --------------------------------------------------------------------------------------------------
# The model
# --------------------------------------------------------------------------------------------------


def load_tokenizer():
    """The nano LLaVA's, with the tokens that stand around tiles."""
    tokenizer = AutoProcessor.from_pretrained(NANO_BASE).tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": list(TOKENS)})
    return tokenizer


def image_processor(**kwargs) -> Idefics3ImageProcessor:
    return Idefics3ImageProcessor(
        size={"longest_edge": MOST_TILES * IMAGE_SIZE},
        max_image_size={"longest_edge": IMAGE_SIZE},
        image_mean=MEAN.flatten().tolist(),
        image_std=STD.flatten().tolist(),
        **kwargs,
    )


def build_processor(tokenizer) -> Idefics3Processor:
    template = AutoProcessor.from_pretrained(NANO_BASE).chat_template
    return Idefics3Processor(image_processor(), tokenizer, image_seq_len=IDS_PER_TILE, chat_template=template)


def image_ids(processor: Idefics3Processor, rows: int, columns: int) -> list[int]:
    """What stands for a picture of so many tiles."""
    text = processor.replace_image_token({"rows": [[rows]], "cols": [[columns]]}, 0)
    return processor.tokenizer(text, add_special_tokens=False).input_ids


def build_model(nano, tokenizer, pixels: torch.Tensor) -> Idefics3ForConditionalGeneration:
    """With the layers and words of the nano LLaVA, as far as it has them. `pixels` of some tiles, uint8."""
    text, tower = nano.config.text_config, nano.config.vision_config
    token_ids = {name: getattr(text, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = Idefics3Config(
        text_config={**text.to_dict(), "vocab_size": len(tokenizer)},
        vision_config={
            "hidden_size": tower.hidden_size,
            "intermediate_size": tower.intermediate_size,
            "num_hidden_layers": tower.num_hidden_layers - 1,
            "num_attention_heads": tower.num_attention_heads,
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
            "hidden_act": tower.hidden_act,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=SCALE,
        tie_word_embeddings=True,
        pad_token_id=text.pad_token_id,
    )
    model = Idefics3ForConditionalGeneration(config)
    _take_over_words(model, nano)
    _take_over_tower(model.model.vision_model, nano.model.vision_tower, (pixels / 255 - MEAN) / STD)
    model.generation_config.update(**token_ids, do_sample=False, max_new_tokens=32)
    return model


@torch.no_grad()
def _take_over_words(model, nano) -> None:
    source, target = nano.get_decoder(), model.get_decoder()
    target.layers.load_state_dict(source.layers.state_dict())
    target.norm.load_state_dict(source.norm.state_dict())
    words = target.embed_tokens.weight
    known = len(source.embed_tokens.weight)
    words[:known] = source.embed_tokens.weight
    words[known:] = source.embed_tokens.weight.mean(dim=0)
    model.tie_weights()


@torch.no_grad()
def _take_over_tower(tower, clip, pixel_values: torch.Tensor) -> None:
    """CLIP normalises its embeddings once more, by about the same number in every patch: it goes into the weights."""
    tower.encoder.layers.load_state_dict(clip.encoder.layers[:-1].state_dict())
    source, norm = clip.embeddings, clip.pre_layrnorm
    scale = norm.weight / source(pixel_values)[:, 1:].std(dim=-1).mean()
    tower.embeddings.patch_embedding.weight.copy_(source.patch_embedding.weight * scale.view(-1, 1, 1, 1))
    tower.embeddings.patch_embedding.bias.copy_(norm.bias)
    tower.embeddings.position_embedding.weight.copy_(source.position_embedding.weight[1:] * scale)


def encode_patches(tower, pixel_values: torch.Tensor, patches: torch.Tensor | None = None) -> torch.Tensor:
    """Features (pictures, patches, width); `patches` as in `tower.patch_features`."""
    embeddings = tower.embeddings
    places = embeddings.position_embedding.weight
    states = embeddings.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
    states = states + (places if patches is None else places[patches])
    for layer in tower.encoder.layers:
        states = layer(states, None)
    return tower.post_layernorm(states)


# --------------------------------------------------------------------------------------------------
# Answers
# --------------------------------------------------------------------------------------------------


def teach_answers(model, nano, encoded, cards: Cards, args, generator: torch.Generator) -> None:
    """The connector gives at first what the nano LLaVA sees; then it and the language model learn to answer."""
    features = [see(model, cards.pixels, strength, generator) for strength in VIEWS]
    connector = model.model.connector
    fit_connector(connector, features[0], nano, cards.pixels)

    def seen_tokens(rows: torch.Tensor) -> torch.Tensor:
        parts = [features[random.randrange(len(VIEWS))][list(cards.tiles(row))] for row in rows.tolist()]
        return connector(torch.cat(parts).float()).flatten(0, 1)

    train_language(model, encoded, connector, seen_tokens, args.steps, args.learning_rate, args.seed)


@torch.no_grad()
def see(model, pixels: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    """Features (tiles, patches, width) in half precision, in another light."""
    tower = model.model.vision_model
    parts = (encode_patches(tower, change_light(part, strength, generator)) for part in pixels.split(128))
    return torch.cat([part.half() for part in parts])


def fit_connector(connector: nn.Module, features: torch.Tensor, nano, pixels: torch.Tensor, steps: int = 300) -> None:
    """Least squares from 2 x 2 patches to the sum of what the nano LLaVA's projector makes of them."""
    optimizer = torch.optim.AdamW(connector.parameters(), lr=3e-3, weight_decay=0.0)
    for step in range(steps):
        tiles = torch.randint(len(features), (32,))
        with torch.no_grad():
            own = patch_features(nano.model.vision_tower, (pixels[tiles] / 255 - MEAN) / STD)
            target = nano.model.multi_modal_projector(own).unflatten(1, (GRID // SCALE, SCALE, GRID // SCALE, SCALE))
            target = target.sum(dim=(2, 4)).flatten(1, 2)
        loss = F.mse_loss(connector(features[tiles].float()), target)
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / steps)
        optimizer.step()
