"""SafeQwen2_5_VL: any resolution, positions of three dimensions."""

from pathlib import Path

from safety_model_tester import SafetyModelTester, tiny_tokenizer
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from safevlm_hf.modeling import (
    SafeQwen2_5_VLConfig,
    SafeQwen2_5_VLForConditionalGeneration,
    SafeQwen2_5_VLProcessor,
)


TEMPLATE = Path(__file__).parents[1] / "fixtures" / "chat_templates" / "qwen2_5_vl.jinja"
TOKENS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


class TestQwen2_5_VL(SafetyModelTester):
    config_class = SafeQwen2_5_VLConfig
    model_class = SafeQwen2_5_VLForConditionalGeneration
    processor_class = SafeQwen2_5_VLProcessor
    stock_class = Qwen2_5_VLForConditionalGeneration
    stock_config_class = Qwen2_5_VLConfig
    tower = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 4,
        "out_hidden_size": 64,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 16,
        "fullatt_block_indexes": [1],
    }

    def tokenizer(self):
        return tiny_tokenizer(*TOKENS)

    def stock_config(self, tokenizer):
        ids = dict(zip(TOKENS, tokenizer.convert_tokens_to_ids(TOKENS)))
        rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
        text_config = {
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_parameters": rope,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        }
        return self.stock_config_class(
            vision_config=self.tower,
            text_config=text_config,
            image_token_id=ids["<|image_pad|>"],
            video_token_id=ids["<|video_pad|>"],
            vision_start_token_id=ids["<|vision_start|>"],
            vision_end_token_id=ids["<|vision_end|>"],
        )

    def processor_parts(self, tokenizer) -> dict:
        return {
            "image_processor": Qwen2VLImageProcessor(
                patch_size=4, merge_size=2, temporal_patch_size=2, min_pixels=64, max_pixels=4096
            ),
            "tokenizer": tokenizer,
            "video_processor": Qwen2VLVideoProcessor(),
            "chat_template": TEMPLATE.read_text(),
        }
