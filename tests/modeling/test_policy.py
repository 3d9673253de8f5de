"""Policy and verdicts as data, without a model."""

import json
import math
import subprocess
import sys
from pathlib import Path
from shutil import copy

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig
from transformers.dynamic_module_utils import get_relative_import_files

from safevlm_hf import SafetyConfig, SafetyPolicy
from safevlm_hf.modeling import safety_policy
from safevlm_hf.modeling.safety_decision import (
    SafetyDecision,
    calibrated_risks,
    condition_rows,
    decide,
    verdicts_from_logits,
)
from safevlm_hf.modeling.safety_policy import (
    ACTIONS,
    Strictness,
    condition_category,
    condition_name,
    condition_text,
    strictest_verdict,
)


CONFIG = SafetyConfig()


def logits(level, category):
    return torch.eye(4)[[level]] * 5, torch.eye(7)[[category]] * 5


def condition_of(level, category, **policy):
    decision = decide(SafetyPolicy(**policy), *logits(level, category), CONFIG)
    return condition_name(decision.condition_ids.item(), CONFIG)


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


def test_default_policy_decides_by_the_risk():
    assert condition_of(3, 1) == "illegal risk, high"
    assert condition_of(0, 1) == "safe"
    assert condition_of(3, 6) == "politics, high"  # a risk is not talked away by a category that says safe


@pytest.mark.parametrize(
    "threshold, condition", [(None, "illegal risk, high"), (0.6, "illegal risk, high"), (0.7, "safe")]
)
def test_an_unsure_head_is_judged_by_its_risk(threshold, condition):
    """No level is more probable than safe, and together they are."""
    level = torch.tensor([[0.36, 0.30, 0.01, 0.33]]).log()
    category = torch.tensor([[0.1, 0.3, 0.05, 0.05, 0.05, 0.05, 0.4]]).log()
    policy = SafetyPolicy(risk_threshold=threshold)
    decision = decide(policy, level, category, CONFIG)
    assert condition_name(decision.condition_ids.item(), CONFIG) == condition
    (verdict,) = verdicts_from_logits(level, category, [0], CONFIG, policy)
    assert verdict.risk == pytest.approx(0.64)
    assert f"{verdict.category}, {verdict.level}".replace("safe, safe", "safe") == condition


def test_risk_never_falls_as_a_risky_level_rises():
    policy = SafetyPolicy()
    level = torch.randn(50, 4)
    for column in (1, 2, 3):
        higher = level.clone()
        higher[:, column] += torch.rand(50)
        assert (calibrated_risks(policy, higher) >= calibrated_risks(policy, level)).all()


def test_what_is_switched_off_is_not_flagged_as_something_else():
    level, category = logits(3, 4)
    category[0, 1] += 1.0  # "illegal risk" comes next, far behind
    policy = SafetyPolicy(categories={"privacy": False})
    assert condition_name(decide(policy, level, category, CONFIG).condition_ids.item(), CONFIG) == "safe"
    category[0, 1] = category[0, 4] + 2.0
    assert condition_name(decide(policy, level, category, CONFIG).condition_ids.item(), CONFIG) == "illegal risk, high"


@pytest.mark.parametrize("name, value", [("risk_threshold", 1.5), ("remembered_turns", 0), ("remembered_turns", 2.5)])
def test_new_fields_are_checked(name, value):
    with pytest.raises(ValueError, match=name):
        SafetyPolicy(**{name: value})


def test_policy_switches():
    assert condition_of(3, 4, categories={"privacy": False}) == "safe"
    assert condition_of(3, 1, categories={"privacy": False}) == "illegal risk, high"
    assert condition_of(3, 1, enabled=False) == "safe"


@pytest.mark.parametrize("part", ["level", "category"])
@pytest.mark.parametrize("disabled", [(), ("politics",), ("misleading",), tuple(CONFIG.categories[:6])])
def test_verdicts_that_are_no_numbers_are_of_the_highest_level(part, disabled):
    level, category = logits(0, 6)
    (level if part == "level" else category)[0, 0] = float("nan")
    row = decide(SafetyPolicy(categories=dict.fromkeys(disabled, False)), level, category, CONFIG).condition_ids
    assert condition_name(row.item(), CONFIG).endswith(", high")


