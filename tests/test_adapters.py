"""Adapters (peft): training, saving, loading, merging, swapping, and none that reaches the verdict unasked."""

import pytest
import torch
from packaging.version import Version
from safetensors.torch import load_file, save_file
from support.rigged import GREEDY, Texts, bright, conditions, dark, request, rig
from support.tiny_training import create_trainer
from transformers import AutoModel, set_seed
from transformers.integrations.peft import MIN_PEFT_VERSION

from safevlm_hf import SafeLlavaForConditionalGeneration, SafeLlavaModel
from safevlm_hf.modeling.safety_policy import ACTIONS
from safevlm_hf.training.arguments import LoraArguments
from safevlm_hf.training.stages import merge, prepare_stage2


pytestmark = pytest.mark.ci


peft = pytest.importorskip("peft", reason="peft is not installed")
needs_newer_peft = pytest.mark.skipif(
    Version(peft.__version__) < Version(MIN_PEFT_VERSION),
    reason=f"transformers' own methods want peft {MIN_PEFT_VERSION}",
)

LANGUAGE = r".*language_model.*\.(?:q_proj|v_proj|o_proj)"
PLAIN = {
    "all linear": {"target_modules": "all-linear"},
    "queries and values": {"target_modules": ["q_proj", "v_proj"]},
    "a pattern": {"target_modules": r".*\.(?:q_proj|out_proj|fc1|fc2|embed_tokens)|.*readout\.0"},
    "an exclusion of one's own": {
        "target_modules": ["q_proj", "o_proj"],
        "exclude_modules": ["layers.1.self_attn.o_proj"],
    },
    "parameters": {"target_modules": ["q_proj"], "target_parameters": ["safety_conditions.weight"]},
}


@pytest.fixture(autouse=True)
def one_thread(seed):
    torch.set_num_threads(1)


@pytest.fixture
def create(tiny_config):
    """A model as any other that it makes."""

    def created():
        set_seed(0)
        config = type(tiny_config)(**tiny_config.to_dict())
        config.text_config.initializer_range = 0.2
        config.safety_config.is_trained = True
        model = SafeLlavaForConditionalGeneration(config).eval()
        torch.nn.init.normal_(model.model.safety_head.level_head.weight, std=5.0)
        torch.nn.init.normal_(model.model.safety_head.category_head.weight, std=5.0)
        return model

    return created


def lora(**kwargs):
    return peft.LoraConfig(**{"r": 4, "target_modules": LANGUAGE, **kwargs})


