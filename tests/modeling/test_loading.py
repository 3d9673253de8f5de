"""Loading and saving: no base weight changes, safety modules start soundly, auto classes give ours."""

import json
import re
from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaPreTrainedModel,
)
from transformers.utils import logging

from safevlm_hf import (
    SafeLlavaConfig,
    SafeLlavaForConditionalGeneration,
    SafeLlavaModel,
    SafeLlavaProcessor,
    SafetyPolicy,
)


SAFETY = {"num_safety_tokens": 4, "num_condition_tokens": 3, "projector_depth": 1}
MODULES = ["safety_conditions", "safety_head", "safety_projector", "safety_tokens"]
LOGGER = "safevlm_hf.modeling.safety_checkpoint"


@pytest.fixture(autouse=True)
def one_thread(seed):
    torch.set_num_threads(1)  # these models are too small to share


def stock_config(tiny_config, **values):
    kept = {key: value for key, value in tiny_config.to_dict().items() if key not in ("model_type", "safety_config")}
    return LlavaConfig(**{**kept, **values})


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def stock(tiny_config, request):
    config = stock_config(tiny_config, tie_word_embeddings=request.param)
    config.text_config.tie_word_embeddings = request.param
    return LlavaForConditionalGeneration(config).eval()


def random_image(seed=0, size=56):
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(seed))


def load(folder, **kwargs):
    return SafeLlavaForConditionalGeneration.from_pretrained(folder, safety_config=SAFETY, **kwargs).eval()


LAYOUTS = {
    "legacy": [("language_model.lm_head", "lm_head"), ("language_model.model", "model.language_model")]
    + [(name, f"model.{name}") for name in ("vision_tower", "multi_modal_projector")],
    "new": [],
}


def write_layout(folder, state_dict, layout):
    """Rewrite a folder's weights under the keys of a layout, each file with the tensors that it had."""
    for file in folder.glob("*.safetensors"):
        old = load_file(file)
        new = {}
        for name in old:
            name = current_key(name)
            key = name
            for legacy, current in LAYOUTS[layout]:
                if name.startswith(f"{current}."):
                    key = legacy + name.removeprefix(current)
            new[key] = state_dict[name].contiguous()
        save_file(new, file, metadata={"format": "pt"})
    index = folder / "model.safetensors.index.json"
    if index.exists():
        files = {key: file.name for file in folder.glob("*.safetensors") for key in load_file(file)}
        index.write_text(json.dumps({**json.loads(index.read_text()), "weight_map": files}))
    return sorted(key for file in folder.glob("*.safetensors") for key in load_file(file))


def current_key(name):
    for legacy, current in LAYOUTS["legacy"]:
        if name.startswith(f"{legacy}."):
            name = current + name.removeprefix(legacy)
            break
    return name.replace("vision_tower.vision_model.", "vision_tower.")


def assert_base_weights_equal(model, stock):
    ours, theirs = model.state_dict(), stock.state_dict()
    assert {name for name in ours if "safety" not in name} == set(theirs)
    for name, weight in theirs.items():
        assert ours[name].dtype == weight.dtype and torch.equal(ours[name], weight), name


@pytest.mark.parametrize("shards", ["one file", "sharded"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_stock_checkpoint_keeps_every_base_weight(stock, tmp_path, layout, shards):
    stock.save_pretrained(tmp_path, max_shard_size="60KB" if shards == "sharded" else "1GB")
    keys = write_layout(tmp_path, stock.state_dict(), layout)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1 or shards == "one file"
    first = {"legacy": "language_model.", "new": "model.language_model."}[layout]
    assert any(key.startswith(first) for key in keys)
    assert_base_weights_equal(load(tmp_path), stock)


def add_weights(folder, *keys):
    """Weights of one number under further keys."""
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {key: torch.zeros(1) for key in keys}, folder / "model.safetensors", metadata={"format": "pt"})


def drop_weights(folder, part):
    """Without the weights that have `part` in their names."""
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if part not in name}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("number", [1, 10, 12])
def test_stock_checkpoint_with_weights_that_would_be_lost_raises(tiny_config, tmp_path, number):
    LlavaForConditionalGeneration(stock_config(tiny_config)).save_pretrained(tmp_path)
    names = [f"model.vision_tower.head.{place:02}.weight" for place in range(number)]
    add_weights(tmp_path, *names)
    with pytest.raises(ValueError, match="SafeLlavaForConditionalGeneration has no place for.*stock class") as error:
        load(tmp_path)
    named = [name for name in names if name in str(error.value)]
    assert named == names[:10] and ("and 2 more" in str(error.value)) == (number == 12)


