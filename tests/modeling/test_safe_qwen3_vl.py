"""SafeQwen3VL: features of the tower's inner layers are added to the language model's first ones (deepstack)."""

import pytest
import torch
from support.safety_model_tester import CAREFUL, DISABLED, MODES, SAFETY, cache_of, without_images
from test_safe_qwen2_5_vl import TestQwen2_5_VL as Qwen2_5_VL
from torch.nn import functional as F
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLModel, Qwen3VLVideoProcessor
from transformers.generation import utils as generation_utils

from safevlm_hf import SafeQwen3VLConfig, SafeQwen3VLForConditionalGeneration, SafeQwen3VLProcessor


pytestmark = pytest.mark.slow  # `make test-families` runs it


DEEPSTACK_MODES = {**MODES, "chunked prefill": {"prefill_chunk_size": 5}, "filled anew": {"safety_policy": CAREFUL}}


class TestQwen3VL(Qwen2_5_VL):
    old_layout = ()
    config_class = SafeQwen3VLConfig
    model_class = SafeQwen3VLForConditionalGeneration
    processor_class = SafeQwen3VLProcessor
    stock_class = Qwen3VLForConditionalGeneration
    stock_config_class = Qwen3VLConfig
    tower = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 4,
        "out_hidden_size": 64,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 1],
    }
    text_values = {"head_dim": 16}
    video_processor_class = Qwen3VLVideoProcessor
    template = "qwen3_vl"

    @pytest.mark.parametrize("mode", DEEPSTACK_MODES)
    def test_deepstack_features_are_zero_at_the_extra_positions(self, model, processor, mode):
        """And the tower's own at the others, whatever is repeated, cut, or kept from an earlier call."""
        if mode == "chunked prefill" and not hasattr(generation_utils, "_slice_mm_encoder_output"):
            pytest.skip("refused before transformers 5.24")
        of_one = mode in ("prompt lookup", "chunked prefill")
        inputs = dict(self.prepare(processor, self.conversations()[: 1 if of_one else 3]))
        settings = DEEPSTACK_MODES[mode]
        copies = max(settings.get("num_beams", 1), settings.get("num_return_sequences", 1))
        expected = self.deepstack_of_stock(model, inputs, [[0], [1, 2]][: 1 if of_one else 2], copies)
        if mode == "filled anew":
            earlier = self.answer(model, inputs, safety_policy=DISABLED)
            settings = {**settings, "past_key_values": cache_of(earlier)}
            inputs = without_images(inputs)
        found = []
        hook = model.model.language_model.register_forward_pre_hook(
            lambda module, args, kwargs: found.append(kwargs["deepstack_visual_embeds"]), with_kwargs=True
        )
        with hook:
            self.answer(model, inputs, **settings, output_logits=False)
        for number, layer in enumerate(expected):
            torch.testing.assert_close(torch.cat([layers[number] for layers in found if layers]), layer)

    def deepstack_of_stock(self, model, inputs, samples: list[list[int]], copies: int) -> list[torch.Tensor]:
        """What the stock model adds to each layer, with zeros around each image."""
        with torch.no_grad():
            outputs = Qwen3VLModel.get_image_features(
                model.model, inputs["pixel_values"], image_grid_thw=inputs["image_grid_thw"]
            )
        around = (0, 0, SAFETY["num_safety_tokens"], SAFETY["num_condition_tokens"])
        images = [image for sample in samples for image in sample * copies]
        assert outputs.deepstack_features[0][0].abs().max() > 1e-3
        return [torch.cat([F.pad(layer[image], around) for image in images]) for layer in outputs.deepstack_features]
