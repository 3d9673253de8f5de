"""What is trained becomes a stock checkpoint."""

from pathlib import Path

import torch
from transformers import AutoConfig


def save(model, processor, folder: Path):
    """Write a stock checkpoint: weights in half precision, to be small; the configuration says that they are loaded in
    single precision, as a CPU computes fast."""
    model.eval().requires_grad_(False).half()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    config = AutoConfig.from_pretrained(folder, architectures=[type(model).__name__])
    for part in (config, config.text_config, config.vision_config):
        part.dtype = torch.float32
    config.save_pretrained(folder)
