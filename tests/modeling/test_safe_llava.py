"""SafeLlava through the tests of all families; what is its own stands in the other files."""

from support.safety_model_tester import (
    LLAVA_LAYOUT,
    LLAVA_TEMPLATE,
    SafetyModelTester,
    tiny_text_config,
    tiny_tokenizer,
)
from transformers import CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration

from safevlm_hf import SafeLlavaConfig, SafeLlavaForConditionalGeneration, SafeLlavaProcessor


class TestLlava(SafetyModelTester):
    config_class = SafeLlavaConfig
    model_class = SafeLlavaForConditionalGeneration
    processor_class = SafeLlavaProcessor
    stock_class = LlavaForConditionalGeneration
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
            "image_size": 24,
            "patch_size": 4,
        }
        return LlavaConfig(
            vision_config=tower,
            text_config=tiny_text_config(tokenizer, "llama"),
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
            image_seq_length=36,
        )

    def processor_parts(self, tokenizer) -> dict:
        return {
            "image_processor": CLIPImageProcessor(
                size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}, do_center_crop=True
            ),
            "tokenizer": tokenizer,
            "patch_size": 4,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
            "chat_template": LLAVA_TEMPLATE,
        }
