"""Which family a checkpoint belongs to."""

import json

import huggingface_hub
import pytest
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from safevlm_hf import SafeLlavaConfig, SafetyConfig
from safevlm_hf.checkpoints.families import BY_MODEL_TYPE, find_family


@pytest.mark.parametrize("model_type", BY_MODEL_TYPE)
def test_stock_and_safe_checkpoints_are_found(tmp_path, model_type):
    for name in (model_type, model_type.removeprefix("safe_")):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": name}))
        family = find_family(str(tmp_path))
        assert family is BY_MODEL_TYPE[model_type] and family.config.model_type == model_type


@pytest.mark.parametrize("model_type", BY_MODEL_TYPE)
def test_the_names_and_parts_of_a_family_follow_from_its_configuration(model_type):
    family = BY_MODEL_TYPE[model_type]
    config, base = family.config, family.model.safe_model_class
    assert {family.model.config_class, base.config_class, family.processor.config_class} == {config}
    names = [one.__name__.removeprefix(config.class_prefix) for one in (config, family.model, base, family.processor)]
    assert names == ["Config", "ForConditionalGeneration", "Model", "Processor"]
    assert config.sub_configs["safety_config"] is SafetyConfig and len(config.sub_configs) > 1
    for name in (model_type, base.__name__, family.model.__name__):
        stock = get_checkpoint_conversion_mapping(name.removeprefix("safe_").removeprefix("Safe"))
        assert (get_checkpoint_conversion_mapping(name) is None) == (stock is None)


def test_a_configuration_made_of_a_familys_keeps_its_names():
    class OwnConfig(SafeLlavaConfig):
        pass

    assert OwnConfig.class_prefix == "SafeLlava" and OwnConfig().safety_config.num_safety_tokens == 64


def test_a_folder_of_checkpoints_is_none(tmp_path):
    for name in ("stage1", "stage2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="no config.json with a `model_type`. Is it one of .*stage1, .*stage2"):
        find_family(str(tmp_path))


def test_what_is_neither_here_nor_on_the_hub_is_named(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="there is no folder nothere here, and the Hub cannot be reached"):
        find_family("nothere")


@pytest.mark.parametrize("model_type", ["mllama", "safe_mllama"])
def test_an_unknown_family_raises(tmp_path, model_type):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(ValueError, match=f"is a {model_type!r}") as error:
        find_family(str(tmp_path))
    supported = {name.removeprefix("safe_") for name in BY_MODEL_TYPE}
    listed = str(error.value).split("supports ")[1].split(". ")[0].split(", ")
    assert set(listed) == supported and "docs/new_backbone.md" in str(error.value)
