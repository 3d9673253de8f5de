"""SafeLlavaNext: tiles of a picture in one block, the whole picture first."""

import pytest
from support.safety_model_tester import (
    LLAVA_LAYOUT,
    LLAVA_TEMPLATE,
    SafetyModelTester,
    tiny_text_config,
    tiny_tokenizer,
)
from support.tiled_model_tester import TiledModelTester
from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration, LlavaNextImageProcessor

from safevlm_hf import SafeLlavaNextConfig, SafeLlavaNextForConditionalGeneration, SafeLlavaNextProcessor


pytestmark = pytest.mark.slow  # `make test-families` runs it


PINPOINTS = [[16, 32], [32, 16], [32, 32]]


class TestLlavaNext(TiledModelTester, SafetyModelTester):
    config_class = SafeLlavaNextConfig
    model_class = SafeLlavaNextForConditionalGeneration
    processor_class = SafeLlavaNextProcessor
    stock_class = LlavaNextForConditionalGeneration
    old_layout = LLAVA_LAYOUT

    def tokenizer(self):
        return tiny_tokenizer("<image>")

    def stock_config(self, tokenizer):
        tower = {
            "model_type": "clip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": 16,
            "patch_size": 4,
        }
        return LlavaNextConfig(
            vision_config=tower,
            text_config=tiny_text_config(tokenizer, "llama"),
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
            image_grid_pinpoints=PINPOINTS,
        )

    def processor_parts(self, tokenizer) -> dict:
        return {
            "image_processor": LlavaNextImageProcessor(
                size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, image_grid_pinpoints=PINPOINTS
            ),
            "tokenizer": tokenizer,
            "patch_size": 4,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
            "chat_template": LLAVA_TEMPLATE,
        }

    def test_sizes_that_are_missing_raise(self, model, processor):
        inputs = dict(self.prepare(processor, self.conversations()[:1]))
        del inputs["image_sizes"]
        for call in (model, model.generate, model.assess, model.explain):
            with pytest.raises(ValueError, match="An image needs `image_sizes`.*pass everything that Safe.*Processor"):
                call(**inputs)
