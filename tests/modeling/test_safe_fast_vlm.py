"""SafeFastVlm: a convolutional tower of timm, and pooled features in one tensor."""

import pytest
from support.safety_model_tester import LLAVA_TEMPLATE, SafetyModelTester, tiny_text_config, tiny_tokenizer
from transformers import CLIPImageProcessor, FastVlmConfig, FastVlmForConditionalGeneration

from safevlm_hf import SafeFastVlmConfig, SafeFastVlmForConditionalGeneration, SafeFastVlmProcessor


pytestmark = pytest.mark.slow  # `make test-families` runs it


class TestFastVlm(SafetyModelTester):
    config_class = SafeFastVlmConfig
    model_class = SafeFastVlmForConditionalGeneration
    processor_class = SafeFastVlmProcessor
    stock_class = FastVlmForConditionalGeneration

    def tokenizer(self):
        return tiny_tokenizer("<image>")

    def stock_config(self, tokenizer):
        tower = {
            "model_type": "timm_wrapper",
            "architecture": "test_efficientnet",
            "do_pooling": False,
            "global_pool": "",
            "hidden_size": 256,
            "num_labels": 0,
        }
        return FastVlmConfig(
            vision_config=tower,
            text_config=tiny_text_config(tokenizer, "llama"),
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
            image_seq_length=4,
        )

    def processor_parts(self, tokenizer) -> dict:
        return {
            "image_processor": CLIPImageProcessor(size={"height": 64, "width": 64}, do_center_crop=False),
            "tokenizer": tokenizer,
            "patch_size": 32,
            "vision_feature_select_strategy": "full",
            "chat_template": LLAVA_TEMPLATE,
        }
