"""SafeQwen2_5_VL: any resolution, positions of three dimensions."""

from pathlib import Path

import pytest
import torch
from support.safety_model_tester import SafetyModelTester, tiny_tokenizer
from support.tiled_model_tester import LargeMapTester
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from safevlm_hf import (
    SafeQwen2_5_VLConfig,
    SafeQwen2_5_VLForConditionalGeneration,
    SafeQwen2_5_VLProcessor,
)


pytestmark = pytest.mark.ci  # `make test` has LLaVA alone

TEMPLATES = Path(__file__).parents[1] / "fixtures" / "chat_templates"
TOKENS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


class TestQwen2_5_VL(LargeMapTester, SafetyModelTester):
    config_class = SafeQwen2_5_VLConfig
    model_class = SafeQwen2_5_VLForConditionalGeneration
    processor_class = SafeQwen2_5_VLProcessor
    stock_class = Qwen2_5_VLForConditionalGeneration
    stock_config_class = Qwen2_5_VLConfig
    old_layout = (("model.language_model.", "model."), ("model.visual.", "visual."))
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
    text_values = {}  # a language model's own, besides those that all of them take
    video_processor_class = Qwen2VLVideoProcessor
    template = "qwen2_5_vl"

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
            **self.text_values,
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
            "video_processor": self.video_processor_class(),
            "chat_template": (TEMPLATES / f"{self.template}.jinja").read_text(),
        }

    def test_embeddings_of_a_prompt_with_pictures_raise(self, model, processor):
        inputs = dict(self.prepare(processor, self.conversations()[:1]))
        embeds = model.get_input_embeddings()(inputs.pop("input_ids"))
        for call in (model, model.generate):
            with pytest.raises(ValueError, match="input_ids"):
                call(inputs_embeds=embeds, **inputs)

    def test_extra_positions_are_text(self, model, processor):
        """A block's positions: three that rise together, then the grid, then two."""
        inputs = self.prepare(processor, self.conversations()[:1])
        names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")
        positions, _ = model.model.get_rope_index(**{name: inputs[name] for name in names})
        block = positions[:, 0, (inputs["input_ids"][0] == model.config.image_token_id)]
        rows, columns = (inputs["image_grid_thw"][0, 1:] // 2).tolist()
        grid = block[:, 3:-2].unflatten(1, (rows, columns)) - block[:, 3].view(3, 1, 1)
        assert (block[:, :3] == block[0, :3]).all() and (block[:, -2:] == block[0, -2:]).all()
        assert (grid[1] == torch.arange(rows)[:, None]).all() and (grid[2] == torch.arange(columns)).all()
        assert (grid[0] == 0).all()
