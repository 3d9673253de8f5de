"""SafeGlm4v: any resolution, positions of three dimensions, a strange order of beams in the stock model."""

import pytest
import torch
from support.safety_model_tester import LLAVA_TEMPLATE, SafetyModelTester, tiny_tokenizer
from support.tiled_model_tester import LargeMapTester
from transformers import (
    GenerationMixin,
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    Glm4vImageProcessor,
    Glm4vVideoProcessor,
)

from safevlm_hf import SafeGlm4vConfig, SafeGlm4vForConditionalGeneration, SafeGlm4vProcessor


pytestmark = pytest.mark.slow  # `make test-families` runs it


PICTURE = "<|begin_of_image|><|image|><|end_of_image|>"
IDS = {
    "image_token_id": "<|image|>",
    "video_token_id": "<|video|>",
    "image_start_token_id": "<|begin_of_image|>",
    "image_end_token_id": "<|end_of_image|>",
    "video_start_token_id": "<|begin_of_video|>",
    "video_end_token_id": "<|end_of_video|>",
}


class TestGlm4v(LargeMapTester, SafetyModelTester):
    config_class = SafeGlm4vConfig
    model_class = SafeGlm4vForConditionalGeneration
    processor_class = SafeGlm4vProcessor
    stock_class = Glm4vForConditionalGeneration
    old_layout = ()

    def tokenizer(self):
        return tiny_tokenizer(*IDS.values())

    def stock_config(self, tokenizer):
        tower = {
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 4,
            "out_hidden_size": 64,
            "image_size": 32,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        }
        text_config = {
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0},
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        }
        ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in IDS.items()}
        return Glm4vConfig(vision_config=tower, text_config=text_config, **ids)

    def processor_parts(self, tokenizer) -> dict:
        return {
            "image_processor": Glm4vImageProcessor(
                patch_size=4, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 128, "longest_edge": 8192}
            ),
            "tokenizer": tokenizer,
            "video_processor": Glm4vVideoProcessor(),
            "chat_template": LLAVA_TEMPLATE.replace("<image>", PICTURE),
        }

    def test_nothing_added_is_the_stock_model(self, own_tokenizer, monkeypatch):
        # Ours is the stock model with this mended; without it, the stock one answers beams by other pictures.
        mended = GenerationMixin._expand_multimodal_outputs
        monkeypatch.setattr(Glm4vForConditionalGeneration, "_expand_multimodal_outputs", mended)
        super().test_nothing_added_is_the_stock_model(own_tokenizer)

    def test_several_answers_see_the_pictures_in_their_order(self, model, processor):
        inputs = self.prepare(processor, self.conversations()[1:2])
        greedy = self.answer(model, inputs)
        twice = self.answer(model, inputs, do_sample=True, top_k=1, num_return_sequences=2)
        assert torch.equal(twice.sequences, greedy.sequences.repeat(2, 1))
        torch.testing.assert_close(twice.logits[0], greedy.logits[0].repeat(2, 1), rtol=0, atol=1e-5)

    def test_grids_that_are_missing_raise(self, model, processor):
        for name in ("image_grid_thw", "mm_token_type_ids"):
            inputs = dict(self.prepare(processor, self.conversations()[:1]))
            del inputs[name]
            for call in (model, model.generate):
                with pytest.raises(ValueError, match=name):
                    call(**inputs)

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