def test_what_to_do_about_weights_that_would_be_lost(tiny_config, tmp_path):
    stock = LlavaForConditionalGeneration(stock_config(tiny_config))
    stock.save_pretrained(tmp_path)
    add_weights(tmp_path, "model.vision_tower.head.weight")
    LlavaForConditionalGeneration.from_pretrained(tmp_path).save_pretrained(tmp_path / "clean")
    assert_base_weights_equal(load(tmp_path / "clean"), stock)


def test_weights_that_the_stock_class_ignores_are_left_out(tiny_config, tmp_path, monkeypatch):
    stock = LlavaForConditionalGeneration(stock_config(tiny_config))
    stock.save_pretrained(tmp_path)
    add_weights(tmp_path, "mtp.fc.weight")
    monkeypatch.setattr(LlavaPreTrainedModel, "_keys_to_ignore_on_load_unexpected", [r"^mtp.*"])
    assert_base_weights_equal(load(tmp_path), stock)


def test_safe_checkpoint_with_more_weights_loads(tiny_model, tmp_path):
    """One that was saved before need not hold what is looked for in a stock one."""
    tiny_model.save_pretrained(tmp_path)
    add_weights(tmp_path, "model.vision_tower.head.weight")
    loaded = SafeLlavaForConditionalGeneration.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(weight, loaded[name]) for name, weight in tiny_model.state_dict().items())


def test_as_saved_by_the_library(stock, tmp_path):
    stock.to(torch.bfloat16).save_pretrained(tmp_path)
    model = load(tmp_path, dtype=torch.bfloat16)
    assert_base_weights_equal(model, stock)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == stock.config.tie_word_embeddings


def test_base_model_alone_loads(stock, tmp_path):
    """Engines build the base model; the safety modules are part of it."""
    stock.save_pretrained(tmp_path / "stock")
    base = SafeLlavaModel.from_pretrained(tmp_path / "stock", safety_config=SAFETY)
    for name, weight in stock.model.state_dict().items():
        assert torch.equal(base.state_dict()[name], weight), name
    model = load(tmp_path / "stock")
    model.save_pretrained(tmp_path / "ours")
    base = SafeLlavaModel.from_pretrained(tmp_path / "ours")
    for name, weight in model.model.state_dict().items():
        assert torch.equal(base.state_dict()[name], weight), name