def train_by_hand(model, scale=0.3):
    """Weights that an adapter might have learned."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(std=scale)
    return model


def adapter_names(model):
    return [name for name, _ in model.named_parameters() if "lora_" in name or "modules_to_save" in name]


def reaches_verdict(names):
    return [name for name in names if "safety_" in name or "vision_tower" in name or "embed_tokens" in name]


def verdict(model, image=None):
    return model.assess(**request(bright() if image is None else image)).safety_level_logits


def answer(model, image=None, **kwargs):
    return model.generate(**request(bright() if image is None else image), **GREEDY, **kwargs)


def saved(create, folder, **kwargs):
    peft.get_peft_model(create(), lora(**kwargs)).save_pretrained(folder)
    return folder


def trained(create, folder, seed=0, **kwargs):
    model = peft.get_peft_model(create(), lora(**kwargs))
    torch.manual_seed(seed)
    train_by_hand(model).save_pretrained(folder)
    return folder


# --------------------------------------------------------------------------------------------------
# What an adapter is for
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [None, "CAUSAL_LM"])
def test_wrapped_model_answers_under_the_verdict(tiny_config, task):
    rigged = rig(tiny_config)
    whole = {
        name: rigged.generate(**request(image), **GREEDY) for name, image in (("dark", dark()), ("bright", bright()))
    }
    model = train_by_hand(peft.get_peft_model(rigged, lora(task_type=task)).eval())
    output = {"return_dict_in_generate": True, **GREEDY}
    seen = {
        image: model.generate(**request(pixels), **output)
        for image, pixels in (("dark", dark()), ("bright", bright()))
    }
    assert conditions(rigged, seen["dark"]) == ["safe"] and conditions(rigged, seen["bright"]) == [
        "illegal risk, high"
    ]
    assert not torch.equal(seen["bright"].sequences, whole["bright"])  # the adapter is at work
    free = model.generate(**request(bright()), **output, safety_policy={"enabled": False})
    assert conditions(rigged, free) == ["safe"] and not torch.equal(free.sequences, seen["bright"].sequences)
    with model.disable_adapter():
        assert torch.equal(model.generate(**request(bright()), **GREEDY), whole["bright"])


def test_wrapped_model_refuses(tiny_config):
    model = train_by_hand(peft.get_peft_model(rig(tiny_config), lora(task_type="CAUSAL_LM")).eval())
    policy = {"actions": {"*": {"high": "refuse"}}, "refusals": {"*": "a bb ccc"}}
    output = {"return_dict_in_generate": True, **GREEDY}
    refused = model.generate(
        **request(bright()), **output, safety_policy=policy, tokenizer=Texts({"a bb ccc": [61, 62, 63]})
    )
    length = request(bright())["input_ids"].shape[1]
    assert refused.sequences[0, length : length + 4].tolist() == [61, 62, 63, 2]
    assert ACTIONS[refused.safety_action_ids[0]] == "refuse"


def test_adapter_is_trained_saved_loaded_and_merged(nano_model, nano_processor, riskcards, tmp_path):
    nano_model.config.safety_config.is_trained = True
    nano_model.save_pretrained(tmp_path / "base")

    def base():
        return SafeLlavaForConditionalGeneration.from_pretrained(tmp_path / "base").eval()

    before = {name: weight.clone() for name, weight in nano_model.state_dict().items()}
    model = prepare_stage2(base(), LoraArguments(lora_r=4, lora_alpha=64))
    trainer = create_trainer(model, nano_processor, riskcards, tmp_path / "run", learning_rate=1e-2)
    trainer.train()
    model = trainer.model.eval()
    model.save_pretrained(tmp_path / "adapter")
    request = nano_request(nano_processor)
    tokens = model.generate(**request, max_new_tokens=6, do_sample=False)

    assert not torch.equal(base().generate(**request, max_new_tokens=6, do_sample=False), tokens)
    loaded = base()
    loaded.load_adapter(str(tmp_path / "adapter"))
    ways = {
        "peft": peft.PeftModel.from_pretrained(base(), tmp_path / "adapter"),
        "transformers": loaded,
        "auto": AutoModel.from_pretrained(tmp_path / "adapter").eval(),
        "merged": merge(model),
    }
    merge(peft.PeftModel.from_pretrained(base(), tmp_path / "adapter")).save_pretrained(tmp_path / "merged")
    ways["merged, saved and loaded"] = SafeLlavaForConditionalGeneration.from_pretrained(tmp_path / "merged").eval()
    for name, way in ways.items():
        assert torch.equal(way.generate(**request, max_new_tokens=6, do_sample=False), tokens), name
    after = ways["merged, saved and loaded"].state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in reaches_verdict(before))


def nano_request(processor):
    pixels = torch.randn(1, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    text = "USER: " + "<image>" * (64 + 4 + 4) + "\nWhat is it? ASSISTANT:"
    return {**processor.tokenizer(text, return_tensors="pt"), "pixel_values": pixels}


@pytest.mark.parametrize("way", ["peft", pytest.param("transformers", marks=needs_newer_peft)])
def test_several_adapters_on_one_base(create, tmp_path, way):
    folders = {name: trained(create, tmp_path / name, seed) for seed, name in enumerate(("red", "blue"))}
    alone = {}
    for name, folder in folders.items():
        alone[name] = answer(peft.PeftModel.from_pretrained(create(), folder))
    plain = answer(create())
    assert len({tuple(tokens[0].tolist()) for tokens in (plain, *alone.values())}) == 3
    if way == "peft":
        model = peft.PeftModel.from_pretrained(create(), folders["red"], adapter_name="red")
        model.load_adapter(folders["blue"], adapter_name="blue")
    else:
        model = create()
        for name, folder in folders.items():
            model.load_adapter(str(folder), adapter_name=name)
    expected = verdict(create())
    for name in ("red", "blue", "red"):
        model.set_adapter(name)
        assert torch.equal(answer(model), alone[name]), name
        assert torch.equal(verdict(model), expected)
    if way == "peft":
        model.add_weighted_adapter(["red", "blue"], [0.7, 0.3], adapter_name="purple", combination_type="linear")
        model.set_adapter("purple")
        answer(model)
        assert torch.equal(verdict(model), expected)
        model.delete_adapter("purple")
        assert torch.equal(answer(model.unload()), plain)
    else:
        model.disable_adapters()
        assert torch.equal(answer(model), plain)


@pytest.mark.parametrize("way", ["peft", "transformers"])
def test_adapters_are_swapped_in_place(create, tmp_path, way):
    folders = {name: trained(create, tmp_path / name, seed) for seed, name in enumerate(("red", "blue"))}
    blue = answer(peft.PeftModel.from_pretrained(create(), folders["blue"]))
    if way == "peft":
        from peft.utils.hotswap import hotswap_adapter

        model = peft.PeftModel.from_pretrained(create(), folders["red"])
        answer(model)
        hotswap_adapter(model, folders["blue"], adapter_name="default")
    else:
        model = create()
        model.load_adapter(str(folders["red"]))
        answer(model)
        model.load_adapter(str(folders["blue"]), hotswap=True, adapter_name="default")
    assert torch.equal(answer(model), blue)
    assert torch.equal(verdict(model), verdict(create()))


# --------------------------------------------------------------------------------------------------
# What it may not reach
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["get_peft_model", pytest.param("add_adapter", marks=needs_newer_peft)])
@pytest.mark.parametrize("targets", PLAIN.values(), ids=PLAIN)
def test_plain_adapters_are_kept_off_the_verdict(create, tmp_path, caplog, targets, way):
    model, config = create(), lora(**targets)
    with caplog.at_level("WARNING"):
        if way == "add_adapter":
            model.add_adapter(config)
            wrapped = model
        else:
            wrapped = peft.get_peft_model(model, config)
    assert "was kept off model." in caplog.text and "let_adapters_change_verdict" in caplog.text
    assert adapter_names(wrapped) and not reaches_verdict(adapter_names(wrapped))
    expected, plain = verdict(create()), answer(create())
    train_by_hand(model)
    assert torch.equal(verdict(model), expected) and not torch.equal(answer(model), plain)

    tokens = answer(model)
    wrapped.save_pretrained(tmp_path)
    assert not reaches_verdict(load_file(tmp_path / "adapter_model.safetensors"))
    caplog.clear()
    loaded = peft.PeftModel.from_pretrained(create(), tmp_path)
    if "target_parameters" not in targets:
        assert "was kept off" not in caplog.text  # what was excluded is saved
    assert torch.equal(answer(loaded), tokens)


def test_base_model_alone_is_spared_too(create):
    base = create().model
    wrapped = peft.get_peft_model(base, lora(target_modules="all-linear"))
    assert adapter_names(wrapped) and not reaches_verdict(adapter_names(wrapped))
    assert type(base) is SafeLlavaModel and base.get_image_features(bright()).safety_level_logits is not None


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_a_start_that_changes_the_layers_below_is_refused(create, start):
    """They have changed by then, so nothing is judged any more; a start that changes the language model alone is none
    of the verdict's business."""
    model = create()
    with pytest.raises(ValueError, match=f"{start}.*load the model again"):
        peft.get_peft_model(model, lora(target_modules="all-linear", init_lora_weights=start))
    with pytest.raises(ValueError, match="load the model again"):
        verdict(model)
    spared = create()
    peft.get_peft_model(spared, lora(init_lora_weights=start))
    assert torch.equal(verdict(spared), verdict(create()))


