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
    checkpoint: str | Path | None = named
    if not checkpoint:
        recorded = (model.config.training_record or {}).get("base_model")
        # A package may be installed without the folders of its bases.
        embedded = (folder for folder in NANO_BASES.values() if folder.name == recorded and folder.is_dir())
        checkpoint = next(embedded, None)
    if checkpoint is None:
        return None
    check_stock(checkpoint)
    processor = AutoProcessor.from_pretrained(checkpoint)
    if not getattr(processor, "chat_template", None):
        raise ValueError(f"{checkpoint} has no chat template, so it cannot answer: name another base.")
    device = None if model.device.type == "cpu" else model.device
    base = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype="auto", device_map=device)
    # A folder's own name is enough on a page; the path above it is the operator's.
    return Base(checkpoint.name if isinstance(checkpoint, Path) else str(checkpoint), base.eval(), processor)


def check_stock(checkpoint: str | os.PathLike):
    """Refuse a folder that holds no checkpoint, or one with a verdict of its own, before anything large is read."""
    find_family(str(checkpoint))
    if hasattr(AutoConfig.from_pretrained(checkpoint), "safety_config"):
        raise ValueError(f"{checkpoint} is a safe checkpoint: name the stock model that stands beside it.")
