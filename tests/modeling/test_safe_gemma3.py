"""SafeGemma3: a picture's positions see each other in both directions; structure tokens inside the block."""

from pathlib import Path

import pytest
import torch
from support.safety_generation_tester import ONE_AND_SEVERAL
from support.safety_model_tester import (
    CAREFUL,
    DISABLED,
    LLAVA_LAYOUT,
    NOTHING_ADDED,
    SafetyModelTester,
    picture,
    tiny_text_config,
    tiny_tokenizer,
)
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3PreTrainedModel,
    initialization,
)
from transformers.generation import utils as generation_utils

from safevlm_hf import SafeGemma3Config, SafeGemma3ForConditionalGeneration, SafeGemma3Processor


pytestmark = pytest.mark.slow  # `make test-families` runs it


TEMPLATE = Path(__file__).parents[1] / "fixtures" / "chat_templates" / "gemma3.jinja"
IMAGE_TOKENS = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}


class TestGemma3(SafetyModelTester):
    config_class = SafeGemma3Config
    model_class = SafeGemma3ForConditionalGeneration
    processor_class = SafeGemma3Processor
    stock_class = Gemma3ForConditionalGeneration
    old_layout = LLAVA_LAYOUT

    @pytest.fixture(scope="class", autouse=True)
    def projection_that_shows_something(self):
        """The stock model starts its projection with zeros: all pictures would be alike."""
        stock = Gemma3PreTrainedModel._init_weights

        def init_weights(self, module):
            stock(self, module)
            if hasattr(module, "mm_input_projection_weight"):
                initialization.normal_(module.mm_input_projection_weight, std=0.1)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Gemma3PreTrainedModel, "_init_weights", init_weights)
            yield

    def tokenizer(self):
        return tiny_tokenizer("<start_of_turn>", "<end_of_turn>", **IMAGE_TOKENS)

    def stock_config(self, tokenizer):
        tower = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 32,
            "patch_size": 4,
        }
        layers = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16}
        return Gemma3Config(
            vision_config=tower,
            text_config=tiny_text_config(tokenizer, "gemma3_text", head_dim=16, **layers),
            mm_tokens_per_image=16,
            boi_token_index=tokenizer.boi_token_id,
            eoi_token_index=tokenizer.eoi_token_id,
            image_token_index=tokenizer.image_token_id,
        )

    def processor_parts(self, tokenizer) -> dict:
        return {
            "image_processor": Gemma3ImageProcessor(size={"height": 32, "width": 32}),
            "tokenizer": tokenizer,
            "image_seq_length": 16,
            "chat_template": TEMPLATE.read_text(),
        }

    @ONE_AND_SEVERAL
    def test_chunked_prefill(self, model, processor, own_tokenizer, greedy_answers, row):
        # A chunk does not see the rest of its picture, so that the stock model does not answer as without chunks
        # either. The answer is under the condition all the same.
        if not hasattr(generation_utils, "_slice_mm_encoder_output"):
            return super().test_chunked_prefill(model, processor, greedy_answers, row)
        conversation, chunks = [self.conversations()[row]], {"prefill_chunk_size": 5}
        inputs = self.prepare(processor, conversation)
        plain, careful = (
            self.answer(model, inputs, **chunks, safety_policy=policy).logits[0] for policy in (DISABLED, CAREFUL)
        )
        assert (plain - careful).abs().max() > 1e-3
        stock = self.stock_class(self.stock_config(own_tokenizer)).eval()
        inputs = self.prepare(self.make_processor(own_tokenizer, NOTHING_ADDED), conversation)
        del inputs["question_mask"]
        in_chunks, at_once = (self.answer(stock, inputs, **settings).logits[0] for settings in (chunks, {}))
        assert (in_chunks - at_once).abs().max() > 1e-3

    def test_a_mask_that_would_be_wrong_raises(self, model, processor):
        inputs = dict(self.prepare(processor, self.conversations()[:1]))
        del inputs["token_type_ids"]
        for call in (model, model.generate):
            with pytest.raises(ValueError, match="token_type_ids"):
                call(**inputs)
        # Positions of the caller's own say nothing of the mask.
        positions = torch.arange(inputs["input_ids"].shape[1])[None]
        with pytest.raises(ValueError, match="token_type_ids"):
            model(**inputs, position_ids=positions)

    def test_crops_are_refused(self, processor):
        crops = {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 8, "pan_and_scan_min_ratio_to_activate": 1.2}
        with pytest.raises(ValueError, match="do_pan_and_scan=False"):
            processor(images=picture((64, 32), 0), text="<start_of_image> What is it?", **crops)

    def test_the_head_is_scaled_to_what_it_reads(self, own_tokenizer):
        """The module of the embeddings multiplies them by the root of their width."""
        model = self.make_model(own_tokenizer)
        before = model.model.safety_head.q_proj.weight.clone()
        model.initialize_from_embeddings(own_tokenizer)
        scale = model.get_input_embeddings().weight.std() * 8
        torch.testing.assert_close(model.model.safety_head.q_proj.weight * scale, before)