def test_text_alone_runs_as_the_stock_model(stock, tmp_path):
    stock.save_pretrained(tmp_path)
    ids = torch.tensor([[1, 20, 21, 22]])
    assert torch.equal(load(tmp_path)(input_ids=ids).logits, stock(input_ids=ids).logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("depth", [1, 3])
def test_safety_modules_start_soundly(tiny_config, tmp_path, dtype, depth):
    LlavaForConditionalGeneration(stock_config(tiny_config)).save_pretrained(tmp_path)
    safety = {**SAFETY, "projector_depth": depth}
    for _ in range(3):  # uninitialised memory is good by chance
        model = SafeLlavaForConditionalGeneration.from_pretrained(tmp_path, safety_config=safety, dtype=dtype)
        for name, weight in model.named_parameters():
            assert torch.isfinite(weight).all(), name
            if "safety" in name and not re.search(r"bias|(bn|norm)\.weight", name):
                assert 0 < weight.std() < 2, name
        with torch.no_grad():
            features = model.model.get_image_features(random_image().to(dtype)).safety_features.float()
            other = model.model.get_image_features(random_image(1).to(dtype)).safety_features.float()
        assert 0.1 < features.std() < 10 and torch.isfinite(features).all()
        assert features[0].std(dim=0).mean() > 0.01 and features[0].std(dim=1).mean() > 0.01
        assert not torch.allclose(features, other, atol=1e-2)
        tokens = model.model.safety_tokens
        assert not torch.equal(tokens.head, tokens.block)


def test_safety_modules_start_soundly_without_a_checkpoint(tiny_model):
    features = tiny_model.model.get_image_features(random_image()).safety_features
    assert 0.1 < features.std() < 10


def test_safety_modules_start_soundly_on_the_nano_base(nano_model):
    features = nano_model.model.get_image_features(random_image(size=112)).safety_features
    assert 0.1 < features.std() < 10


def test_loads_of_one_seed_are_alike(tiny_config, tmp_path):
    LlavaForConditionalGeneration(stock_config(tiny_config)).save_pretrained(tmp_path)
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(load(tmp_path).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


# --------------------------------------------------------------------------------------------------
# What loading says
# --------------------------------------------------------------------------------------------------


def named_modules(text):
    return re.findall(r"model\.(\w+)", text.split("Newly initialised:")[1].split(". The")[0])


def test_warning_names_exactly_the_new_modules(stock, tmp_path, caplog):
    stock.save_pretrained(tmp_path)
    with caplog.at_level("WARNING", LOGGER):
        load(tmp_path)
    (message,) = (record.message for record in caplog.records if record.name == LOGGER)
    assert named_modules(message) == MODULES
    assert "mean nothing until stage 1 has trained them" in message


def test_a_stock_base_is_one_line(stock, tmp_path, caplog):
    stock.save_pretrained(tmp_path)
    with caplog.at_level("WARNING"):
        load(tmp_path)
    (record,) = caplog.records
    assert record.name == LOGGER and "\n" not in record.message


def test_anything_else_is_reported_by_the_library_as_ever(tiny_config, tiny_model, tmp_path, caplog):
    """Weights that are lost, a part of the safety modules alone, and a base without some of its own."""
    stock = LlavaForConditionalGeneration(stock_config(tiny_config))
    stock.save_pretrained(tmp_path / "more")
    add_weights(tmp_path / "more", "model.vision_tower.head.weight")
    tiny_model.save_pretrained(tmp_path / "part")
    drop_weights(tmp_path / "part", "safety_conditions")
    stock.save_pretrained(tmp_path / "less")
    drop_weights(tmp_path / "less", "multi_modal_projector.linear_2")
    for name, key in (("more", "head.weight"), ("part", "safety_conditions"), ("less", "multi_modal_projector")):
        caplog.clear()
        with caplog.at_level("WARNING"), pytest.raises(ValueError) if name != "part" else nullcontext():
            SafeLlavaForConditionalGeneration.from_pretrained(
                tmp_path / name, **({} if name == "part" else {"safety_config": SAFETY})
            )
        (report,) = [record.getMessage() for record in caplog.records if "LOAD REPORT" in record.getMessage()]
        assert key in report


def test_warning_names_a_part_that_is_missing(tiny_model, tmp_path, caplog):
    tiny_model.save_pretrained(tmp_path)
    drop_weights(tmp_path, "safety_conditions")
    with caplog.at_level("WARNING", LOGGER):
        SafeLlavaForConditionalGeneration.from_pretrained(tmp_path)
    (message,) = (record.message for record in caplog.records if record.name == LOGGER)
    assert named_modules(message) == ["safety_conditions"]


def test_own_checkpoint_loads_silently(tiny_model, tmp_path, caplog):
    tiny_model.save_pretrained(tmp_path)
    with caplog.at_level("WARNING"):
        _, info = SafeLlavaForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert "Newly initialised" not in caplog.text
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]


def test_head_of_another_size_raises(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="size|mismatch"):
        SafeLlavaForConditionalGeneration.from_pretrained(
            tmp_path, safety_config={**SAFETY, "categories": ["spam", "safe", "fraud"]}
        )


# --------------------------------------------------------------------------------------------------
# Our own checkpoints
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shards", ["one file", "sharded"])
def test_own_checkpoint_reloads_bit_for_bit(stock, tmp_path, dtype, shards):
    stock.save_pretrained(tmp_path / "stock")
    model = load(tmp_path / "stock", dtype=dtype)
    model.save_pretrained(tmp_path / "ours", max_shard_size="60KB" if shards == "sharded" else "1GB")
    assert (tmp_path / "ours" / "model.safetensors.index.json").exists() == (shards == "sharded")
    loaded = SafeLlavaForConditionalGeneration.from_pretrained(tmp_path / "ours", dtype="auto").eval()
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        assert theirs[name].dtype == dtype and torch.equal(weight, theirs[name]), name
    inputs = {"input_ids": torch.tensor([[1] + [150] * 23 + [5]]), "pixel_values": random_image().to(dtype)}
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, loaded(**inputs).logits)


