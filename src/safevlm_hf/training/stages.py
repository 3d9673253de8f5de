"""The parts that each stage trains (arXiv 2405.13581, section 3.2)."""

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..checkpoints.families import SafeModel
from ..extras import needs_extra
from ..modeling.safety_word_head import SentenceReader
from .arguments import LoraArguments


if TYPE_CHECKING:
    from peft import PeftModel


SAFETY_PREFIX = "model.safety_"
WORD_READER_PREFIX = "model.safety_head.tree."


WORD_VECTORS = f"{WORD_READER_PREFIX}words."
SENTENCES = f"{WORD_READER_PREFIX}sentences."
ENCODER = f"{SENTENCES}encoder."


def is_word_reader(name: str) -> bool:
    """Tell whether a weight of this name is one of the states of windows that [`start_word_reader`] sets."""
    return name.startswith(WORD_READER_PREFIX) and not name.startswith(SENTENCES)


def prepare_stage1(model: SafeModel, trains_word_reader: bool = False) -> SafeModel:
    """Prepare stage 1, which trains the safety modules alone. Vision tower, projector and language model are frozen,
    and so is what a head of words has learned of language (`train_word_reader.py`): it knows more than most sets of
    records show. With `trains_word_reader` its word vectors alone are. A sentence encoder always is."""
    for name, parameter in model.named_parameters():
        is_frozen = is_word_reader(name) and not trains_word_reader
        is_trained = name.startswith(SAFETY_PREFIX) and not name.startswith((WORD_VECTORS, ENCODER))
        parameter.requires_grad_(is_trained and not is_frozen)
    return model


@contextmanager
def known_runs(model: nn.Module):
    """Keep what the head's sentence encoder has read, where there is one: records come back in every epoch."""
    readers = [module for module in model.modules() if isinstance(module, SentenceReader)]
    try:
        for reader in readers:
            reader.known = {}
        yield
    finally:
        for reader in readers:
            reader.known = None


def prepare_stage2(model: SafeModel, lora: LoraArguments) -> "SafeModel | PeftModel":
    """
    Prepare stage 2, which trains the language model, by LoRA on every linear layer or in full. Everything else is
    frozen.

    The word embeddings stay frozen too, also where the output layer is tied to them: stage 2 must leave every verdict
    as it was, and a head that reads embeddings makes its query of them.
    """
    model.requires_grad_(False)
    prefix = language_prefix(model)
    if lora.use_lora:
        with needs_extra("train"):
            from peft import LoraConfig, get_peft_model

        linears = [
            name for name, module in model.named_modules() if name.startswith(prefix) and isinstance(module, nn.Linear)
        ]
        config = LoraConfig(
            r=lora.lora_r, lora_alpha=lora.lora_alpha, lora_dropout=lora.lora_dropout, target_modules=linears
        )
        return get_peft_model(model, config)
    embeddings = model.get_input_embeddings().weight
    prefixes = (prefix, "lm_head.")
    for name, parameter in model.named_parameters():
        is_language = name.startswith(prefixes)
        parameter.requires_grad_(is_language and parameter is not embeddings)
    return model


def language_prefix(model: SafeModel) -> str:
    """Return how the names of the language model's weights begin: what it is called depends on the backbone."""
    decoder = model.get_decoder()
    return next(f"{name}." for name, module in model.named_modules() if module is decoder)


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Return the numbers of trainable parameters and of all."""
    # DeepSpeed's ZeRO-3 has emptied the parameters, and keeps their size.
    sizes = [(getattr(weight, "ds_numel", weight.numel()), weight.requires_grad) for weight in model.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


def unwrap(model) -> SafeModel:
    """Return the safe model below a peft wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@torch.no_grad()
def merge(model) -> SafeModel:
    """Return the safe model with its adapters merged."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def with_weights(model: "PeftModel", weights: dict[str, torch.Tensor]) -> "PeftModel":
    """Return a copy of a model with adapters, whose own weights are sharded, with `weights` under the same names. It
    is for merging and saving: what is not saved with a model, it lacks."""
    with needs_extra("train"):
        from peft import get_peft_model

    base = unwrap(model)
    # On this device the copy takes no memory until the weights are assigned to it.
    with torch.device("meta"):
        whole = get_peft_model(type(base)(base.config), model.peft_config["default"])
    whole.load_state_dict(weights, assign=True)
    unwrap(whole).tie_weights()
    unwrap(whole).generation_config = base.generation_config
    return whole
