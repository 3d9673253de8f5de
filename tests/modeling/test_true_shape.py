"""LLaVA-1.5-7B's true widths in bfloat16, with two layers of each tower: every size that the safety modules see."""

import pytest
import torch

from safevlm_hf import SafeLlavaConfig, SafeLlavaForConditionalGeneration


pytestmark = pytest.mark.slow
BLOCK = 64 + 576 + 16


@pytest.fixture(scope="module")
def model():
    config = SafeLlavaConfig(
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 3,
            "num_attention_heads": 16,
            "image_size": 336,
            "patch_size": 14,
        },
        text_config={"model_type": "llama", "num_hidden_layers": 2, "vocab_size": 32064},
    )
    torch.set_default_dtype(torch.bfloat16)
    try:
        return SafeLlavaForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def inputs(model):
    ids = torch.tensor([[1, *[model.config.image_token_id] * BLOCK, 319, 1799, 9047]])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(1, 3, 336, 336, dtype=torch.bfloat16),
    }


def test_sizes_are_the_papers(model):
    assert model.model.safety_projector.stage1.b1.conv1.conv.out_channels == 1088
    assert model.model.safety_tokens.head.shape == model.model.safety_tokens.block.shape == (64, 4096)
    assert model.model.safety_conditions.weight.shape == (19, 16, 4096)


def test_forward_and_generate(model, inputs):
    with torch.no_grad():
        outputs = model(**inputs)
    assert outputs.logits.isfinite().all() and outputs.safety_level_logits.dtype == torch.float32
    features = model.get_image_features(inputs["pixel_values"])
    assert features.safety_features.shape == (1, 576, 4096) and 0.1 < features.safety_features.float().std() < 10
    generated = model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert generated.shape[1] > inputs["input_ids"].shape[1]


@pytest.mark.parametrize("trained", ["model.safety_", "model.language_model.layers"])
def test_one_training_step(model, inputs, trained):
    model.requires_grad_(False)
    parameters = [p.requires_grad_() for name, p in model.named_parameters() if name.startswith(trained)]
    labels = torch.where(inputs["input_ids"] == 9047, 9047, -100)
    model(
        **inputs, labels=labels, safety_levels=torch.tensor([3]), safety_categories=torch.tensor([1])
    ).loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in parameters)
    model.zero_grad()