def test_policy_is_json_able_data(tmp_path):
    policy = SafetyPolicy(
        categories={"privacy": False}, thresholds={"politics": 0.5}, actions={"*": {"high": "refuse"}}
    )
    assert SafetyPolicy.create(json.loads(json.dumps(policy.to_dict()))) == policy
    GenerationConfig(safety_policy=policy.to_dict()).save_pretrained(tmp_path)
    loaded = GenerationConfig.from_pretrained(tmp_path)
    assert SafetyPolicy.create(loaded.safety_policy) == policy


def test_create_takes_a_policy_of_another_copy_of_the_code():
    from dataclasses import make_dataclass

    other = make_dataclass("SafetyPolicy", [("enabled", bool), ("categories", dict)])(False, {"privacy": False})
    assert SafetyPolicy.create(other) == SafetyPolicy(enabled=False, categories={"privacy": False})


@pytest.mark.parametrize(
    "policy, match",
    [
        ({"enable": True}, r"\['enable'\].*Valid keys"),
        ({"categories": "privacy"}, "must map names"),
        ({"categories": {4: False}}, "must map names"),
        ({"categories": {"privacy": "off"}}, "privacy.*true or false"),
        ({"thresholds": {"privacy": 1.5}}, r"privacy.*\[0, 1\].*1.5"),
        ({"thresholds": {"privacy": -0.1}}, r"\[0, 1\]"),
        ({"thresholds": {"privacy": float("nan")}}, r"\[0, 1\]"),
        ({"thresholds": {"privacy": True}}, r"\[0, 1\]"),
        ({"review_thresholds": {"*": "0.5"}}, r"\[0, 1\]"),
        ({"actions": {"privacy": "refuse"}}, "map from level"),
        ({"actions": {"privacy": {"high": "block"}}}, "answer.*condition.*refuse"),
        ({"actions": {"privacy": {"high": "review"}}}, "answer.*condition.*refuse"),
        ({"refusals": {"privacy": " "}}, "a text"),
        ({"language": "tlh"}, "en.*de"),
        ({"language": ["en"]}, "en.*de"),
        ({"temperatures": {"level": 0}}, "temperatures"),
        ({"temperatures": {"head": 1.0}}, "level.*category"),
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
        SafetyPolicy(categories={name: False})
    own = SafetyConfig(categories=[name, "no risk", "safe"]) if name != "safe" else None
    if own is not None:
        assert SafetyPolicy(categories={name: False}, config=own).categories == {name: False}


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


# --------------------------------------------------------------------------------------------------
# Thresholds, review bands, actions
# --------------------------------------------------------------------------------------------------


def of_probabilities(level, **categories):
    """Logits of one image, whose softmax is as given; the categories' rest is safe."""
    category = torch.full((1, 7), 1e-6)
    for name, probability in categories.items():
        category[0, CONFIG.categories.index(name.replace("_", " "))] = probability
    category[0, 6] = max(1 - sum(categories.values()), 1e-6)
    return torch.eye(4)[[level]] * 5, category.log()


def verdict_of(level, policy, **categories):
    (verdict,) = verdicts_from_logits(*of_probabilities(level, **categories), [0], CONFIG, policy)
    return verdict


def test_threshold_decides_in_place_of_the_most_probable_verdict():
    for threshold, condition in ((0.3, "privacy, high"), (0.5, "safe")):
        verdict = verdict_of(3, {"thresholds": {"privacy": threshold}}, privacy=0.4)
        assert verdict.condition == condition
        assert verdict.flagged_categories == (("privacy",) if threshold == 0.3 else ())
    # Over its threshold at a safe level, a category is treated at its most probable risky level.
    assert verdict_of(0, {"thresholds": {"*": 0.3}}, privacy=0.4).condition == "privacy, low"
    # Not set for one category, the most probable verdict decides there.
    assert verdict_of(2, {"thresholds": {"*": 0.9, "fairness": None}}, fairness=0.6).condition == "fairness, medium"
    assert verdict_of(2, {"thresholds": {"*": 0.9}}, fairness=0.6).condition == "safe"


def test_every_category_over_its_threshold_is_in_the_verdict():
    verdict = verdict_of(3, {"thresholds": {"*": 0.2}}, privacy=0.3, politics=0.4, fairness=0.1)
    assert verdict.flagged_categories == ("politics", "privacy")
    assert verdict.condition == "politics, high"


def test_review_band_is_reported_and_conditioned():
    policy = {
        "thresholds": {"privacy": 0.8},
        "review_thresholds": {"privacy": 0.3},
        "actions": {"*": {"high": "refuse"}},
    }
    verdict = verdict_of(3, policy, privacy=0.5)
    assert (verdict.action, verdict.condition) == ("review", "privacy, high")
    assert (verdict.flagged_categories, verdict.review_categories) == ((), ("privacy",))
    above, below = verdict_of(3, policy, privacy=0.9), verdict_of(3, policy, privacy=0.2)
    assert (above.action, above.flagged_categories, above.review_categories) == ("refuse", ("privacy",), ())
    assert (below.action, below.condition) == ("answer", "safe")


def test_actions_by_category_and_level():
    policy = {"actions": {"*": {"high": "refuse"}, "fairness": {"low": "answer", "high": "condition"}}}
    assert verdict_of(3, policy, privacy=0.9).action == "refuse"
    assert verdict_of(2, policy, privacy=0.9).action == "condition"
    answered = verdict_of(1, policy, fairness=0.9)
    assert (answered.action, answered.condition, answered.flagged_categories) == ("answer", "safe", ("fairness",))
    assert verdict_of(3, policy, fairness=0.9).action == "condition"


def test_a_level_that_is_not_set_is_as_strict_as_the_one_below():
    policy = SafetyPolicy(actions={"*": {"low": "answer"}, "privacy": {"medium": "refuse"}})
    found = {
        name: [policy.action(name, level, CONFIG) for level in CONFIG.levels[1:]] for name in ("privacy", "fairness")
    }
    assert found == {"privacy": ["answer", "refuse", "refuse"], "fairness": ["answer", "condition", "condition"]}


def test_strictest_action_wins_over_the_more_probable_category():
    policy = {"thresholds": {"*": 0.2}, "actions": {"privacy": {"high": "refuse"}}}
    verdict = verdict_of(3, policy, privacy=0.3, politics=0.5)
    assert (verdict.action, verdict.condition) == ("refuse", "privacy, high")


def test_temperature_calibrates_the_probabilities():
    logits = of_probabilities(3, privacy=0.9)
    for temperature in (0.5, 2.0):
        policy = {"temperatures": {"level": temperature, "category": temperature}, "thresholds": {"*": 0.8}}
        (verdict,) = verdicts_from_logits(*logits, [0], CONFIG, policy)
        expected = (logits[1] / temperature).softmax(-1)[0, 4].item()
        assert verdict.category_probabilities["privacy"] == pytest.approx(expected, abs=1e-6)
        assert verdict.risk == pytest.approx(1 - (logits[0] / temperature).softmax(-1)[0, 0].item(), abs=1e-6)
        assert bool(verdict.flagged_categories) == (expected >= 0.8)


def test_huge_finite_logits_are_not_made_unreadable_by_a_temperature():
    level, category = torch.eye(4)[[3]] * 3e38, torch.eye(7)[[4]] * 3e38 - 1.5e38
    decision = decide(SafetyPolicy(temperatures={"category": 0.05}, thresholds={"*": 0.5}), level, category, CONFIG)
    assert condition_name(decision.condition_ids.item(), CONFIG) == "privacy, high"


@pytest.mark.parametrize("refuses", [True, False])
def test_what_cannot_be_read_gets_the_strictest_action_of_the_policy(refuses):
    nothing = torch.full((1, 4), float("nan")), torch.full((1, 7), float("nan"))
    policy = {"actions": {"privacy": {"high": "refuse"}}} if refuses else {"actions": {"*": {"low": "answer"}}}
    (verdict,) = verdicts_from_logits(*nothing, [0], CONFIG, policy)
    assert verdict.action == ("refuse" if refuses else "condition")


@pytest.mark.parametrize(
    "policy, match",
    [
        ({"thresholds": {"privacy": 0.5}, "review_thresholds": {"privacy": 0.5}}, "review band.*privacy.*below"),
        ({"thresholds": {"*": 0.5}, "review_thresholds": {"privacy": 0.7}}, "review band.*privacy.*below"),
        ({"categories": {"privacy": False}, "thresholds": {"privacy": 0.5}}, "privacy.*off.*thresholds"),
        ({"categories": {"privacy": False}, "actions": {"privacy": {"high": "refuse"}}}, "privacy.*off.*actions"),
        ({"categories": {"*": False}, "actions": {"privacy": {"high": "refuse"}}}, "privacy.*off.*actions"),
        ({"categories": {"*": False}, "thresholds": {"*": 0.5}}, r"'\*'.*off.*thresholds"),
        ({"actions": {"privacy": {"low": "refuse", "high": "condition"}}}, "fall as the level rises"),
        ({"actions": {"*": {"high": "answer"}}}, "fall as the level rises"),
        ({"actions": {"privacy": {"safe": "refuse"}}}, "unknown levels.*low.*medium.*high"),
        ({"actions": {"privacy": {"top": "refuse"}}}, "unknown levels.*low.*medium.*high"),
        ({"thresholds": {"weather": 0.5}}, "thresholds.*weather.*Valid names.*politics"),
    ],
)
def test_contradictions_and_unknown_names_raise_at_construction(policy, match):
    with pytest.raises(ValueError, match=match):
        SafetyPolicy(**policy, config=CONFIG)


# --------------------------------------------------------------------------------------------------
# Policies compose
# --------------------------------------------------------------------------------------------------


def test_a_deployment_overrides_name_by_name():
    checkpoint = SafetyPolicy(
        thresholds={"*": 0.5, "privacy": 0.7}, actions={"*": {"high": "refuse"}}, temperatures={"level": 1.5}
    )
    deployment = {
        "thresholds": {"privacy": 0.9},
        "actions": {"*": {"medium": "refuse"}},
        "categories": {"politics": False},
        "language": "de",
    }
    assert checkpoint.override(deployment).to_dict() == {
        "categories": {"politics": False},
        "thresholds": {"*": 0.5, "privacy": 0.9},
        "actions": {"*": {"high": "refuse", "medium": "refuse"}},
        "language": "de",
        "temperatures": {"level": 1.5},
    }
    assert checkpoint.override(None) == checkpoint == SafetyPolicy().override(checkpoint)


def test_switching_off_leaves_the_other_entries_behind():
    checkpoint = SafetyPolicy(thresholds={"privacy": 0.7}, actions={"privacy": {"high": "refuse"}})
    off = checkpoint.override({"categories": {"privacy": False}})
    assert off.to_dict() == {"categories": {"privacy": False}}
    with pytest.raises(ValueError, match="privacy.*off"):
        off.override({"thresholds": {"privacy": 0.2}})
    on_again = off.override({"categories": {"privacy": True}, "thresholds": {"privacy": 0.2}})
    assert on_again.thresholds == {"privacy": 0.2}


def test_every_category_means_those_that_the_checkpoint_names_too():
    names = [name for name in CONFIG.categories if name != "safe"]
    checkpoint = SafetyPolicy(
        categories={"politics": False},
        thresholds={name: 0.9 for name in names if name != "politics"},
        actions={"privacy": {"medium": "condition", "high": "condition"}},
    )
    strict = checkpoint.override(
        {"categories": {"*": True}, "thresholds": {"*": 0.05, "fairness": 0.2}, "actions": {"*": {"high": "refuse"}}}
    )
    assert all(strict.is_on(name) for name in names)
    assert {name: strict.threshold(name) for name in names} == {**dict.fromkeys(names, 0.05), "fairness": 0.2}
    assert strict.action("privacy", "high", CONFIG) == "refuse"
    assert strict.action("privacy", "medium", CONFIG) == "condition"


def test_one_category_alone():
    policy = SafetyPolicy(categories={"*": False, "privacy": True}, thresholds={"*": 0.5})
    assert [name for name in CONFIG.categories if policy.is_on(name)] == ["privacy"]
    assert SafetyPolicy(thresholds={"*": 0.5}).override({"categories": policy.categories}) == policy


def test_the_review_band_is_never_stricter_than_the_action():
    policy = {"thresholds": {"*": 0.9}, "review_thresholds": {"*": 0.3}, "actions": {"*": {"low": "answer"}}}
    low, medium = (verdict_of(level, policy, privacy=0.6) for level in (1, 2))
    assert (low.action, low.review_categories) == ("answer", ("privacy",))
    assert (medium.action, medium.condition) == ("review", "privacy, medium")


def test_contradictions_between_two_policies_raise():
    checkpoint = SafetyPolicy(actions={"privacy": {"medium": "refuse", "high": "refuse"}})
    with pytest.raises(ValueError, match="fall as the level rises"):
        checkpoint.override({"actions": {"privacy": {"high": "condition"}}}, CONFIG)
    with pytest.raises(ValueError, match="review band"):
        SafetyPolicy(review_thresholds={"*": 0.5}).override({"thresholds": {"*": 0.4}})


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({}, []),
        ({"risk_threshold": 0.5, "thresholds": {"*": 0.4}, "actions": {"*": {"high": "refuse"}}}, []),
        ({"enabled": False}, ["enabled: false"]),
        ({"categories": {"politics": False}}, ["politics is switched off"]),
        ({"risk_threshold": 0.9, "remembered_turns": 2}, ["risk_threshold: 0.9", "remembered_turns: 2"]),
        ({"thresholds": {"privacy": 0.75, "*": None}}, ["threshold of privacy: 0.75"]),
        ({"actions": {"politics": {"low": "answer", "high": "refuse"}}}, ["politics, low: answer"]),
        ({"temperatures": {"level": 1.7, "category": 4.0}}, []),
        ({"thresholds": {"*": 0.5}, "temperatures": {"category": 100.0}}, ["temperature of the category: 100"]),
        ({"temperatures": {"level": 0.05}}, ["temperature of the level: 0.05"]),
    ],
)
def test_what_does_less_than_the_default_is_named(settings, expected):
    assert SafetyPolicy(**settings).lax_settings() == expected


