"""Fitting of temperatures, one for the levels and one for the categories, so that their probabilities mean what they
say."""

import logging
import math

import torch

from ..modeling.safety_policy import TEMPERATURES
from .logits import LabelledLogits


logger = logging.getLogger(__name__)


def fit_temperatures(labelled: LabelledLogits) -> dict[str, float]:
    """Fit the temperatures of `"level"` and `"category"` with the least negative log likelihood of the labels.

    One that would end at a bound of `TEMPERATURES`, as where no label contradicts the head, is not known from these
    samples: it is left out, and a warning names it.
    """
    if not len(labelled):
        raise ValueError("no samples to fit temperatures to")
    fitted = {
        "level": _fit_temperature(labelled.level_logits, labelled.level, "level"),
        "category": _fit_temperature(labelled.category_logits, labelled.category, "category"),
    }
    return {part: temperature for part, temperature in fitted.items() if temperature is not None}


def _fit_temperature(logits: torch.Tensor, labels: torch.Tensor, part: str) -> float | None:
    """Bisect log T: the loss is convex in 1/T, with the slope mean(expected logit - the label's logit)."""
    logits = logits.double()
    label_logits = logits.gather(1, labels[:, None])[:, 0]
    low, high = map(math.log, TEMPERATURES[part])
    for _ in range(60):
        middle = (low + high) / 2
        expected = ((logits / math.exp(middle)).softmax(dim=-1) * logits).sum(dim=-1)
        if (expected - label_logits).mean() > 0:
            low = middle
        else:
            high = middle
    lowest, highest = TEMPERATURES[part]
    temperature = math.exp((low + high) / 2)
    if lowest * 1.001 < temperature < highest * 0.999:
        return temperature
    logger.warning(
        "The temperature of the %s is left as it is: it would end at its bound, %g, as %d samples do not tell it. Add "
        "samples, among them ones that the head gets wrong.",
        part,
        min(max(temperature, lowest), highest),
        len(logits),
    )
    return None