@pytest.mark.parametrize("form", ["dict", "policy"])
def test_verdict_and_policy_survive_saving(tiny_model, tmp_path, form):
    policy = SafetyPolicy(categories={"privacy": False})
    tiny_model.generation_config.safety_policy = policy.to_dict() if form == "dict" else policy
    tiny_model.config.safety_config.is_trained = True
    tiny_model.save_pretrained(tmp_path)
    loaded = SafeLlavaForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert loaded.config.safety_config.is_trained
    assert loaded.generation_config.safety_policy == {"categories": {"privacy": False}}
    inputs = {"input_ids": torch.tensor([[1] + [150] * 23 + [5]]), "pixel_values": random_image()}
    torch.testing.assert_close(dict(loaded.assess(**inputs)), dict(tiny_model.assess(**inputs)))


def edit_generation_config(folder, **values):
    file = folder / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_a_policy_written_into_the_file_is_in_force(tiny_model, tmp_path):
    """Of a file that it derived from a config the library drops all keys but its own."""
    tiny_model.save_pretrained(tmp_path)
    edit_generation_config(tmp_path, _from_model_config=True, safety_policy={"risk_threshold": 0.25})
    assert load(tmp_path).policy_in_force(None) == SafetyPolicy(risk_threshold=0.25)
    edit_generation_config(tmp_path, safety_policy={"categories": {"weather": False}})
    with pytest.raises(ValueError, match=f"the policy of {re.escape(str(tmp_path))}: .*weather"):
        load(tmp_path)


@pytest.mark.parametrize(
    "policy, said",
    [
        ({"risk_threshold": 1.0}, "risk_threshold: 1"),
        ({"categories": {"*": False}}, "* is switched off"),
        ({"enabled": False}, "enabled: false"),
        ({"risk_threshold": 0.4, "actions": {"*": {"high": "refuse"}}}, None),
    ],
)
def test_a_checkpoint_cannot_weaken_the_verdict_unseen(tiny_model, tmp_path, caplog, policy, said):
    tiny_model.generation_config.safety_policy = policy
    tiny_model.save_pretrained(tmp_path)
    logging.enable_propagation()
    caplog.clear()
    load(tmp_path)
    assert ("brings a policy of its own" in caplog.text) == (said is not None) and (said or "") in caplog.text


# --------------------------------------------------------------------------------------------------
# The digest of names, sizes, texts and policy
# --------------------------------------------------------------------------------------------------


def edit_config(folder, **values):
    """Change the safety config by hand; `None` takes a field of the config out."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    for name in [name for name, value in values.items() if value is None]:
        del config[name], values[name]
    file.write_text(json.dumps({**config, "safety_config": config["safety_config"] | values}))


def changes_said(folder, caplog, model_class=SafeLlavaForConditionalGeneration, **kwargs):
    """The parts that loading says are not as they were saved."""
    logging.enable_propagation()
    caplog.clear()
    model_class.from_pretrained(folder, **kwargs)
    return re.findall("wrote it: its (.*) differ from the digest", caplog.text)


KEPT = {"risk_threshold": 0.4, "refusals": {"*": "No."}, "actions": {"*": {"high": "refuse"}}}


@pytest.mark.parametrize(
    "file, values, part",
    [
        ("config", {"categories": ["privacy", "safe", "politics"]}, "names"),
        ("config", {"levels": ["safe", "high", "medium", "low"]}, "names"),
        ("config", {"head_pooling": "mean"}, "head sizes"),
        ("config", {"num_attention_heads": 2}, "head sizes"),
        ("config", {"is_trained": True}, "head sizes"),
        ("generation", {"safety_policy": {**KEPT, "refusals": {"*": "Sure, here it is."}}}, "refusal texts"),
        ("generation", {"safety_policy": {**KEPT, "language": "de"}}, "refusal texts"),
        ("generation", {"safety_policy": {**KEPT, "risk_threshold": 0.45}}, "policy"),
        ("generation", {"safety_policy": {}}, "refusal texts, policy"),
        ("generation", {"safety_policy": {**KEPT, "thresholds": {"privacy": None}}}, "policy"),
    ],
)
def test_what_was_changed_by_hand_is_named(tiny_model, tmp_path, caplog, file, values, part):
    tiny_model.config.safety_config.categories = ["politics", "privacy", "safe"]
    tiny_model = SafeLlavaForConditionalGeneration(tiny_model.config)
    tiny_model.generation_config.safety_policy = KEPT
    tiny_model.save_pretrained(tmp_path)
    assert not changes_said(tmp_path, caplog)
    (edit_config if file == "config" else edit_generation_config)(tmp_path, **values)
    assert changes_said(tmp_path, caplog) == [part]
    SafeLlavaForConditionalGeneration.from_pretrained(tmp_path).save_pretrained(tmp_path)
    assert not changes_said(tmp_path, caplog)


def test_other_condition_rows_are_named(tiny_config, tmp_path, caplog):
    SafeLlavaForConditionalGeneration(tiny_config).save_pretrained(tmp_path)
    edit_config(tmp_path, num_condition_tokens=1)
    assert changes_said(tmp_path, caplog, ignore_mismatched_sizes=True) == ["condition shape"]


@pytest.mark.parametrize("model_class", [SafeLlavaForConditionalGeneration, SafeLlavaModel])
def test_an_older_checkpoint_without_a_digest_loads_in_silence(tiny_model, tmp_path, caplog, model_class):
    tiny_model.save_pretrained(tmp_path)
    edit_config(tmp_path, safety_digest=None)
    edit_generation_config(tmp_path, safety_policy={"risk_threshold": 0.4})
    assert not changes_said(tmp_path, caplog, model_class)


def test_the_digest_follows_what_is_saved(tiny_model, tmp_path, caplog):
    """Another precision, more categories, an operator's policy, the config alone, several files."""
    tiny_model.save_pretrained(tmp_path)
    assert not changes_said(tmp_path, caplog, SafeLlavaModel)
    tiny_model.extend_categories(["gambling"])
    tiny_model.generation_config.safety_policy = {"thresholds": {"gambling": 1}, "actions": {}}
    folder = tmp_path / "other"
    tiny_model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="60KB")
    assert not changes_said(folder, caplog, dtype=torch.float32)
    config = SafeLlavaConfig.from_pretrained(folder)
    config.safety_policy["remembered_turns"] = 2
    config.save_pretrained(folder)
    edit_generation_config(folder, safety_policy=config.safety_policy)
    assert not changes_said(folder, caplog)


