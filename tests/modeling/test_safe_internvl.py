"""SafeInternVL: tiles in one run of positions between structure tokens, the whole picture last."""

import pytest
import torch
from support.safety_model_tester import (
    LLAVA_LAYOUT,
    LLAVA_TEMPLATE,
    SafetyModelTester,
    picture,
    tiny_text_config,
    tiny_tokenizer,
)
from support.tiled_model_tester import TiledModelTester
from transformers import (
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVideoProcessor,
)

from safevlm_hf import SafeInternVLConfig, SafeInternVLForConditionalGeneration, SafeInternVLProcessor


pytestmark = pytest.mark.slow  # `make test-families` runs it


IMAGE_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}


class TestInternVL(TiledModelTester, SafetyModelTester):
    config_class = SafeInternVLConfig
    model_class = SafeInternVLForConditionalGeneration
    processor_class = SafeInternVLProcessor
    stock_class = InternVLForConditionalGeneration
    old_layout = tuple(pair for pair in LLAVA_LAYOUT if "tower" not in pair[0])
    sizes = ((64, 64), (32, 32), (32, 64))

    def tokenizer(self):
        return tiny_tokenizer(**IMAGE_TOKENS)

    def stock_config(self, tokenizer):
        tower = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 32,
            "patch_size": 4,
        }
        return InternVLConfig(
            vision_config=tower,
            text_config=tiny_text_config(tokenizer, "qwen2"),
            image_token_id=tokenizer.context_image_token_id,
            image_seq_length=16,
            tie_word_embeddings=False,
        )

    def processor_parts(self, tokenizer) -> dict:
        return {
            "image_processor": GotOcr2ImageProcessor(size={"height": 32, "width": 32}, max_patches=4),
            "tokenizer": tokenizer,
            "video_processor": InternVLVideoProcessor(size={"height": 32, "width": 32}),
            "image_seq_length": 16,
            "chat_template": LLAVA_TEMPLATE.replace("<image>", "<IMG_CONTEXT>"),
        }

    def test_tiles_belong_to_their_images(self, model, processor):
        inputs = self.prepare(processor, self.conversations())
        assert inputs["safety_num_tiles"].tolist() == [5, 1, 3]
        tampered = {**inputs, "safety_num_tiles": torch.tensor([5, 2, 3])}
        for call in (model, model.generate, model.assess):
            with pytest.raises(ValueError, match="safety_num_tiles"):
                call(**tampered)

    def test_a_grid_is_a_tiles_own(self, own_tokenizer):
        config = SafeInternVLConfig.from_base_config(self.stock_config(own_tokenizer))
        assert config.safety_grid_size == 4

    @pytest.mark.parametrize("size", [(32, 32), (64, 32), (64, 64), (50, 20), (20, 90)])
    def test_engines_are_told_what_is_written(self, processor, size):
        inputs = processor(text=["<IMG_CONTEXT>"], images=[[picture(size, 1)]], add_special_tokens=False)
        counted = processor._get_num_multimodal_tokens(image_sizes=[size[::-1]])
        assert counted["num_image_tokens"] == [len(inputs["input_ids"][0])]
