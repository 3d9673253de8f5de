"""SafeSmolVLM: a run of positions per tile, structure tokens between them, the whole picture last."""

import pytest
import torch
from support.safety_model_tester import LLAVA_TEMPLATE, SafetyModelTester, picture, tiny_text_config, tiny_tokenizer
from support.tiled_model_tester import TiledModelTester
from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMImageProcessor, SmolVLMVideoProcessor

from safevlm_hf import SafeSmolVLMConfig, SafeSmolVLMForConditionalGeneration, SafeSmolVLMProcessor


pytestmark = pytest.mark.ci  # `make test` has LLaVA alone

TOKENS = (
    *("<image>", "<video>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>"),
    *(f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)),
)


class TestSmolVLM(TiledModelTester, SafetyModelTester):
    config_class = SafeSmolVLMConfig
    model_class = SafeSmolVLMForConditionalGeneration
    processor_class = SafeSmolVLMProcessor
    stock_class = SmolVLMForConditionalGeneration
    stock_config_class = SmolVLMConfig

    def tokenizer(self):
        return tiny_tokenizer(*TOKENS)

    def stock_config(self, tokenizer):
        tower = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 32,
            "patch_size": 4,
        }
        return self.stock_config_class(
            vision_config=tower,
            text_config=tiny_text_config(tokenizer, "llama"),
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
            scale_factor=2,
            pad_token_id=tokenizer.pad_token_id,
        )

    def processor_parts(self, tokenizer) -> dict:
        return {
            "image_processor": SmolVLMImageProcessor(
                size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, do_image_splitting=True
            ),
            "tokenizer": tokenizer,
            "video_processor": SmolVLMVideoProcessor(max_image_size={"longest_edge": 32}),
            "image_seq_len": 16,
            "chat_template": LLAVA_TEMPLATE,
        }

    def test_tiles_belong_to_their_images(self, model, processor):
        inputs = self.prepare(processor, self.conversations())
        assert inputs["safety_num_tiles"].tolist() == [5, 5, 3]
        tampered = {**inputs, "safety_num_tiles": torch.tensor([5, 4, 3])}
        for call in (model, model.generate, model.assess):
            with pytest.raises(ValueError, match="safety_num_tiles"):
                call(**tampered)

    @pytest.mark.parametrize("size", [(32, 32), (64, 32), (64, 64), (50, 20), (20, 90)])
    def test_engines_are_told_what_is_written(self, processor, size):
        inputs = processor(text=["<image>"], images=[[picture(size, 1)]], add_special_tokens=False)
        counted = processor._get_num_multimodal_tokens(image_sizes=[size[::-1]])
        assert counted["num_image_tokens"] == [len(inputs["input_ids"][0])]
