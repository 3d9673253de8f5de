"""Moved controls as a policy: exactly what was moved, and nothing that the checkpoint's own policy says besides."""

import json
import random
from dataclasses import replace

import pytest

from safevlm_hf import SafetyConfig, SafetyPolicy
from safevlm_hf.app.controls import MAX_TURNS, Controls, risky_categories


CONFIG = SafetyConfig()
OWN_TAXONOMY = SafetyConfig(categories=["safe", "gambling", "weapons"], levels=["safe", "some", "much"])
OWN_POLICIES = (
    {},
    {"risk_threshold": 0.2, "language": "de", "remembered_turns": 2},
    {"categories": {"*": False, "privacy": True}},
    {"thresholds": {"*": 0.7, "privacy": 0.9}, "review_thresholds": {"politics": 0.3}},
    {"actions": {"*": {"high": "refuse"}, "privacy": {"low": "answer"}}, "refusals": {"privacy": "No."}},
)


def start(own, config=CONFIG):
    own = SafetyPolicy.create(own, config)
    return own, Controls.from_policy(own, config)


@pytest.mark.parametrize("own", OWN_POLICIES)
@pytest.mark.parametrize("config", [CONFIG, OWN_TAXONOMY], ids=["default names", "own names"])
def test_untouched_controls_change_nothing(own, config):
    if config is OWN_TAXONOMY:
        own = {name: value for name, value in own.items() if not isinstance(value, dict)}
    policy, controls = start(own, config)
    assert controls.to_policy(policy, config) == {}
    assert Controls.from_values(controls.values(), config) == controls


@pytest.mark.parametrize(
    "moved, expected",
    [
        ({"risk_threshold": 0.3}, {"risk_threshold": 0.3}),
        ({"language": "fr"}, {"language": "fr"}),
        ({"remembered_turns": 1}, {"remembered_turns": 1}),
        ({"review_threshold": 0.2}, {"review_thresholds": {"*": 0.2}}),
        (
            {"actions": {"low": "answer", "medium": "condition", "high": "refuse"}},
            {"actions": {"*": {"low": "answer", "medium": "condition", "high": "refuse"}}},
        ),
    ],
)
def test_what_was_moved_is_the_policy(moved, expected):
    policy, controls = start({})
    found = replace(controls, **moved).to_policy(policy, CONFIG)
    assert found == expected
    assert SafetyPolicy.create(json.loads(json.dumps(found)), CONFIG).to_dict()  # `--policy` takes it


@pytest.mark.parametrize("own", OWN_POLICIES)
def test_the_policy_does_what_the_controls_show(own):
    rng = random.Random(0)
    policy, controls = start(own)
    for _ in range(100):
        moved = replace(
            controls,
            risk_threshold=rng.choice((0.1, 0.5)),
            switches={name: rng.random() < 0.7 for name in controls.switches},
            has_threshold={name: rng.random() < 0.5 for name in controls.switches},
            thresholds={name: rng.choice((0.2, 0.5, 0.9)) for name in controls.thresholds},
            review_threshold=0.0,
        )
        if "review_thresholds" in own:
            moved.thresholds["politics"] = 0.9  # its own review band begins at 0.3
        applied = policy.override(moved.to_policy(policy, CONFIG), CONFIG)
        assert (applied.risk_threshold or 0.5) == moved.risk_threshold
        for name, is_on in moved.switches.items():
            assert applied.is_on(name) == is_on
            if is_on:
                assert applied.threshold(name) == (moved.thresholds[name] if moved.has_threshold[name] else None)
        assert [applied.action("fairness", level, CONFIG) for level in CONFIG.levels[1:]] == [
            policy.action("fairness", level, CONFIG) for level in CONFIG.levels[1:]
        ]


def test_controls_that_contradict_each_other_say_so():
    policy, controls = start({})
    falling = replace(controls, actions={"low": "refuse", "medium": "condition", "high": "condition"})
    with pytest.raises(ValueError, match="fall as the level rises"):
        falling.to_policy(policy, CONFIG)
    has_threshold = {**controls.has_threshold, "privacy": True}
    band = replace(controls, review_threshold=0.8, has_threshold=has_threshold)
    with pytest.raises(ValueError, match="review band"):
        band.to_policy(policy, CONFIG)


def test_values_that_no_control_has_are_refused():
    policy, controls = start({})
    for moved in (
        {"switches": {**controls.switches, "privacy": "<b>always</b>"}},
        {"switches": {**controls.switches, "privacy": ["off"]}},
        {"has_threshold": {**controls.has_threshold, "privacy": None}},
        {"risk_threshold": 7},
        {"risk_threshold": "0.5"},
        {"remembered_turns": 1.5},
        {"language": {"en": 1}},
        {"actions": {"low": "answer", "medium": "answer", "high": "enabled"}},
    ):
        with pytest.raises(ValueError):
            replace(controls, **moved).to_policy(policy, CONFIG)


def test_controls_start_where_the_checkpoint_stands():
    _, controls = start(OWN_POLICIES[3])
    assert controls.has_threshold["privacy"] and controls.thresholds["privacy"] == 0.9
    _, controls = start(OWN_POLICIES[2])
    assert controls.switches["privacy"] and not controls.switches["politics"]
    assert not any(controls.has_threshold.values())
    _, controls = start(OWN_POLICIES[4])
    assert controls.actions == {"low": "condition", "medium": "condition", "high": "refuse"}
    assert controls.remembered_turns == MAX_TURNS
    assert list(controls.switches) == risky_categories(CONFIG)
