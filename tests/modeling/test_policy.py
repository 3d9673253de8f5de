"""Policy and verdicts as data, without a model."""

import json

import pytest
import torch
from transformers import GenerationConfig

from safevlm_hf import SafetyConfig, SafetyPolicy
from safevlm_hf.modeling.safety_policy import condition_name, condition_rows, condition_text, verdicts_from_logits


CONFIG = SafetyConfig()


def logits(level, category):
    return torch.eye(4)[[level]] * 5, torch.eye(7)[[category]] * 5


def decide(level, category, **policy):
    return condition_name(SafetyPolicy(**policy).condition_ids(*logits(level, category), CONFIG).item(), CONFIG)


def test_each_verdict_has_a_condition_of_its_own():
    grid = torch.cartesian_prod(torch.arange(4), torch.arange(7))
    rows = condition_rows(grid[:, 0], grid[:, 1], CONFIG)
    names = {condition_name(row, CONFIG) for row in range(CONFIG.num_conditions)}
    assert len(names) == CONFIG.num_conditions == 19
    for (level, category), row in zip(grid.tolist(), rows.tolist()):
        safe = level == 0 or category == 6
        expected = "safe" if safe else f"{CONFIG.categories[category]}, {CONFIG.levels[level]}"
        assert condition_name(row, CONFIG) == expected


def test_safe_category_may_stand_anywhere():
    config = SafetyConfig(categories=["spam", "safe", "fraud"], levels=["safe", "bad"])
    rows = condition_rows(torch.ones(3, dtype=torch.long), torch.arange(3), config)
    assert [condition_name(row, config) for row in rows.tolist()] == ["spam, bad", "safe", "fraud, bad"]


def test_texts_of_the_conditions():
    texts = [condition_text(row, CONFIG) for row in range(CONFIG.num_conditions)]
    assert len(set(texts)) == len(texts)
    assert all("Decline, say why" in text for text in texts[3::3])
    assert "privacy, high" in condition_text(condition_rows(torch.tensor(3), torch.tensor(4), CONFIG).item(), CONFIG)


def test_default_policy_is_the_most_probable_verdict():
    assert decide(3, 1) == "illegal risk, high"
    assert decide(0, 1) == decide(3, 6) == "safe"


def test_policy_switches():
    assert decide(3, 4, disabled_categories=("privacy",)) == "safe"
    assert decide(3, 1, disabled_categories=("privacy",)) == "illegal risk, high"
    assert decide(3, 1, enabled=False) == "safe"


@pytest.mark.parametrize("part", ["level", "category"])
@pytest.mark.parametrize("disabled", [(), ("politics",), ("misleading",), tuple(CONFIG.categories[:6])])
def test_verdicts_that_are_no_numbers_are_of_the_highest_level(part, disabled):
    level, category = logits(0, 6)
    (level if part == "level" else category)[0, 0] = float("nan")
    row = SafetyPolicy(disabled_categories=disabled).condition_ids(level, category, CONFIG)
    assert condition_name(row.item(), CONFIG).endswith(", high")


def test_policy_is_json_able_data(tmp_path):
    policy = SafetyPolicy(disabled_categories=["privacy", "politics"])
    assert SafetyPolicy.create(json.loads(json.dumps(policy.to_dict()))) == policy
    GenerationConfig(safety_policy=policy.to_dict()).save_pretrained(tmp_path)
    loaded = GenerationConfig.from_pretrained(tmp_path)
    assert SafetyPolicy.create(loaded.safety_policy) == policy


def test_create_takes_a_policy_of_another_copy_of_the_code():
    from dataclasses import make_dataclass

    other = make_dataclass("SafetyPolicy", [("enabled", bool), ("disabled_categories", tuple)])(False, ("privacy",))
    assert SafetyPolicy.create(other) == SafetyPolicy(enabled=False, disabled_categories=("privacy",))


@pytest.mark.parametrize(
    "policy, match",
    [
        ({"enable": True}, r"\['enable'\].*Valid keys"),
        ({"disabled_categories": "privacy"}, "list of names"),
        ({"disabled_categories": [4]}, "list of names"),
        ({"enabled": 1}, "true or false"),
        (["privacy"], "list"),
    ],
)
def test_malformed_policies_raise(policy, match):
    with pytest.raises(ValueError, match=match):
        SafetyPolicy.create(policy)


@pytest.mark.parametrize("name", ["weather", "safe", "Privacy"])
def test_unknown_categories_raise_with_the_valid_names(name):
    with pytest.raises(ValueError, match=f"{name}.*Valid names.*politics"):
        SafetyPolicy(disabled_categories=(name,)).check(CONFIG)


def test_verdict_by_name():
    level = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    category = torch.tensor([[0.0, 0.0, 0.0, 0.0, 4.0, 0.0, 0.0]])
    (verdict,) = verdicts_from_logits(level, category, samples=[5], condition_ids=[0], config=CONFIG)
    assert (verdict.sample, verdict.level, verdict.category, verdict.condition) == (5, "high", "privacy", "safe")
    assert verdict.risk == pytest.approx(1 - level.softmax(-1)[0, 0].item())
    assert sum(verdict.category_probabilities.values()) == pytest.approx(1)
    assert list(verdict.level_probabilities) == CONFIG.levels


def test_unreadable_pixels_are_never_reported_as_safe():
    config = SafetyConfig()
    nothing = torch.full((1, 4), float("nan")), torch.full((1, 7), float("nan"))
    verdict = verdicts_from_logits(*nothing, samples=[0], condition_ids=None, config=config)[0]
    assert verdict.level == "high" and verdict.category != "safe" and verdict.risk == pytest.approx(1)
    assert verdict.condition.endswith("high")