@pytest.mark.parametrize("start", [True, "pissa"])
def test_an_output_layer_that_is_tied_to_the_words_is_kept_as_it_is(tiny_config, start):
    tiny_config.tie_word_embeddings = tiny_config.text_config.tie_word_embeddings = True
    model = SafeLlavaForConditionalGeneration(tiny_config).eval()
    kept = model.get_input_embeddings().weight.clone()
    config = lora(target_modules=["lm_head", "o_proj"], init_lora_weights=start)
    if start == "pissa":
        with pytest.raises(ValueError, match="load the model again"):
            peft.get_peft_model(model, config)
        return
    wrapped = peft.get_peft_model(model, config)
    assert not [name for name in adapter_names(wrapped) if "lm_head" in name]
    train_by_hand(model)
    assert torch.equal(wrapped.merge_and_unload().get_input_embeddings().weight, kept)


def test_biases_that_peft_would_train_are_kept_as_they_are(create):
    model = create()
    peft.get_peft_model(model, lora(bias="all"))
    assert not [name for name, weight in model._verdict_weights().items() if weight.requires_grad]
    assert any(weight.requires_grad for weight in model.parameters())


def test_own_exclusion_stays(create):
    wrapped = peft.get_peft_model(create(), lora(**PLAIN["an exclusion of one's own"]))
    assert not [name for name in adapter_names(wrapped) if "layers.1.self_attn.o_proj" in name]
    assert [name for name in adapter_names(wrapped) if "layers.0.self_attn.o_proj" in name]


