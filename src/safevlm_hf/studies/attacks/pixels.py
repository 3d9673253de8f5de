"""Turn pictures with gradients into a model's inputs, through the checkpoint's own processor."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature


MOST_DIFFERENT = 0.1
"""Largest mean difference of `pixel_values`. Resizing a picture of 8 bits rounds it and cuts it off at black and
white; one of floats stays as it is. That moves values by a few thousandths."""


def to_pixels(image: Image.Image) -> torch.Tensor:
    """Turn an RGB image of 8 bits into (3, height, width) in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


def to_image(pixels: torch.Tensor) -> Image.Image:
    """Turn (3, height, width) in [0, 1] into the nearest RGB image of 8 bits."""
    return Image.fromarray((255 * pixels.detach().cpu()).round().to(torch.uint8).permute(1, 2, 0).numpy())


def encode_pixels(processor, pictures: Sequence[torch.Tensor]) -> BatchFeature:
    """Return the processor's outputs for a batch with one picture per sample, `pixel_values` with gradients."""
    # The values go up to 255, as in a file, because the processor scales both in the same way.
    return process_pictures(processor, [[255 * picture] for picture in pictures])


def process_pictures(processor, images: Sequence[Sequence]) -> BatchFeature:
    """Process each sample's pictures; some families also need a text, which then is nothing but them."""
    try:
        return processor(images=images, return_tensors="pt")
    except TypeError:  # some need a text, and others give no gradients beside one
        texts = [processor.image_token] * len(images)
        return processor(images=images, text=texts, padding=True, return_tensors="pt")


@torch.enable_grad()
def check_gradients(processor, image: Image.Image):
    """Raise `ValueError` where the processor lets no gradient through, or reads floats and bytes differently."""
    name = type(getattr(processor, "image_processor", processor)).__name__
    advice = "an attack on pixels needs an image processor that is backed by torchvision"
    pixels = to_pixels(image).requires_grad_()
    try:
        values = encode_pixels(processor, [pixels])["pixel_values"]
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{name} takes no pictures with gradients ({reason}): {advice}") from error
    gradient = None
    if values.requires_grad:
        (gradient,) = torch.autograd.grad(values.square().sum(), pixels, allow_unused=True)
    if gradient is None or not gradient.any():
        raise ValueError(f"{name} lets no gradient through: {advice}")
    expected = process_pictures(processor, [[image]])["pixel_values"]
    if values.shape != expected.shape or (values - expected).abs().mean() > MOST_DIFFERENT:
        raise ValueError(f"{name} gives other values for a picture of floats than for its file: {advice}")