@pytest.mark.parametrize("text", ['{"thresholds": {"*": 1%s}}' % ("0" * 400), "[" * 100_000])
def test_a_file_of_monstrous_numbers_or_depth_is_named(tmp_path, text):
    (tmp_path / "policy.json").write_text(text)
    with pytest.raises(ValueError, match="policy.json: "):
        SafetyPolicy.from_file(tmp_path / "policy.json")


@pytest.mark.parametrize(
    "text, name",
    [
        ('{"actions": {"*": {"high": "refuse"}}, "actions": {}}', "actions"),
        ('{"actions": {"privacy": {"high": "refuse"}, "privacy": {}}}', "privacy"),
        ('{"actions": {"*": {"high": "refuse", "high": "condition"}}}', "high"),
    ],
)
def test_a_key_that_comes_twice_is_named(tmp_path, text, name):
    (tmp_path / "policy.json").write_text(text)
    with pytest.raises(ValueError, match=f"policy.json: the key '{name}' comes twice"):
        SafetyPolicy.from_file(tmp_path / "policy.json", CONFIG)


def test_digest_of_one_is_that_of_one_point_nought():
    assert SafetyPolicy(thresholds={"*": 1}).digest() == SafetyPolicy(thresholds={"*": 1.0}).digest()


def test_digest_tells_policies_apart():
    policy = SafetyPolicy(thresholds={"privacy": 0.5, "politics": 0.4})
    assert policy.digest() == SafetyPolicy(thresholds={"politics": 0.4, "privacy": 0.5}).digest()
    assert len({policy.digest(), SafetyPolicy().digest(), SafetyPolicy(enabled=True).digest()}) == 3


