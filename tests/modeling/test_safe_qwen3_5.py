"""SafeQwen3_5: linear attention in most layers, whose state is part of the cache."""

import json

import pytest
import torch
from safetensors.torch import save_file
from support.safety_model_tester import MODES, init
from test_safe_qwen2_5_vl import TestQwen2_5_VL as Qwen2_5_VL
from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration, Qwen3VLVideoProcessor

from safevlm_hf import SafeQwen3_5Config, SafeQwen3_5ForConditionalGeneration, SafeQwen3_5Processor


pytestmark = pytest.mark.slow  # `make test-families` runs it


class TestQwen3_5(Qwen2_5_VL):
    old_layout = ()
    config_class = SafeQwen3_5Config
    model_class = SafeQwen3_5ForConditionalGeneration
    processor_class = SafeQwen3_5Processor
    stock_class = Qwen3_5ForConditionalGeneration
    stock_config_class = Qwen3_5Config
    tower = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 4,
        "out_hidden_size": 64,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "num_position_embeddings": 16,
    }
    text_values = {
        "head_dim": 16,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 32,  # the blocks of 4 bits need as many
        "rope_parameters": {
            "rope_type": "default",
            "mrope_section": [2, 3, 3],
            "rope_theta": 10000.0,
            "partial_rotary_factor": 1.0,
        },
    }
    video_processor_class = Qwen3VLVideoProcessor
    template = "qwen3_5_nothink"
    # The stock model refuses drafts, and so prompt lookup: its state cannot be taken back by a token.
    modes = {name: settings for name, settings in MODES.items() if name != "prompt lookup"}

    def test_nothing_added_is_the_stock_model(self, own_tokenizer, monkeypatch):
        # In transformers 5.19 the stock class says that it reads text alone: `generate` does not encode its images
        # beforehand, and beams repeat the patches one by one, so that they see other images.
        monkeypatch.setattr(self.stock_class, "input_modalities", ("image", "text"))
        super().test_nothing_added_is_the_stock_model(own_tokenizer)

    def test_init_leaves_out_what_the_stock_class_ignores(self, own_tokenizer, tmp_path):
        """The heads that predict several tokens at once, which the checkpoints on the Hub hold."""
        self.save_stock(own_tokenizer, tmp_path / "stock", ())
        save_file({"mtp.fc.weight": torch.zeros(2, 2)}, tmp_path / "stock" / "mtp.safetensors", {"format": "pt"})
        index = tmp_path / "stock" / "model.safetensors.index.json"
        files = json.loads(index.read_text())
        files["weight_map"]["mtp.fc.weight"] = "mtp.safetensors"
        index.write_text(json.dumps(files))
        init(tmp_path / "stock", tmp_path / "safe")
        assert (tmp_path / "safe" / "model.safetensors").exists()

    def test_assisted_decoding(self, model, processor, own_tokenizer):
        stock = self.stock_class(self.stock_config(own_tokenizer))
        inputs = self.prepare(processor, self.conversations()[2:])
        for refusing in (model, stock):
            with pytest.raises(ValueError, match="not supported with stateful models"):
                refusing.generate(input_ids=inputs["input_ids"], assistant_model=stock)
