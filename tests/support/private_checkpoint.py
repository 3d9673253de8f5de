"""A checkpoint whose head finds a high risk of privacy in every picture."""

import torch

from safevlm_hf import SafeLlavaForConditionalGeneration, SafeLlavaProcessor
from safevlm_hf.data import NANO_BASE

from .tiny_training import NANO_SAFETY


def save_private(folder) -> str:
    """The nano base with such a head, saved in the folder; returns the folder."""
    torch.manual_seed(0)
    model = SafeLlavaForConditionalGeneration.from_pretrained(NANO_BASE, safety_config=NANO_SAFETY)
    processor = SafeLlavaProcessor.from_pretrained(NANO_BASE, safety_config=model.config.safety_config)
    model.config.safety_config.is_trained = True
    head = model.model.safety_head
    with torch.no_grad():
        for linear, answer in ((head.level_head, 3), (head.category_head, 4)):
            linear.weight.zero_()
            linear.bias.zero_()
            linear.bias[answer] = 9.0
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)