def test_policy_files(tmp_path):
    path = tmp_path / "policy.json"
    policy = SafetyPolicy(thresholds={"privacy": 0.5})
    path.write_text(json.dumps(policy.to_dict()))
    assert SafetyPolicy.from_file(path, CONFIG) == policy
    for content in ("{", "[]", '{"treshold": 1}', '{"thresholds": {"weather": 0.5}}'):
        path.write_text(content)
        with pytest.raises(ValueError, match="policy.json: "):
            SafetyPolicy.from_file(path, CONFIG)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="policy.json: "):
        SafetyPolicy.from_file(path, CONFIG)


def test_a_policy_does_not_change_with_the_dict_it_was_made_from():
    given = {"actions": {"privacy": {"high": "refuse"}}}
    policy = SafetyPolicy.create(given)
    given["actions"]["privacy"]["high"] = "answer"
    assert policy.action("privacy", "high", CONFIG) == "refuse"


# --------------------------------------------------------------------------------------------------
# Properties
# --------------------------------------------------------------------------------------------------

names = st.sampled_from([*CONFIG.categories[:6], "*"])
probabilities = st.floats(0, 1)
policies = st.fixed_dictionaries(
    {},
    optional={
        "enabled": st.booleans(),
        "categories": st.dictionaries(names, st.booleans()),
        "thresholds": st.dictionaries(names, st.none() | probabilities),
        "review_thresholds": st.dictionaries(names, st.none() | probabilities),
        "actions": st.dictionaries(
            names,
            st.dictionaries(st.sampled_from(CONFIG.levels[1:]), st.sampled_from(["answer", "condition", "refuse"])),
        ),
        "temperatures": st.dictionaries(st.sampled_from(["level", "category"]), st.floats(0.1, 10)),
    },
)
verdict_logits = st.integers(0, 2**31).map(
    lambda seed: tuple(torch.randn(3, size, generator=torch.Generator().manual_seed(seed)) * 4 for size in (4, 7))
)


