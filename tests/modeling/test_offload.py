"""Weights on several devices: CPU and disk offload by accelerate leave verdict and answer as they were."""

import pytest
import torch
from accelerate import infer_auto_device_map

from safevlm_hf import SafeLlavaForConditionalGeneration
from safevlm_hf.asking import encode_prompts


pytestmark = pytest.mark.ci  # moves weights to the disk and back

SAFETY = ("safety_projector", "safety_tokens", "safety_head", "safety_conditions")
WHOLE = {"CLIPEncoderLayer", "LlamaDecoderLayer", "SafetyHead", "SafetyProjector"}


@pytest.fixture
def inputs(nano_processor, riskcards):
    return encode_prompts(nano_processor, list(riskcards)[:3])


@pytest.fixture
def checkpoint(nano_model, tmp_path):
    nano_model.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def results(model, inputs) -> dict:
    generated = model.generate(
        **inputs, max_new_tokens=6, min_new_tokens=6, do_sample=False, return_dict_in_generate=True
    )
    assessed, explained = model.assess(**inputs), model.explain(**inputs)
    with torch.no_grad():
        logits = model(**inputs).logits
    return {
        "tokens": generated.sequences,
        "generate": generated.safety_level_logits,
        "assess": assessed.safety_category_logits,
        "explain": explained.map,
        "logits": logits,
    }


def on_disk(*names: str) -> dict[str, str]:
    """A map with these parts of the base model on disk and the rest in memory."""
    parts = ("vision_tower", "multi_modal_projector", "language_model", *SAFETY)
    places = {f"model.{part}": "disk" if part in names else "cpu" for part in parts}
    return {**places, "lm_head": places["model.language_model"]}  # tied to the embeddings, so it lies where they do


MAPS = {
    "safety modules on disk": on_disk(*SAFETY),
    "language model on disk": on_disk("language_model"),
    "vision tower on disk": on_disk("vision_tower", "multi_modal_projector"),
    "all on disk": {"": "disk"},
}


@pytest.mark.parametrize("name", MAPS)
def test_offloaded_weights_answer_alike(name, nano_model, checkpoint, inputs, tmp_path):
    wanted = results(nano_model, inputs)
    model = SafeLlavaForConditionalGeneration.from_pretrained(
        checkpoint, device_map=MAPS[name], offload_folder=tmp_path / "offload"
    ).eval()
    assert any(parameter.device.type == "meta" for parameter in model.parameters())
    for key, value in results(model, inputs).items():
        assert torch.allclose(value.float(), wanted[key].float(), rtol=0, atol=1e-5), key


def test_automatic_map_within_a_limit(nano_model, checkpoint, inputs, tmp_path):
    size = sum(parameter.numel() * parameter.element_size() for parameter in nano_model.parameters())
    wanted = results(nano_model, inputs)
    model = SafeLlavaForConditionalGeneration.from_pretrained(
        checkpoint, device_map="auto", max_memory={"cpu": int(0.6 * size)}, offload_folder=tmp_path / "offload"
    ).eval()
    assert {"cpu", "disk"} == {str(device) for device in model.hf_device_map.values()}
    for key, value in results(model, inputs).items():
        assert torch.allclose(value.float(), wanted[key].float(), rtol=0, atol=1e-5), key


def test_modules_that_stay_whole(nano_model):
    for model in (nano_model, nano_model.model):
        assert WHOLE <= set(model._no_split_modules)
        classes = {type(module).__name__ for module in model.modules()}
        assert set(model._no_split_modules) <= classes
    size = sum(parameter.numel() * parameter.element_size() for parameter in nano_model.parameters())
    for share in (0.2, 0.4, 0.6, 0.8):
        device_map = infer_auto_device_map(
            nano_model,
            max_memory={0: int(share * size), "cpu": 2 * size},
            no_split_module_classes=list(nano_model._no_split_modules),
        )
        for name in ("model.safety_projector", "model.safety_head"):
            assert not [key for key in device_map if key.startswith(f"{name}.")]
