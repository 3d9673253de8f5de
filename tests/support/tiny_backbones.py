"""Tiny random backbones with their real processor classes: what the tests of all families are made of."""

import copy

import numpy as np
from PIL import Image
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from safevlm_hf import SafeLlavaConfig
from safevlm_hf.data import NANO_BASE
from safevlm_hf.modeling.safe_llava import CHAT_TEMPLATE


NEW_TOKENS = 6
LLAVA_TEMPLATE = CHAT_TEMPLATE
LLAVA_LAYOUT = (
    ("lm_head.", "language_model.lm_head."),
    ("model.language_model.", "language_model.model."),
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("model.", ""),
)
SAFETY = {
    "num_safety_tokens": 3,
    "num_condition_tokens": 2,
    "projector_depth": 1,
    "projector_hidden_size": 16,
    "projector_grid_size": 3,
    "num_attention_heads": 4,
    "head_gate_size": 8,
    "head_gate_dropout": 0.0,
}
NOTHING_ADDED = {**SAFETY, "num_safety_tokens": 0, "num_condition_tokens": 0}
REFUSE_ALL = {
    "categories": {},
    "risk_threshold": 0.0,
    "actions": {"*": dict.fromkeys(("low", "medium", "high"), "refuse")},
}
SAY_NO = {**REFUSE_ALL, "refusals": {"*": "No."}}
CAREFUL, DISABLED = {"risk_threshold": 0.0}, {"enabled": False}
GREEDY = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}


def tiny_tokenizer(*special_tokens: str, **attributes) -> PreTrainedTokenizerFast:
    """The nano base's words, with a backbone's own special tokens."""
    backend = AutoTokenizer.from_pretrained(NANO_BASE).backend_tokenizer
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=copy.deepcopy(backend), bos_token="<s>", eos_token="</s>", pad_token="<pad>", **attributes
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(special_tokens)})
    return tokenizer


def tiny_text_config(tokenizer, model_type: str, **values) -> dict:
    return {
        "model_type": model_type,
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        **values,
    }


def head_config(hidden_size: int, **safety) -> SafeLlavaConfig:
    """A configuration for a safety head by itself, of four attention heads."""
    text_config = {"model_type": "llama", "hidden_size": hidden_size, "num_attention_heads": 4}
    return SafeLlavaConfig(
        text_config=text_config, safety_config={"num_attention_heads": 4, "head_gate_dropout": 0.0, **safety}
    )


def picture(size: tuple[int, int], seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def without_images(inputs: dict) -> dict:
    return {name: value for name, value in inputs.items() if not name.startswith(("pixel", "safety"))}


def cache_of(outputs):
    """Under its name in either version of transformers."""
    cache = outputs.get("past_key_values", None)
    return outputs.cache if cache is None else cache
