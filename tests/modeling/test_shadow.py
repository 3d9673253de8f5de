"""Shadow mode: the policy decides, the audit says what, and every answer is what it would be without a policy."""

import pytest
import torch
from support.rigged import BOS, MODES, RISKY, UNCONDITIONED, batch, bright, dark, generate, prompt, request, rig
from transformers import DynamicCache

from safevlm_hf.modeling.safety_audit import read_audit
from safevlm_hf.modeling.safety_policy import ACTIONS


REFUSE = {"safety_policy": {"actions": {"*": {"high": "refuse"}}}}


@pytest.fixture
def model(tiny_config):
    torch.set_num_threads(1)
    return rig(tiny_config)


@pytest.fixture
def shadow(tmp_path):
    return {"safety_shadow": True, "safety_audit": tmp_path / "audit.jsonl"}


@pytest.mark.parametrize("mode", MODES)
def test_the_answer_is_untouched_and_the_verdict_is_written_down(model, shadow, mode):
    inputs = request(bright())
    expected = generate(model, **inputs, **UNCONDITIONED, **MODES[mode])
    assert torch.equal(generate(model, **inputs, **REFUSE, **shadow, **MODES[mode]), expected)
    (line,), _ = read_audit(shadow["safety_audit"])
    assert (line["action"], line["shadow_action"]) == ("answer", "refuse")
    (verdict,) = line["verdicts"]
    assert (verdict["action"], verdict["category"], verdict["condition"]) == ("refuse", "illegal risk", "safe")


def test_each_sample_of_a_batch(model, shadow):
    inputs = {**batch(prompt(5), [BOS, 7], prompt(RISKY)), "pixel_values": torch.cat([bright(), dark()])}
    expected = generate(model, **inputs, **UNCONDITIONED)
    outputs = generate(model, **inputs, **REFUSE, **shadow, return_dict_in_generate=True)
    assert torch.equal(outputs.sequences, expected)
    assert outputs.safety_condition_ids.tolist() == [0, 0]
    assert [ACTIONS[action] for action in outputs.safety_action_ids] == ["refuse", "condition"]  # what it decided
    lines, _ = read_audit(shadow["safety_audit"])
    assert [line["shadow_action"] for line in lines] == ["refuse", "answer", "condition"]


def test_a_cache_that_was_filled_in_shadow_mode_is_no_way_around(model, shadow):
    """Once the policy acts, the images in the cache are under their verdict again."""
    inputs, cache = request(bright()), DynamicCache()
    sequences = generate(model, **inputs, **shadow, past_key_values=cache, max_new_tokens=2)
    again = {"input_ids": torch.cat([sequences, torch.tensor([[11]])], dim=1)}
    expected = generate(model, **again, pixel_values=inputs["pixel_values"])
    assert torch.equal(generate(model, **again, past_key_values=cache), expected)


def test_it_needs_an_audit(model, monkeypatch, tmp_path):
    monkeypatch.delenv("SAFEVLM_AUDIT", raising=False)
    with pytest.raises(ValueError, match="safety_audit"):
        generate(model, **request(bright()), safety_shadow=True)
    monkeypatch.setenv("SAFEVLM_AUDIT", str(tmp_path / "audit.jsonl"))
    generate(model, **request(bright()), safety_shadow=True)
    assert read_audit(tmp_path / "audit.jsonl")[0][0]["shadow_action"] == "condition"


@pytest.mark.parametrize("given", [1, "yes", None])
def test_it_is_on_or_off(model, shadow, given):
    with pytest.raises(ValueError, match="safety_shadow"):
        generate(model, **request(bright()), **{**shadow, "safety_shadow": given})


def test_no_policy_and_no_checkpoint_can_ask_for_it(model):
    expected = generate(model, **request(bright()))
    for name in ("safety_shadow", "shadow"):
        setattr(model.generation_config, name, True)
        setattr(model.config, name, True)
    assert torch.equal(generate(model, **request(bright())), expected)
    assert not torch.equal(expected, generate(model, **request(bright()), **UNCONDITIONED))
    with pytest.raises(ValueError, match="^`safety_policy` of the call: Unknown keys"):
        generate(model, **request(bright()), safety_policy={"shadow": True})
