"""Configuration: what is inconsistent raises at construction, with the value and the rule."""

import json

import pytest
from transformers import AutoConfig, CLIPVisionConfig, LlamaConfig, LlavaConfig

from safevlm_hf import SafeLlavaConfig, SafeLlavaForConditionalGeneration, SafetyConfig
from safevlm_hf.modeling.safe_smolvlm import SafeSmolVLMConfig


@pytest.mark.parametrize(
    "field, value, rule",
    [
        ("num_safety_tokens", -3, "at least 0"),
        ("num_condition_tokens", -1, "at least 0"),
        ("projector_depth", -1, "at least 0"),
        ("projector_mlp_depth", 0, "at least 1"),
        ("projector_hidden_size", 0, "at least 1"),
        ("projector_grid_size", 0, "at least 1"),
        ("num_attention_heads", 0, "at least 1"),
        ("loss_weight", -0.5, "at least 0"),
        ("loss_weight", float("nan"), "finite"),
        ("loss_weight", float("inf"), "finite"),
        ("safe_margin", float("nan"), "finite"),
        ("categories", ["privacy"], "at least two"),
        ("categories", ["privacy", "privacy", "safe"], "different"),
        ("categories", ["privacy", " ", "safe"], "non-empty"),
        ("categories", ["privacy", "politics"], "must contain 'safe'"),
        ("levels", ["safe"], "at least two"),
        ("levels", ["low", "safe"], "begin with 'safe'"),
        ("categories", ["*", "safe"], "'*'"),
    ],
)
def test_inconsistent_values_raise_with_value_and_rule(field, value, rule):
    with pytest.raises(ValueError) as error:
        SafetyConfig(**{field: value})
    assert field in str(error.value) and rule in str(error.value)
    assert str(value[0] if isinstance(value, list) else value) in str(error.value)


def test_names_must_be_printable():
    with pytest.raises(ValueError, match="printable.*two"):
        SafetyConfig(categories=["two\nlines", "safe"])


@pytest.mark.parametrize(
    "field, value",
    [("head_pooling", "last"), ("num_safety_tokens", "many"), ("categories", "safe"), ("levels", [0, 1])],
)
def test_values_of_another_type_raise(field, value):
    with pytest.raises(Exception, match=field):
        SafetyConfig(**{field: value})


def test_heads_must_divide_the_hidden_size(tiny_config):
    values = tiny_config.to_dict()
    values["safety_config"]["num_attention_heads"] = 7
    with pytest.raises(ValueError, match="num_attention_heads=7 and hidden_size=64"):
        SafeLlavaConfig(**values)


def test_heads_are_checked_when_the_model_is_built(tiny_config):
    tiny_config.safety_config.num_attention_heads = 7
    with pytest.raises(ValueError, match="num_attention_heads=7"):
        SafeLlavaForConditionalGeneration(tiny_config)


def test_defaults_are_the_papers_and_say_nothing(caplog, capsys):
    config = SafeLlavaConfig()
    assert not caplog.text and capsys.readouterr() == ("", "")
    safety = config.safety_config
    assert (len(safety.categories), len(safety.levels), safety.num_safety_tokens, safety.loss_weight) == (7, 4, 64, 10)
    assert safety.safe_category == 6 and safety.num_conditions == 19
    assert config.safety_projector_hidden_size == 1088 and config.safety_grid_size == 24


def test_default_lists_are_not_shared():
    first = SafetyConfig()
    first.categories.append("more")
    assert "more" not in SafetyConfig().categories


def comparable(config):
    return {key: value for key, value in config.to_dict().items() if key not in ("_name_or_path", "model_type")}


def test_round_trip(tiny_config, tmp_path):
    tiny_config.safety_config.categories = ["spam", "safe", "fraud"]
    tiny_config.safety_config.head_pooling = "first"
    tiny_config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model_type"] == "safe_llava" and saved["safety_config"]["categories"] == ["spam", "safe", "fraud"]
    for loaded in (SafeLlavaConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is SafeLlavaConfig and type(loaded.safety_config) is SafetyConfig
        assert comparable(loaded) == comparable(tiny_config)
    assert SafetyConfig.from_pretrained(tmp_path).categories == ["spam", "safe", "fraud"]


def test_from_base_config(tmp_path):
    stock = LlavaConfig(
        vision_config=CLIPVisionConfig(hidden_size=32, num_attention_heads=4, image_size=56, patch_size=14),
        text_config=LlamaConfig(hidden_size=48, vocab_size=99, num_attention_heads=4),
        image_token_index=7,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    before = comparable(stock)
    config = SafeLlavaConfig.from_base_config(stock, num_safety_tokens=8, num_attention_heads=4)
    assert comparable(stock) == before
    assert config.safety_config.num_safety_tokens == 8
    assert config.safety_grid_size == 4 and config.safety_projector_hidden_size == 32 + 8
    assert {key: comparable(config).get(key) for key in before} == before
    stock.save_pretrained(tmp_path)
    safety = {"num_safety_tokens": 8, "num_attention_heads": 4}
    loaded = SafeLlavaConfig.from_pretrained(tmp_path, safety_config=safety)
    assert loaded.text_config.vocab_size == 99 and loaded.safety_config.num_safety_tokens == 8


def test_from_base_config_checks():
    with pytest.raises(ValueError, match="num_attention_heads=5"):
        SafeLlavaConfig.from_base_config(LlavaConfig(), num_attention_heads=5)


def test_projector_sizes_can_be_set(tiny_config):
    values = tiny_config.to_dict()
    values["safety_config"] |= {"projector_hidden_size": 24, "projector_grid_size": 2}
    config = SafeLlavaConfig(**values)
    assert (config.safety_projector_hidden_size, config.safety_grid_size) == (24, 2)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_gate_that_misses_every_token_is_refused(share):
    with pytest.raises(ValueError, match="head_gate_dropout"):
        SafetyConfig(head_gate_dropout=share)


def test_families_with_short_images_add_fewer_positions():
    from transformers import SmolVLMConfig

    from safevlm_hf import SafeSmolVLMConfig, SafeSmolVLMProcessor

    for config in (SafeSmolVLMConfig(), SafeSmolVLMConfig.from_base_config(SmolVLMConfig(), levels=["safe", "bad"])):
        assert (config.safety_config.num_safety_tokens, config.safety_config.num_condition_tokens) == (16, 8)
    processor = object.__new__(SafeSmolVLMProcessor)
    processor.set_safety(None, None, None, 3)
    assert (processor.num_safety_tokens, processor.num_condition_tokens) == (16, 3)


def test_what_is_not_said_is_the_familys_default():
    config = SafeSmolVLMConfig(safety_config={"head_gate_size": 64}).safety_config
    expected = SafeSmolVLMConfig().safety_config
    assert config.head_gate_size == 64
    assert (config.num_safety_tokens, config.num_condition_tokens) == (
        expected.num_safety_tokens,
        expected.num_condition_tokens,
    )
    assert expected.num_safety_tokens < SafetyConfig().num_safety_tokens
