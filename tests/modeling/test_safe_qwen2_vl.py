"""SafeQwen2VL, which differs from Qwen2.5-VL in its tower and its config."""

import pytest
from test_safe_qwen2_5_vl import TestQwen2_5_VL as Qwen2_5_VL
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from safevlm_hf import SafeQwen2VLConfig, SafeQwen2VLForConditionalGeneration, SafeQwen2VLProcessor


pytestmark = pytest.mark.slow  # `make test-families` runs it


class TestQwen2VL(Qwen2_5_VL):
    config_class = SafeQwen2VLConfig
    model_class = SafeQwen2VLForConditionalGeneration
    processor_class = SafeQwen2VLProcessor
    stock_class = Qwen2VLForConditionalGeneration
    stock_config_class = Qwen2VLConfig
    tower = {
        "depth": 2,
        "embed_dim": 32,
        "num_heads": 4,
        "mlp_ratio": 2,
        "hidden_size": 64,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