def valid(policy):
    try:
        return SafetyPolicy.create(policy, CONFIG)
    except ValueError:
        return None


@settings(max_examples=150, deadline=None)
@given(policies, verdict_logits)
def test_every_valid_policy_decides_soundly(policy, logits):
    policy = valid(policy)
    assume(policy is not None)
    decision = decide(policy, *logits, CONFIG)
    refuses = policy.refuses(CONFIG)
    for image in range(3):
        alone = decide(policy, *(part[image : image + 1] for part in logits), CONFIG)
        assert alone.action_ids.item() == decision.action_ids[image].item()  # whatever the batch
        assert alone.condition_ids.item() == decision.condition_ids[image].item()
        action, row = ACTIONS[decision.action_ids[image]], decision.condition_ids[image].item()
        assert (action == "answer") == (row == 0)
        assert refuses or action != "refuse"
        if row:
            assert policy.is_on(condition_category(row, CONFIG)) and policy.enabled is not False
    assert not (decision.flagged & decision.review).any()
    assert SafetyPolicy.create(json.loads(json.dumps(policy.to_dict())), CONFIG) == policy


@settings(max_examples=100, deadline=None)
@given(verdict_logits, probabilities, probabilities)
def test_a_lower_threshold_never_lets_more_through(logits, one, other):
    low, high = sorted((one, other))
    flagged = [decide(SafetyPolicy(thresholds={"*": value}), *logits, CONFIG).flagged for value in (low, high)]
    assert (flagged[0] | ~flagged[1]).all()