def test_exclusion_by_name(create, caplog):
    model = create()
    peft.get_peft_model(model, lora(target_modules="all-linear", exclude_modules=model.verdict_modules))
    assert "kept off" not in caplog.text and not reaches_verdict(adapter_names(model))


def test_nothing_left_raises(create):
    with pytest.raises(ValueError, match="All modules that this adapter names.*safety_head.*let_adapters"):
        peft.get_peft_model(create(), lora(target_modules=r".*safety_head\.q_proj"))


def test_a_second_plain_adapter_is_not_judged_through(create):
    model = peft.get_peft_model(create(), lora())
    model.add_adapter("second", lora(target_modules="all-linear"))
    for use in (verdict, answer, lambda model: model(**request(bright()))):
        with pytest.raises(ValueError, match="exclude_modules=model.verdict_modules"):
            use(model)
    model.delete_adapter("second")


@pytest.mark.parametrize("name", ["safety_head", "safety_projector", "vision_tower", "embed_tokens"])
def test_modules_to_save_are_kept_off_too(create, caplog, name):
    model = peft.get_peft_model(create(), lora(modules_to_save=[name]))
    assert f"{name}: the safety verdict rests" in caplog.text
    assert adapter_names(model) and not reaches_verdict(adapter_names(model))
    assert torch.equal(verdict(model), verdict(create()))
    model.add_adapter("second", lora(modules_to_save=[name]))
    with pytest.raises(ValueError, match=f"Adapters lie on.*{name}"):
        answer(model)


def test_asked_for(create, tmp_path):
    model = create()
    model.let_adapters_change_verdict()
    wrapped = peft.get_peft_model(model, lora(target_modules="all-linear", modules_to_save=["safety_tokens"]))
    assert [name for name in adapter_names(wrapped) if "safety_head" in name]
    train_by_hand(wrapped, scale=1.0)
    changed = verdict(model)
    assert not torch.equal(changed, verdict(create()))
    wrapped.save_pretrained(tmp_path)
    loaded = create()
    loaded.let_adapters_change_verdict()
    assert torch.equal(verdict(peft.PeftModel.from_pretrained(loaded, tmp_path)), changed)
    loaded = create()
    loaded.let_adapters_change_verdict()
    loaded.load_adapter(str(tmp_path))
    assert torch.equal(verdict(loaded), changed)
    torch.testing.assert_close(verdict(wrapped.merge_and_unload()), changed, atol=1e-2, rtol=1e-3)


# --------------------------------------------------------------------------------------------------
# Hostile adapters
# --------------------------------------------------------------------------------------------------

HOSTILE = {
    "head": "model.safety_head.level_head.bias",
    "tower": "model.vision_tower.encoder.layers.0.mlp.fc1.weight",
    "conditions": "model.safety_conditions.weight",
    "embeddings": "model.language_model.embed_tokens.weight",
}


