"""SafeIdefics3, which has SmolVLM's tiles and a processor of its own."""

import pytest
from test_safe_smolvlm import TestSmolVLM as SmolVLM
from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3ImageProcessor

from safevlm_hf import SafeIdefics3Config, SafeIdefics3ForConditionalGeneration, SafeIdefics3Processor


pytestmark = pytest.mark.slow  # `make test-families` runs it


class TestIdefics3(SmolVLM):
    config_class = SafeIdefics3Config
    model_class = SafeIdefics3ForConditionalGeneration
    processor_class = SafeIdefics3Processor
    stock_class = Idefics3ForConditionalGeneration
    stock_config_class = Idefics3Config

    def processor_parts(self, tokenizer) -> dict:
        parts = super().processor_parts(tokenizer)
        del parts["video_processor"]
        image_processor = Idefics3ImageProcessor(
            size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, do_image_splitting=True
        )
        return {**parts, "image_processor": image_processor}
