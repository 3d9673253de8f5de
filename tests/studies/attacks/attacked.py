"""Tiny random checkpoints of every family, to attack."""

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from safevlm_hf.studies.attacks.losses import evade_head
from safevlm_hf.studies.attacks.white_box import WhiteBox


sys.path.append(str(Path(__file__).parents[2] / "modeling"))
TESTERS = {
    "fast_vlm": "TestFastVlm",
    "gemma3": "TestGemma3",
    "glm4v": "TestGlm4v",
    "idefics3": "TestIdefics3",
    "internvl": "TestInternVL",
    "llava": "TestLlava",
    "llava_next": "TestLlavaNext",
    "llava_onevision": "TestLlavaOnevision",
    "mistral3": "TestMistral3",
    "qwen2_5_vl": "TestQwen2_5_VL",
    "qwen2_vl": "TestQwen2VL",
    "qwen3_5": "TestQwen3_5",
    "qwen3_vl": "TestQwen3VL",
    "smolvlm": "TestSmolVLM",
}


@dataclass(frozen=True)
class Tiny:
    """A random checkpoint, with its family's real processor class."""

    model: Any
    processor: Any


def make_tester(family: str):
    return getattr(importlib.import_module(f"test_safe_{family}"), TESTERS[family])()


def make_tiny(family: str, records) -> Tiny:
    """A model that flags half of these records: its verdict follows their pictures, at random."""
    tester = make_tester(family)
    tokenizer = tester.tokenizer()
    model, processor = tester.make_model(tokenizer), tester.make_processor(tokenizer)
    level_head = model.model.safety_head.level_head
    with torch.no_grad():
        level_head.weight.mul_(6)
        box = WhiteBox(model, processor, records)
        margins = evade_head(box, box.pictures, list(range(len(records))))
        level_head.bias[0] += margins.sort().values[len(records) // 2 - 1 :][:2].mean()
    return Tiny(model, processor)