@settings(max_examples=100, deadline=None)
@given(policies, policies)
def test_composing_is_valid_or_raises(first, second):
    first, second = valid(first), valid(second)
    assume(first is not None and second is not None)
    try:
        both = first.override(second, CONFIG)
    except ValueError as error:
        assert "Contradiction" in str(error)
        return
    assert both.override(second, CONFIG) == both
    for name, is_on in second.categories.items():
        assert both.categories[name] == is_on


@st.composite
def decisions(draw):
    """Decisions of a few values, so that many are alike, and which of them count."""
    size = draw(st.integers(1, 12))
    ids = st.lists(st.integers(0, 3), min_size=size, max_size=size)
    risks = draw(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, math.inf]), min_size=size, max_size=size))
    is_candidate = draw(st.lists(st.booleans(), min_size=size, max_size=size).filter(any))
    return draw(ids), draw(ids), risks, is_candidate


@settings(max_examples=300, deadline=None)
@given(decisions())
def test_strictness_of_tensors_is_that_of_tuples(decisions):
    *columns, is_candidate = decisions
    actions, levels, risks = map(torch.tensor, columns)
    decision = SafetyDecision(torch.zeros_like(actions), actions, levels, risks, flagged=None, review=None)
    index = decision.strictest(torch.tensor(is_candidate)).item()
    found = [Strictness(*one) if counts else None for *one, counts in zip(*columns, is_candidate)]
    assert found[index] == max(filter(None, found))
    assert index == found.index(found[index])  # the first of those that are alike, as `max` takes it


