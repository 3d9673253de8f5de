"""Quantised weights and half precision: what the verdict rests on stays as it is, bit for bit."""

import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from support.quantisers import QUANTISERS
from support.tiny_training import NANO_SAFETY

from safevlm_hf import SafeLlavaForConditionalGeneration, SafeLlavaModel, SafeLlavaProcessor
from safevlm_hf.asking import encode_prompts
from safevlm_hf.data import NANO_BASE
from safevlm_hf.data.records import load_records
from safevlm_hf.data.riskcards import write_riskcards
from safevlm_hf.modeling.safety_policy import ACTIONS


pytestmark = pytest.mark.ci

DEMO = Path(__file__).parents[1] / "runs/demo/stage2"
EXAMPLE = Path(__file__).parents[1] / "examples/measure_quantization.py"
HIGH, ILLEGAL = 3, 1
REFUSING = {"actions": {"*": {"high": "refuse"}}, "refusals": {"*": "No."}}


@pytest.fixture(autouse=True)
def one_thread(seed):
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The nano base with new safety modules, whose head leans to "illegal risk, high"."""
    folder = tmp_path_factory.mktemp("quantised") / "float32"
    torch.manual_seed(0)
    model = SafeLlavaForConditionalGeneration.from_pretrained(NANO_BASE, safety_config=NANO_SAFETY)
    model.config.safety_config.is_trained = True
    processor = SafeLlavaProcessor.from_pretrained(NANO_BASE, safety_config=model.config.safety_config)
    model.initialize_from_embeddings(processor.tokenizer)
    with torch.no_grad():
        model.model.safety_head.level_head.bias[HIGH] = model.model.safety_head.category_head.bias[ILLEGAL] = 3.0
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def inputs(checkpoint, riskcards):
    return encode_prompts(SafeLlavaProcessor.from_pretrained(checkpoint), [riskcards[row] for row in range(4)])


def load(folder, **kwargs):
    return SafeLlavaForConditionalGeneration.from_pretrained(folder, **kwargs).eval()


def verdicts(model, inputs):
    outputs = model.assess(**inputs.to(model.dtype))
    return outputs.safety_level_logits, outputs.safety_category_logits


def answers(model, inputs, **kwargs):
    inputs = inputs.to(model.dtype)
    outputs = model.generate(
        **inputs, max_new_tokens=4, do_sample=False, return_dict_in_generate=True, output_logits=True, **kwargs
    )
    return outputs, outputs.sequences[:, inputs["input_ids"].shape[1] :]


def is_quantised(linear):
    return type(linear.weight) is not torch.nn.Parameter


def verdict_rests_on(name):
    return re.search(r"safety_|vision_tower|embed_tokens", name)


@pytest.mark.parametrize("quantiser", QUANTISERS)
def test_verdict_is_not_quantised_and_the_language_model_is(checkpoint, inputs, quantiser):
    whole, model = load(checkpoint), load(checkpoint, quantization_config=QUANTISERS[quantiser]())
    ours, theirs = model.state_dict(), whole.state_dict()
    spared = [name for name in theirs if verdict_rests_on(name)]
    assert len(spared) > 100
    for name in spared:
        assert ours[name].dtype == torch.float32 and torch.equal(ours[name], theirs[name]), name
    linears = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith("model.language_model.")
    }
    assert len(linears) == 28 and all(map(is_quantised, linears.values()))
    for given, expected in zip(verdicts(model, inputs), verdicts(whole, inputs)):
        assert torch.equal(given, expected)
    outputs, expected = answers(model, inputs)[0], answers(whole, inputs)[0]
    assert not torch.equal(outputs.logits[0], expected.logits[0])  # of the language model
    torch.testing.assert_close(outputs.logits[0].float(), expected.logits[0], atol=3.0, rtol=0.3)


@pytest.mark.parametrize("quantiser", ["torchao int8", "bitsandbytes 8 bit", "bitsandbytes 4 bit"])
def test_quantised_model_conditions_refuses_and_reloads(checkpoint, inputs, tmp_path, quantiser):
    model = load(checkpoint, quantization_config=QUANTISERS[quantiser]())
    model.save_pretrained(tmp_path)  # before it answers: docs/deployment.md says why
    conditioned = answers(model, inputs)
    assert (conditioned[0].safety_condition_ids > 0).any()
    refused, tokens = answers(model, inputs, safety_policy=REFUSING)
    tokenizer = SafeLlavaProcessor.from_pretrained(checkpoint).tokenizer
    for row, action in zip(tokens, refused.safety_action_ids.tolist()):
        assert (tokenizer.decode(row, skip_special_tokens=True) == "No.") == (ACTIONS[action] == "refuse")
    assert ACTIONS.index("refuse") in refused.safety_action_ids

    again = load(tmp_path)
    for given, expected in zip(verdicts(again, inputs), verdicts(model, inputs)):
        # The same weights; where they lie in memory moves the last bits of a product.
        torch.testing.assert_close(given, expected, rtol=0, atol=1e-5)
    assert torch.equal(answers(again, inputs)[1], conditioned[1])


@pytest.mark.parametrize("quantiser", ["torchao int8", "bitsandbytes 8 bit"])
def test_base_model_alone_is_spared_too(checkpoint, inputs, quantiser):
    whole = load(checkpoint).model
    base = SafeLlavaModel.from_pretrained(checkpoint, quantization_config=QUANTISERS[quantiser]())
    assert is_quantised(base.language_model.layers[0].self_attn.q_proj)
    with torch.no_grad():
        given, expected = (model.get_image_features(inputs["pixel_values"]) for model in (base, whole))
    assert torch.equal(given.safety_level_logits, expected.safety_level_logits)


def test_the_measurement_of_torchao_quantises_the_tower_where_it_is_told_to(checkpoint, monkeypatch, capsys):
    spec = spec_from_file_location("measure_quantization", EXAMPLE)
    example = module_from_spec(spec)
    spec.loader.exec_module(example)
    monkeypatch.setattr(example, "variants", lambda: {"8 bit": {"quantization_config": QUANTISERS["torchao int8"]()}})
    monkeypatch.setattr(example, "quiet", lambda: None)
    for model_class in (SafeLlavaModel, SafeLlavaForConditionalGeneration):  # what the example sets is undone
        monkeypatch.setattr(model_class, "vision_modules", model_class.vision_modules)
    changes = []
    for words in ([], ["--quantise_tower"]):
        monkeypatch.setattr(sys, "argv", ["example", "--model", str(checkpoint), "--num_samples", "2", *words])
        example.main()
        changes.append(float(capsys.readouterr().out.splitlines()[-1].split("|")[-2]))
    assert changes[0] == 0 < changes[1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_quantised_in_half_precision(checkpoint, inputs, dtype):
    config = QUANTISERS["bitsandbytes 4 bit"]()
    model, whole = load(checkpoint, quantization_config=config, dtype=dtype), load(checkpoint, dtype=dtype)
    for name, weight in model.model.vision_tower.named_parameters():
        assert weight.dtype == dtype, name
    for given, expected in zip(verdicts(model, inputs), verdicts(whole, inputs)):
        assert torch.equal(given, expected)
    answers(model, inputs)


# --------------------------------------------------------------------------------------------------
# Half precision
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype, safety_dtype",
    [(torch.float16, torch.float32), (torch.bfloat16, torch.bfloat16)],
    ids=["float16", "bfloat16"],
)
def test_precision_of_the_safety_modules(checkpoint, inputs, tmp_path, dtype, safety_dtype):
    model, whole = load(checkpoint, dtype=dtype), load(checkpoint)
    for name, weight in model.named_parameters():
        assert weight.dtype == (safety_dtype if "safety_" in name else dtype), name
    for given, expected in zip(verdicts(model, inputs), verdicts(whole, inputs)):
        assert given.dtype == torch.float32
        torch.testing.assert_close(given, expected, atol=0.1, rtol=0.1)
    halved = inputs.to(dtype)
    assert model(**halved).logits.dtype == dtype
    model.explain(**halved)
    outputs = answers(model, inputs)
    model.save_pretrained(tmp_path)
    again = load(tmp_path, dtype=dtype)
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in model.state_dict().items())
    assert torch.equal(answers(again, inputs)[1], outputs[1])


def test_new_safety_modules_under_a_float16_base():
    model = load(NANO_BASE, safety_config=NANO_SAFETY, dtype=torch.float16)
    for name, weight in model.named_parameters():
        assert weight.dtype == (torch.float32 if "safety_" in name else torch.float16), name
        assert torch.isfinite(weight).all()


def test_what_is_cast_by_hand_follows(checkpoint, inputs):
    model = load(checkpoint).half()
    assert model.model.safety_tokens.head.dtype == torch.float16
    answers(model, inputs)


# --------------------------------------------------------------------------------------------------
# The trained checkpoint
# --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not DEMO.exists(), reason="`make demo` makes the trained checkpoint, runs/demo/stage2")
@pytest.mark.parametrize("quantiser", ["torchao int8", "bitsandbytes 8 bit", "bitsandbytes 4 bit"])
def test_verdicts_on_held_out_riskcards(tmp_path, quantiser):
    whole, model = load(DEMO), load(DEMO, quantization_config=QUANTISERS[quantiser]())
    safety = whole.config.safety_config
    records = load_records(write_riskcards(tmp_path, "test", 400, seed=0), safety.categories, safety.levels)
    processor = SafeLlavaProcessor.from_pretrained(DEMO)
    changed = 0
    for start in range(0, 400, 20):
        inputs = encode_prompts(processor, [records[row] for row in range(start, start + 20)])
        pairs = zip(verdicts(model, inputs), verdicts(whole, inputs))
        changed += torch.stack([given.argmax(-1) != kept.argmax(-1) for given, kept in pairs]).any(dim=0).sum().item()
    assert changed <= 4