def load_with_peft(model, folder):
    return peft.PeftModel.from_pretrained(model, folder)


def load_second_with_peft(model, folder):
    peft.get_peft_model(model, lora(), adapter_name="first").load_adapter(folder, adapter_name="second")


def load_with_transformers(model, folder):
    model.load_adapter(str(folder))


def load_state_dict(model, folder):
    config = peft.PeftConfig.from_pretrained(folder)
    model.load_adapter(adapter_state_dict=load_file(folder / "adapter_model.safetensors"), peft_config=config)


LOADERS = [load_with_peft, load_second_with_peft, load_with_transformers, load_state_dict]


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_plain_weights_in_an_adapter_are_refused(create, tmp_path, name, loader):
    model = create()
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    folder = saved(create, tmp_path)
    weights = load_file(folder / "adapter_model.safetensors")
    given = {f"base_model.model.{name}": torch.full_like(kept[name], 7.0)}
    save_file({**weights, **given}, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=f"holds weights for {name}.*refused"):
        loader(model, folder)
    after = dict(model.named_parameters())
    for key in reaches_verdict(kept):
        assert torch.equal(after[key], kept[key]), key
    assert torch.equal(verdict(model), verdict(create()))


@pytest.mark.parametrize("loader", LOADERS)
def test_statistics_of_the_tower_are_refused_too(create, tmp_path, loader):
    """Buffers, as those of a batch norm."""

    def with_buffer():
        model = create()
        model.model.vision_tower.register_buffer("running_mean", torch.zeros(4))
        return model

    folder, model = saved(with_buffer, tmp_path), with_buffer()
    weights = load_file(folder / "adapter_model.safetensors")
    weights["base_model.model.model.vision_tower.running_mean"] = torch.ones(4)
    save_file(weights, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="holds weights for model.vision_tower.running_mean.*refused"):
        loader(model, folder)
    assert not model.model.vision_tower.running_mean.any()


@pytest.mark.parametrize("loader", LOADERS)
def test_tied_output_layer_is_no_way_round(tiny_config, tmp_path, loader):
    tiny_config.tie_word_embeddings = tiny_config.text_config.tie_word_embeddings = True
    model = SafeLlavaForConditionalGeneration(tiny_config).eval()
    kept = model.get_input_embeddings().weight.clone()
    folder = saved(lambda: SafeLlavaForConditionalGeneration(tiny_config), tmp_path)
    weights = load_file(folder / "adapter_model.safetensors")
    given = {"base_model.model.lm_head.weight": torch.full_like(kept, 7.0)}
    save_file({**weights, **given}, folder / "adapter_model.safetensors")
    try:
        loader(model, folder)
    except ValueError as error:
        assert "refused" in str(error)
    assert torch.equal(model.get_input_embeddings().weight, kept)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(
    "targets",
    [
        {"target_modules": r".*safety_head\.(\w+_(proj|head)|gate\.(up|down))|.*q_proj"},
        {"modules_to_save": ["safety_head"]},
    ],
)
def test_trained_layers_on_the_head_are_refused(create, tmp_path, targets, loader):
    attacker = create()
    attacker.let_adapters_change_verdict()
    wrapped = train_by_hand(peft.get_peft_model(attacker, lora(**targets)))
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "modules_to_save" in name:
                weight.fill_(7.0)
    wrapped.save_pretrained(tmp_path)
    model, was_refused = create(), False
    try:
        wrapped = loader(model, tmp_path) or model
        verdict(wrapped)
    except ValueError as error:
        was_refused = True
        assert "which the safety verdict rests on" in str(error)
    if not was_refused:  # taken out, with a warning
        assert torch.equal(verdict(model), verdict(create()))
        assert not reaches_verdict(adapter_names(model))


def test_checkpoint_cannot_ask(create, tmp_path):
    model = create()
    model.let_adapters_change_verdict()
    model.save_pretrained(tmp_path)
    loaded = SafeLlavaForConditionalGeneration.from_pretrained(tmp_path)
    assert not reaches_verdict(adapter_names(peft.get_peft_model(loaded, lora(target_modules="all-linear"))))
