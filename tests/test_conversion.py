"""Parity with the authors' published code, on the reference file made with it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from safevlm_hf import SafeLlavaConfig, SafeLlavaForConditionalGeneration
from safevlm_hf.conversion import convert_reference_checkpoint


FIXTURE = Path(__file__).parent / "fixtures" / "reference_a"


@pytest.fixture(scope="module")
def reference():
    tensors = load_file(FIXTURE.with_suffix(".safetensors"))
    parts = {"model": {}, "input": {}, "output": {}}
    for key, value in tensors.items():
        part, name = key.split(".", 1)
        parts[part][name] = value
    return parts


@pytest.fixture(scope="module")
def sizes():
    return json.loads(FIXTURE.with_suffix(".json").read_text())


@pytest.fixture(scope="module")
def model(reference, sizes):
    config = SafeLlavaConfig(
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": sizes["vision_hidden_size"],
            "intermediate_size": sizes["vision_intermediate_size"],
            "num_hidden_layers": sizes["vision_layers"],
            "num_attention_heads": sizes["vision_heads"],
            "image_size": sizes["image_size"],
            "patch_size": sizes["patch_size"],
            "projection_dim": sizes["vision_projection_dim"],
        },
        text_config={
            "model_type": "llama",
            "hidden_size": sizes["hidden_size"],
            "intermediate_size": sizes["text_intermediate_size"],
            "num_hidden_layers": sizes["text_layers"],
            "num_attention_heads": sizes["text_heads"],
            "num_key_value_heads": sizes["text_heads"],
            "vocab_size": sizes["vocab_size"],
            "pad_token_id": sizes["pad_token_id"],
            "rms_norm_eps": sizes["rms_norm_eps"],
            "max_position_embeddings": sizes["max_position_embeddings"],
        },
        image_token_index=sizes["image_token_id"],
        safety_config={
            "num_safety_tokens": sizes["num_safety_tokens"],
            "num_condition_tokens": 0,
            "projector_depth": sizes["abstractor_depth"],
            "projector_mlp_depth": sizes["abstractor_mlp_depth"],
            "num_attention_heads": sizes["attention_heads"],
            "head_pooling": "first",
        },
    )
    model = SafeLlavaForConditionalGeneration(config)
    model.load_state_dict(convert_reference_checkpoint(reference["model"]))
    return model.eval()


def expand(inputs, sizes, padding):
    """The published code expands the image inside; our processor has done it before. Pads on the right."""
    block = sizes["num_safety_tokens"] + sizes["patch_grid"] ** 2
    rows = {"input_ids": [], "labels": [], "attention_mask": []}
    for ids, labels in zip(inputs["input_ids"], inputs["labels"]):
        repeats = torch.where(ids == sizes["image_token_id"], block, 1)
        ids, labels = ids.repeat_interleave(repeats), labels.repeat_interleave(repeats)
        rows["input_ids"].append(torch.cat([ids, ids.new_full((padding,), sizes["pad_token_id"])]))
        rows["labels"].append(torch.cat([labels, labels.new_full((padding,), -100)]))
        rows["attention_mask"].append(torch.cat([torch.ones_like(ids), ids.new_zeros(padding)]))
    return {name: torch.stack(values) for name, values in rows.items()}


@pytest.mark.parametrize("padding", [0, 5])
def test_parity_with_published_code(model, reference, sizes, padding):
    inputs, expected = reference["input"], reference["output"]
    with torch.no_grad():
        outputs = model(
            **expand(inputs, sizes, padding),
            pixel_values=inputs["pixel_values"],
            safety_levels=inputs["safety_levels"],
            safety_categories=inputs["safety_types"],
        )
        features = model.get_image_features(inputs["pixel_values"])
    length = expected["lm_logits"].shape[1]
    weighted = model.config.safety_config.loss_weight * outputs.safety_loss
    for ours, name in (
        (outputs.safety_level_logits, "level_logits"),
        (outputs.safety_category_logits, "type_logits"),
        (outputs.logits[:, :length], "lm_logits"),
        (outputs.lm_loss, "lm_loss"),
        (weighted, "safety_loss_x10"),
        (outputs.loss, "total_loss"),
        (features.safety_features, "safety_projector"),
        (torch.stack(features.image_features), "image_projector"),
    ):
        torch.testing.assert_close(ours, expected[name], rtol=0, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


def test_keys_outside_the_published_layout_are_named(reference):
    with pytest.raises(ValueError, match="model.extra.weight|extra.weight"):
        convert_reference_checkpoint({**reference["model"], "model.extra.weight": torch.ones(1)})
