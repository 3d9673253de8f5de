"""SafeMistral3: any resolution, a structure token at the end of each row of positions."""

import pytest
import torch
from support.safety_model_tester import (
    LLAVA_LAYOUT,
    LLAVA_TEMPLATE,
    SafetyModelTester,
    tiny_text_config,
    tiny_tokenizer,
)
from support.tiled_model_tester import LargeMapTester
from transformers import Mistral3Config, Mistral3ForConditionalGeneration, PixtralImageProcessor

from safevlm_hf import SafeMistral3Config, SafeMistral3ForConditionalGeneration, SafeMistral3Processor


pytestmark = pytest.mark.slow  # `make test-families` runs it


TOKENS = ("[IMG]", "[IMG_BREAK]", "[IMG_END]")


class TestMistral3(LargeMapTester, SafetyModelTester):
    config_class = SafeMistral3Config
    model_class = SafeMistral3ForConditionalGeneration
    processor_class = SafeMistral3Processor
    stock_class = Mistral3ForConditionalGeneration
    old_layout = tuple(pair for pair in LLAVA_LAYOUT if "tower" not in pair[0])

    def tokenizer(self):
        return tiny_tokenizer(*TOKENS)

    def stock_config(self, tokenizer):
        tower = {
            "model_type": "pixtral",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "head_dim": 8,
            "image_size": 64,
            "patch_size": 4,
        }
        return Mistral3Config(
            vision_config=tower,
            # With smaller weights all answers are alike.
            text_config=tiny_text_config(tokenizer, "mistral", head_dim=16, initializer_range=0.2),
            image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        )

    def processor_parts(self, tokenizer) -> dict:
        return {
            "image_processor": PixtralImageProcessor(size={"longest_edge": 64}, patch_size={"height": 4, "width": 4}),
            "tokenizer": tokenizer,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "chat_template": LLAVA_TEMPLATE.replace("<image>", "[IMG]"),
        }

    def test_sizes_that_are_missing_raise(self, model, processor):
        inputs = dict(self.prepare(processor, self.conversations()[:1]))
        del inputs["image_sizes"]
        for call in (model, model.generate, model.assess):
            with pytest.raises(ValueError, match="image_sizes"):
                call(**inputs)

    def test_a_picture_that_is_none_leaves_the_others_readable(self, model, processor):
        """The tower reads all pictures of a batch as one sequence."""
        inputs = self.prepare(processor, self.conversations())
        expected = model.assess(**inputs).safety_level_logits
        inputs["pixel_values"][0, 0, 0, 0] = torch.nan
        found = model.assess(**inputs)
        assert found.safety_level_logits[0].isnan().all()
        torch.testing.assert_close(found.safety_level_logits[1:], expected[1:])