def save_the_model(folder):
    SafeLlavaForConditionalGeneration.from_pretrained(folder).save_pretrained(folder)


def save_the_config(folder):
    SafeLlavaConfig.from_pretrained(folder).save_pretrained(folder)


@pytest.mark.parametrize("save", [save_the_model, save_the_config])
@pytest.mark.parametrize("before", [None, {"risk_threshold": 0.45, "language": "de"}])
def test_a_policy_that_was_saved_alone_is_named_until_model_or_config_is_saved(
    tiny_model, tmp_path, caplog, before, save
):
    tiny_model.generation_config.safety_policy = before
    tiny_model.save_pretrained(tmp_path)
    tiny_model.generation_config.safety_policy = {"risk_threshold": 0.4}
    tiny_model.generation_config.save_pretrained(tmp_path)
    assert "policy" in changes_said(tmp_path, caplog)[0]
    assert "save the model or its config to the same folder" in caplog.text
    save(tmp_path)
    assert not changes_said(tmp_path, caplog)
    edit_generation_config(tmp_path, safety_policy={"risk_threshold": 0.5})
    assert changes_said(tmp_path, caplog) == ["policy"]


def test_the_config_of_the_same_model_ends_the_warning(tiny_model, tmp_path, caplog):
    tiny_model.generation_config.safety_policy = {"risk_threshold": 0.45}
    tiny_model.save_pretrained(tmp_path)
    tiny_model.generation_config.safety_policy = {"risk_threshold": 0.4}
    tiny_model.generation_config.save_pretrained(tmp_path)
    tiny_model.config.save_pretrained(tmp_path)
    assert not changes_said(tmp_path, caplog)


def test_the_config_of_an_older_checkpoint_may_be_saved_anew(tiny_model, tmp_path, caplog):
    tiny_model.save_pretrained(tmp_path)
    edit_config(tmp_path, safety_digest=None)
    edit_generation_config(tmp_path, safety_policy={"risk_threshold": 0.4})
    save_the_config(tmp_path)
    assert not changes_said(tmp_path, caplog)
    edit_generation_config(tmp_path, safety_policy={"risk_threshold": 0.5})
    assert changes_said(tmp_path, caplog) == ["policy"]


def test_a_policy_that_was_saved_over_is_a_change(tiny_model, tmp_path, caplog):
    """The digest of the second save is of its own policy alone."""
    for threshold in (0.4, 0.45):
        tiny_model.generation_config.safety_policy = {"risk_threshold": threshold}
        tiny_model.save_pretrained(tmp_path)
        assert not changes_said(tmp_path, caplog)
    edit_generation_config(tmp_path, safety_policy={"risk_threshold": 0.4})
    assert changes_said(tmp_path, caplog) == ["policy"]


