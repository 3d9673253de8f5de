"""SafeLlavaOnevision: tiles of a single picture, none of several in one sample."""

import pytest
from support.safety_model_tester import (
    LLAVA_LAYOUT,
    LLAVA_TEMPLATE,
    SafetyModelTester,
    tiny_text_config,
    tiny_tokenizer,
)
from support.tiled_model_tester import TiledModelTester
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionVideoProcessor,
)

from safevlm_hf import (
    SafeLlavaOnevisionConfig,
    SafeLlavaOnevisionForConditionalGeneration,
    SafeLlavaOnevisionProcessor,
)


pytestmark = pytest.mark.slow  # `make test-families` runs it


PINPOINTS = [[16, 32], [32, 16], [32, 32]]


class TestLlavaOnevision(TiledModelTester, SafetyModelTester):
    config_class = SafeLlavaOnevisionConfig
    model_class = SafeLlavaOnevisionForConditionalGeneration
    processor_class = SafeLlavaOnevisionProcessor
    stock_class = LlavaOnevisionForConditionalGeneration
    old_layout = LLAVA_LAYOUT

    def tokenizer(self):
        return tiny_tokenizer("<image>", "<video>")

    def stock_config(self, tokenizer):
        tower = {
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 16,
            "patch_size": 4,
            "vision_use_head": False,
        }
        image_token_id, video_token_id = tokenizer.convert_tokens_to_ids(["<image>", "<video>"])
        return LlavaOnevisionConfig(
            vision_config=tower,
            text_config=tiny_text_config(tokenizer, "qwen2"),
            image_token_index=image_token_id,
            video_token_index=video_token_id,
            image_grid_pinpoints=PINPOINTS,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
        )

    def processor_parts(self, tokenizer) -> dict:
        return {
            "image_processor": LlavaOnevisionImageProcessor(
                size={"height": 16, "width": 16}, image_grid_pinpoints=PINPOINTS
            ),
            "tokenizer": tokenizer,
            "video_processor": LlavaOnevisionVideoProcessor(),
            "num_image_tokens": 16,
            "vision_feature_select_strategy": "full",
            "chat_template": LLAVA_TEMPLATE,
        }

    def test_sizes_that_are_missing_raise(self, model, processor):
        inputs = dict(self.prepare(processor, self.conversations()[:1]))
        del inputs["image_sizes"]
        for call in (model, model.generate, model.assess, model.explain):
            with pytest.raises(ValueError, match="An image needs `image_sizes`.*pass everything that Safe.*Processor"):
                call(**inputs)
