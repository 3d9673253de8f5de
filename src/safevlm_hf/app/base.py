"""The stock model that answers beside a safe checkpoint."""

import os
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin

from ..checkpoints.families import find_family
from ..data import NANO_BASES


@dataclass(frozen=True)
class Base:
    """A stock model, and its name as the page shows it."""

    name: str
    model: PreTrainedModel
    processor: ProcessorMixin


def choose_base(model: PreTrainedModel, named: str | None = None) -> Base | None:
    """Load the model that answers beside a safe one, onto the same device.

    Args:
        model: the safe one.
        named: folder or Hub id of a stock checkpoint. Without it the embedded base is taken, where the safe model's
            record names it; `None` is returned where it names another.

    Raises:
        ValueError: the named checkpoint is not there, is a safe one, or has no chat template.
    """
    chosen = named or _embedded_base(model)
    return None if chosen is None else _load(chosen, model)


def _embedded_base(model: PreTrainedModel) -> Path | None:
    recorded = (model.config.training_record or {}).get("base_model")
    return next((folder for folder in NANO_BASES.values() if folder.name == recorded and folder.is_dir()), None)


def _load(checkpoint: str | os.PathLike, beside: PreTrainedModel) -> Base:
    check_stock(checkpoint)
    processor = AutoProcessor.from_pretrained(checkpoint)
    if not getattr(processor, "chat_template", None):
        raise ValueError(f"{checkpoint} has no chat template, so it cannot answer: name another base.")
    device = None if beside.device.type == "cpu" else beside.device
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype="auto", device_map=device)
    return Base(checkpoint.name if isinstance(checkpoint, Path) else str(checkpoint), model.eval(), processor)


def check_stock(checkpoint: str | os.PathLike):
    """Refuse what is no checkpoint, or has a verdict of its own, before anything large is read."""
    find_family(str(checkpoint))
    if hasattr(AutoConfig.from_pretrained(checkpoint), "safety_config"):
        raise ValueError(f"{checkpoint} is a safe checkpoint: name the stock model that stands beside it.")