@pytest.mark.parametrize("content", ["{", "[]", '{"safety_policy": 7}', '{"safety_policy": {}, "safety_policy": {}}'])
def test_a_broken_generation_config_does_not_keep_the_config_from_being_saved(tiny_config, tmp_path, content):
    (tmp_path / "generation_config.json").write_text(content)
    tiny_config.save_pretrained(tmp_path)
    assert SafeLlavaConfig.from_pretrained(tmp_path).safety_digest


@pytest.mark.parametrize("model_class", [SafeLlavaForConditionalGeneration, AutoModelForImageTextToText])
@pytest.mark.parametrize("name", ["safety_policy", "safety_config"])
def test_a_key_of_the_config_that_comes_twice_raises(tiny_model, tmp_path, model_class, name):
    tiny_model.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    text = file.read_text().rstrip().removesuffix("}")
    file.write_text(f'{text}, "{name}": {{}}, "{name}": {{"risk_threshold": 1.0}}}}')
    with pytest.raises(ValueError, match=f"config.json: the key '{name}' comes twice"):
        model_class.from_pretrained(tmp_path)


def test_a_new_start_has_no_old_digest(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    config = SafeLlavaConfig.from_pretrained(tmp_path)
    assert config.safety_digest and SafeLlavaConfig.from_base_config(config).safety_digest is None


def test_saved_keys_are_those_of_the_modules(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    new = {key.removeprefix("model.").split(".")[0] for key in saved if "safety" in key}
    assert new == set(MODULES)


def test_auto_classes(nano_model, nano_processor, tmp_path):
    nano_model.save_pretrained(tmp_path)
    nano_processor.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is SafeLlavaConfig
    assert type(AutoProcessor.from_pretrained(tmp_path)) is SafeLlavaProcessor
    for auto in (AutoModel, AutoModelForImageTextToText):
        assert type(auto.from_pretrained(tmp_path)) is SafeLlavaForConditionalGeneration


# --------------------------------------------------------------------------------------------------
# Other towers and language models
# --------------------------------------------------------------------------------------------------

SIGLIP = {
    "vision_feature_select_strategy": "full",
    "vision_config": {
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 56,
        "patch_size": 14,
    },
}
QWEN = {
    "text_config": {
        "model_type": "qwen2",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 160,
        "pad_token_id": 0,
    },
}
CLIP_FULL = {"vision_feature_select_strategy": "full"}
TWO_LAYERS = {"vision_feature_layer": [-2, -1]}
BACKBONES = {
    "siglip": (SIGLIP, 16),
    "grouped queries": (QWEN, 16),
    "both": ({**SIGLIP, **QWEN}, 16),
    "clip with its class token": (CLIP_FULL, 17),
    "two feature layers": (TWO_LAYERS, 16),
}


@pytest.mark.parametrize("values, patches", BACKBONES.values(), ids=BACKBONES)
def test_other_backbones_end_to_end(tiny_config, tmp_path, values, patches):
    stock = LlavaForConditionalGeneration(stock_config(tiny_config, **values))
    stock.save_pretrained(tmp_path / "stock")
    model = load(tmp_path / "stock")
    assert_base_weights_equal(model, stock)
    assert 0.1 < model.model.get_image_features(random_image()).safety_features.std() < 10

    ids = torch.tensor([[1, *[150] * (4 + patches + 3), 5, 6]])
    inputs = {"input_ids": ids, "pixel_values": random_image()}
    levels, categories = torch.tensor([3]), torch.tensor([1])
    model(**inputs, labels=ids, safety_levels=levels, safety_categories=categories).loss.backward()
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters() if weight.grad is not None)

    with torch.no_grad():
        model.model.safety_head.level_head.bias[3] = model.model.safety_head.category_head.bias[1] = 99.0
        model.model.safety_conditions.weight.normal_()
    outputs = model.generate(**inputs, max_new_tokens=2, do_sample=False, return_dict_in_generate=True)
    assert outputs.safety_condition_ids.tolist() == [6]
    model.save_pretrained(tmp_path / "ours")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "ours").eval()
    assert torch.equal(loaded.generate(**inputs, max_new_tokens=2, do_sample=False), outputs.sequences)
