"""A trained safe model with a part taken out or replaced, for ablations. Each function changes the model it is given.

`SafetyConfig.num_safety_tokens` is the length of both sets of safety tokens, s(1) of the head and s(2) of the block.
So a training without one of them alone cannot be expressed, and it is taken out after training, here; a training
without both is `num_safety_tokens=0`, and one without conditions `num_condition_tokens=0`.
"""

import copy

import torch
from torch import nn
from transformers import AutoModelForImageTextToText

from ...training.stages import SAFETY_PREFIX


def take_out_head_tokens(model):
    """Take s(1) out: the head reads the picture alone. The model cannot be saved any more."""
    tokens = model.model.safety_tokens
    tokens.head = nn.Parameter(tokens.head.new_empty(0, tokens.head.shape[1]))


def take_out_block_tokens(model, processor):
    """Take s(2) out: the language model sees the picture and the condition alone. Neither can be saved any more."""
    tokens = model.model.safety_tokens
    tokens.block = nn.Parameter(tokens.block.new_empty(0, tokens.block.shape[1]))
    # Model and processor count the positions of the block by this number.
    model.config.safety_config.num_safety_tokens = processor.num_safety_tokens = 0


@torch.no_grad()
def replace_conditions_by_text(model, tokenizer):
    """Replace the learned condition table by the embeddings of the texts that it started from.

    Raises:
        ValueError: the model has no condition table.
    """
    if model.model.safety_conditions is None:
        raise ValueError("the model has no conditions (`num_condition_tokens=0`), expected one that has")
    fresh = copy.deepcopy(model)  # starting the table changes the head, too
    fresh.initialize_from_embeddings(tokenizer)
    model.model.safety_conditions.weight.copy_(fresh.model.safety_conditions.weight)


def as_stock_model(model, base: str):
    """Return the backbone with this model's language model, tower and connector, and without safety modules.

    Args:
        model: a safe model without safety and condition tokens, which its language model has never seen.
        base: folder or Hub id of the stock checkpoint that it was made from.

    Raises:
        ValueError: the model has such tokens.
    """
    safety = model.config.safety_config
    if safety.num_safety_tokens or safety.num_condition_tokens:
        raise ValueError(
            f"expected a model without safety and condition tokens, got {safety.num_safety_tokens} and "
            f"{safety.num_condition_tokens}: its language model has been trained to read them"
        )
    stock = AutoModelForImageTextToText.from_pretrained(base, dtype=model.dtype)
    stock.load_state_dict(
        {name: value for name, value in model.state_dict().items() if not name.startswith(SAFETY_PREFIX)}
    )
    return stock.eval()
