"""A tiny checkpoint of each family, with its real processor class; its verdict follows the question."""

import importlib
import sys
from pathlib import Path

from served import save_rigged
from support.safety_model_tester import SAFETY, SafetyModelTester

from safevlm_hf.vllm.keys import KEY_BITS


sys.path.append(str(Path(__file__).parents[1] / "modeling"))

TESTERS = {
    "qwen2_5_vl": "TestQwen2_5_VL",
    "qwen2_vl": "TestQwen2VL",
    "idefics3": "TestIdefics3",
    "smolvlm": "TestSmolVLM",
    "llava_next": "TestLlavaNext",
    "llava_onevision": "TestLlavaOnevision",
    "fast_vlm": "TestFastVlm",
    "internvl": "TestInternVL",
    "glm4v": "TestGlm4v",
}
# A key reaches into the features, and between structure tokens; FastVLM's tiny tower has too few.
NUM_SAFETY_TOKENS = {"fast_vlm": KEY_BITS}


def find_tester(family: str) -> SafetyModelTester:
    return getattr(importlib.import_module(f"test_safe_{family}"), TESTERS[family])()


def with_wide_heads(config):
    """The engine's attention has no heads of 16 on a CPU."""
    text_config = config.get_text_config()
    text_config.num_attention_heads, text_config.num_key_value_heads, text_config.head_dim = 2, 1, 32
    if "mrope_section" in (text_config.rope_parameters or {}):
        text_config.rope_parameters["mrope_section"] = [4, 6, 6]
    return config


def make_family_checkpoint(family: str, folder):
    """Model and processor, saved in the folder."""
    tester = find_tester(family)
    stock_config = tester.stock_config
    tester.stock_config = lambda tokenizer: with_wide_heads(stock_config(tokenizer))
    tokenizer = tester.tokenizer()
    safety = {**SAFETY, "num_safety_tokens": NUM_SAFETY_TOKENS.get(family, 40), "num_condition_tokens": 8}
    processor = tester.make_processor(tokenizer, safety)
    return save_rigged(tester.make_model(tokenizer, safety), processor, folder), processor
