"""A frozen tower's features, kept on disk and handed to the model in place of pixels.

Both stages freeze the tower and its connector, so what the safety modules and the language model get of a picture (h_i
and the map that the safety projector reads) is the same in every epoch and every run. A batch then carries it as
`pixel_values`, with a dimension less than pictures have, and the tower does not run.
"""

import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import transformers
from PIL import Image
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ..checkpoints.families import SafeModel
from ..data.records import load_image
from ..modeling.safety_assessment import TOKEN_TYPES
from .feature_store import FeatureStore, picture_keys, weights_digest


PROMPT_INPUTS = {"input_ids", "attention_mask", "question_mask", "question_ids", *TOKEN_TYPES}
SHAPES = ((64, 64), (96, 48), (48, 320))  # of blank pictures, which must all become alike


class CachedFeatures:
    """
    The features of a run's pictures. Make it, [`fill`] it, and set it as the collator's `features`.

    Args:
        model: a safe model, whose tower and connector are frozen. Its `get_image_features` then takes features in
            place of pixels, and pixels as before.
        processor: its processor, which must give every picture the same shape.
        folder: where features are kept, of this model and others.
        autocast: makes the context in which the model computes.

    Raises:
        ValueError: the tower is trained; the backbone cuts pictures into tiles, or sees them at their own size; or
            nothing can be written to `folder`.
    """

    def __init__(self, model: SafeModel, processor, folder: str, autocast=None):
        self.base, self.processor, self.autocast = model.model, processor, autocast
        modules = [self.base.get_submodule(name) for name in self.base.vision_children]
        if any(weight.requires_grad for module in modules for weight in module.parameters()):
            raise ValueError("`feature_cache_dir` needs a frozen tower: what it gives would change with every step.")
        check_shapes(processor, type(model).__name__)
        probe = self._encode_pictures([Image.new("RGB", SHAPES[0])])
        self.store = FeatureStore(
            folder,
            {
                "model": type(model).__name__,
                "weights": weights_digest(modules),
                "features": f"{probe.dtype} {tuple(probe.shape[1:])}, map {self.grid}, width {self.width}",
                "picture_settings": json.dumps(processor.image_processor.to_dict(), sort_keys=True, default=str),
                "transformers": transformers.__version__,
            },
        )
        self.keys: dict[str, str] = {}
        serve_features(self.base, self.grid, self.width)

    def fill(self, references, share: slice = slice(None), is_shown: bool = True):
        """Compute what is missing. Raises `ValueError` where the disk has not enough room."""
        self.keys |= picture_keys(references)
        self.store.fill(self.keys, self._encode, share=share, is_shown=is_shown)

    def __contains__(self, reference: str) -> bool:
        return reference in self.keys and self.keys[reference] in self.store

    def __getstate__(self) -> dict:
        # A worker process reads, and never computes.
        return {"store": self.store, "keys": self.keys}

    def read(self, references: list[str]) -> torch.Tensor:
        """Return features (images, positions, width) in place of `pixel_values`."""
        return torch.stack([self.store.read(self.keys[reference]) for reference in references])

    def _encode(self, references: list[str]) -> torch.Tensor:
        return self._encode_pictures([load_image(reference) for reference in references])

    @torch.no_grad()
    def _encode_pictures(self, pictures: list[Image.Image]) -> torch.Tensor:
        pixels = self.processor.image_processor(images=pictures, return_tensors="pt")["pixel_values"]
        with _evaluated(self.base), _taking_features(self.base) as taken, (self.autocast or _plain)():
            self.base.get_image_features(pixels.to(self.base.device), return_dict=True)
        features = torch.stack(list(taken["features"]))
        maps = torch.stack(list(taken["maps"]))
        flat = maps.flatten(1, 2)
        self.grid, self.width = (maps.shape[1], maps.shape[2]), features.shape[-1]
        if flat.shape == features.shape and torch.equal(flat, features):
            return features  # the safety projector reads h_i
        return torch.cat([features, flat.to(features.dtype)], dim=-1)


def check_shapes(processor, name: str):
    """Raise `ValueError` where the shape of what a picture becomes depends on the picture."""
    made = []
    for size in SHAPES:
        content = [{"type": "image", "image": Image.new("RGB", size)}, {"type": "text", "text": "What is this?"}]
        options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
        made.append(processor.apply_chat_template([{"role": "user", "content": content}], **options))
    more = sorted({*made[0]} - {"pixel_values"} - PROMPT_INPUTS)
    shapes = {(tuple(one["pixel_values"].shape), one["input_ids"].shape[-1]) for one in made}
    if more or len(shapes) > 1:
        reason = f"they come with {', '.join(more)}" if more else f"they become {sorted(shapes)}"
        raise ValueError(
            f"`feature_cache_dir` needs a backbone that gives all pictures one shape, and {name} cuts them into tiles "
            f"or sees them at their own size ({reason}): leave it out."
        )


def serve_features(base, grid: tuple[int, int], width: int):
    """Let `get_image_features` of a base model take features in place of pixels: h_i of `width`, and behind it, where
    it is another, the map of `grid` that the safety projector reads."""
    stock = base.get_image_features

    @functools.wraps(stock)
    def get_image_features(pixel_values, *args, safety_inputs=None, **kwargs):
        if pixel_values.ndim == base.pixel_values_ndim:
            return stock(pixel_values, *args, safety_inputs=safety_inputs, **kwargs)
        features = pixel_values[..., :width]
        maps = (pixel_values[..., width:] if pixel_values.shape[-1] > width else features).unflatten(1, grid)
        outputs = BaseModelOutputWithPooling(pooler_output=features)
        readable = [features.new_zeros(1)] * len(features)  # they were pictures
        return base.judge_images(outputs, maps, readable, safety_inputs)

    base.get_image_features = get_image_features


@contextmanager
def _taking_features(base) -> Iterator[dict]:
    """Take what a family's `get_image_features` hands to `judge_images`, and judge nothing."""
    taken: dict[str, torch.Tensor] = {}

    def take(outputs, maps, pixels, safety_inputs, tiles=None):
        taken.update(features=outputs.pooler_output, maps=maps)
        return outputs

    base.judge_images = take
    try:
        yield taken
    finally:
        del base.judge_images


@contextmanager
def _evaluated(base) -> Iterator[None]:
    was_training = base.training
    base.eval()
    try:
        yield
    finally:
        base.train(was_training)


@contextmanager
def _plain() -> Iterator[None]:
    yield