def test_each_sample_has_a_strictest_image_of_its_own():
    actions, levels, risks = torch.tensor([[2, 1, 0.9], [3, 1, 0.6], [2, 3, 0.7], [2, 3, 0.8], [0, 0, 0.2]]).T
    decision = SafetyDecision(None, actions.long(), levels.long(), risks, flagged=None, review=None)
    assert decision.strictest_images(torch.tensor([0, 0, 1, 1, 2]), 3).tolist() == [1, 3, 4]


def test_strictness_of_a_verdict_is_that_of_its_line_in_an_audit_trail():
    policy = {"actions": {"privacy": {"medium": "refuse"}}}
    verdicts = [verdict_of(level, policy, privacy=0.6) for level in (3, 2, 0)]
    found = [Strictness.of_verdict(vars(verdict)) for verdict in verdicts]
    assert [one[:2] for one in found] == [(3, 3), (3, 2), (0, 0)] and found[0].risk == verdicts[0].risk
    assert [Strictness.of_verdict(json.loads(json.dumps(vars(verdict)))) for verdict in verdicts] == found
    assert strictest_verdict(verdicts[::-1]) == verdicts[0] and strictest_verdict([]) is None


# --------------------------------------------------------------------------------------------------
# Without torch
# --------------------------------------------------------------------------------------------------

ELSEWHERE = """
import sys

for name in ("torch", "transformers", "huggingface_hub", "numpy", "safevlm_hf"):
    sys.modules[name] = None  # importing it fails
from copied.operator_policy import enforced_policy
from copied.safety_policy import SafetyNames, Strictness

policy = enforced_policy(None, {"actions": {"*": {"high": "refuse"}}}, SafetyNames())
print(policy.digest(), policy.action("privacy", "high", SafetyNames()), Strictness(3) > Strictness(2, 3, 1.0))
"""


@pytest.mark.ci
def test_the_policy_can_be_used_where_there_is_no_torch(tmp_path):
    """By its files alone, copied to where another runtime has its own."""
    folder = Path(safety_policy.__file__).parent
    (tmp_path / "copied").mkdir()
    for file in {folder / "operator_policy.py", *get_relative_import_files(folder / "operator_policy.py")}:
        copy(file, tmp_path / "copied")
    done = subprocess.run([sys.executable, "-c", ELSEWHERE], capture_output=True, text=True, cwd=tmp_path)
    digest = SafetyPolicy(actions={"*": {"high": "refuse"}}).digest()
    assert (done.stdout, done.stderr) == (f"{digest} refuse True\n", "")
