"""A checkpoint's policy under one of its operator's that refuses."""

import json
from itertools import chain

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from safevlm_hf import SafetyConfig, SafetyPolicy
from safevlm_hf.modeling.operator_policy import describe_silencing, enforced_policy, merge_policies, silencing_settings
from safevlm_hf.modeling.safety_decision import decide
from safevlm_hf.modeling.safety_policy import ACTIONS, REFUSE


CONFIG = SafetyConfig()
RISKY = [name for name in CONFIG.categories if name != "safe"]
REFUSE_ALL = {"actions": {"*": {"low": "refuse"}}}


def found(own: dict, **operator) -> dict:
    policies = (SafetyPolicy.create(own), SafetyPolicy.create({**REFUSE_ALL, **operator}))
    return silencing_settings(*policies, CONFIG)


def test_an_error_of_merged_policies_names_its_source():
    own, review = (
        ("the checkpoint's policy", {"thresholds": {"privacy": 0.2}}),
        {"review_thresholds": {"privacy": 0.3}},
    )
    merged = merge_policies([own, ("a file", None), ("the call", {"thresholds": {"*": 0.4}})], CONFIG)
    assert merged == SafetyPolicy(thresholds={"*": 0.4})
    with pytest.raises(ValueError, match="^the call: Unknown keys in the safety policy: .'threshold'."):
        merge_policies([own, ("the call", {"threshold": 0.5})], CONFIG)
    with pytest.raises(ValueError, match="^the call, over the checkpoint's policy: Contradiction"):
        merge_policies([own, ("a file", None), ("the call", review)], CONFIG)
    with pytest.raises(ValueError, match="^the operator's policy, over the checkpoint's policy: Contradiction"):
        enforced_policy(own[1], review, CONFIG)


@pytest.mark.parametrize(
    "own",
    [
        {"thresholds": {"*": 0.5}, "temperatures": {"category": 5.0}},
        {"enabled": False, "thresholds": {"*": 1.0}},
        {"thresholds": {"privacy": 1e-300}},
        {"temperatures": {"level": 0.9999}},
        {"temperatures": {"level": 1.0001}},
        {"categories": {"privacy": False}},
        {"risk_threshold": 0.51},
        {"remembered_turns": 1000},
    ],
)
def test_what_could_silence_a_refusal_stops_the_start(own):
    assert found(own) == own
    with pytest.raises(ValueError, match="operator's does not name") as raised:
        enforced_policy(own, REFUSE_ALL, CONFIG)
    assert json.dumps(own) in str(raised.value)
    # Without a refusal of the operator's, and with every key named, it is the operator's own choice.
    assert enforced_policy(own, {"language": "de"}, CONFIG).language == "de"
    assert enforced_policy(own, {**own, **REFUSE_ALL}, CONFIG) == SafetyPolicy(**own, **REFUSE_ALL)


@pytest.mark.parametrize(
    "own",
    [
        {},
        {"enabled": True, "categories": {"privacy": True}, "risk_threshold": 0.5, "temperatures": {"level": 1}},
        {"thresholds": {"privacy": 0, "*": None}, "risk_threshold": 0.1},
        {"review_thresholds": {"*": 0.9, "privacy": 0.01}},
        {"actions": {"*": {"low": "condition"}}, "refusals": {"*": "No."}, "language": "fr"},
    ],
)
def test_what_silences_nothing_starts(own):
    assert found(own) == {}
    assert enforced_policy(own, {"actions": {"*": {"high": "refuse"}}}, CONFIG).refuses(CONFIG)


@pytest.mark.parametrize(
    "own, operator, left",
    [
        # The operator names one category, and the others are the checkpoint's.
        ({"thresholds": {"*": 0.3}}, {"thresholds": {"privacy": 0.8}}, {"thresholds": {"*": 0.3}}),
        ({"thresholds": {"*": 0.3}}, {"thresholds": {"*": None}}, {}),
        ({"thresholds": {"*": 0.3}}, {"thresholds": dict.fromkeys(RISKY, 0.8)}, {}),
        ({"thresholds": {"privacy": 0.3, "politics": 0.2}}, {"thresholds": {"privacy": 0.8}}, "politics"),
        ({"categories": {"privacy": False, "politics": False}}, {"categories": {"privacy": False}}, "politics"),
        ({"categories": {"*": False}}, {"categories": {"privacy": True}}, {"categories": {"*": False}}),
        # What the operator has switched off is not the checkpoint's to silence.
        ({"thresholds": {"privacy": 0.3}}, {"categories": {"privacy": False}}, {}),
        ({"temperatures": {"level": 2.0, "category": 3.0}}, {"temperatures": {"level": 1.0}}, "category"),
        # Nothing names a key but the key: an empty map, and another key, do not.
        ({"thresholds": {"*": 0.3}}, {"thresholds": {}, "risk_threshold": 0.1}, {"thresholds": {"*": 0.3}}),
    ],
)
def test_a_key_is_named_for_the_categories_that_the_operator_sets(own, operator, left):
    if isinstance(left, str):
        left = {part: {left: values[left]} for part, values in own.items()}
    assert found(own, **operator) == left


def test_a_taxonomy_of_ones_own():
    config = SafetyConfig(categories=["spam", "safe", "fraud"], levels=["safe", "bad"])
    own, refuse = {"thresholds": {"fraud": 0.5}}, {"actions": {"fraud": {"bad": "refuse"}}}
    assert '{"thresholds": {"fraud": 0.5}}' in describe_silencing(own, refuse, config)
    assert describe_silencing(own, {**refuse, "thresholds": {"fraud": 0.5}}, config) is None


# --------------------------------------------------------------------------------------------------
# Random policies of checkpoints
# --------------------------------------------------------------------------------------------------

names = st.sampled_from([*RISKY, "*"])
probabilities = st.none() | st.sampled_from([0.0, 1e-6, 0.3, 0.5, 1.0]) | st.floats(0, 1)
temperatures = st.sampled_from([0.05, 0.5, 0.9, 1.0, 1.1, 2.0, 5.0, 100.0])
detection = {
    "enabled": st.booleans(),
    "categories": st.dictionaries(names, st.booleans(), max_size=2),
    "risk_threshold": st.sampled_from([0.0, 0.2, 0.5, 0.50001, 1.0]),
    "thresholds": st.dictionaries(names, probabilities, max_size=2),
    "review_thresholds": st.dictionaries(names, probabilities, max_size=2),
    "temperatures": st.dictionaries(st.sampled_from(["level", "category"]), temperatures),
}
actions = st.dictionaries(st.sampled_from(CONFIG.levels[1:]), st.sampled_from(["condition", "refuse"]), min_size=1)
all_actions = st.dictionaries(names, actions, min_size=1, max_size=2)


refusing = st.sampled_from(
    [{"*": {"low": "refuse"}}, {"*": {"high": "refuse"}}, {"*": {"high": "refuse"}, "privacy": {"low": "refuse"}}]
)


@st.composite
def some_of(draw, parts: dict, least: int, most: int):
    """A few settings, so that many draws are as strict as the default."""
    chosen = draw(st.lists(st.sampled_from(sorted(parts)), min_size=least, max_size=most, unique=True))
    return {name: draw(parts[name]) for name in chosen}


own_policies = some_of({**detection, "actions": all_actions}, 1, 2)
operator_policies = st.builds(lambda actions, more: {"actions": actions, **more}, refusing, some_of(detection, 0, 3))


def verdict_logits(seed: int) -> list[torch.Tensor]:
    """Of sure and of unsure heads, and on the edge: where safe is as probable as every risk together."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.tensor([0.1, 1.0, 4.0, 20.0]).repeat_interleave(16)[:, None]
    return [torch.randn(64, size, generator=generator) * scales for size in (4, 7)]


@settings(max_examples=300, deadline=None)
@given(own_policies, operator_policies, st.integers(0, 2**31))
@pytest.mark.ci
def test_whatever_starts_flags_what_the_default_flags(own, operator, seed):
    try:
        own, operator = SafetyPolicy.create(own), SafetyPolicy.create(operator)
    except ValueError:
        assume(False)
    assume(operator.refuses(CONFIG))
    try:
        together = enforced_policy(own, operator, CONFIG)
    except ValueError:  # it does not start
        return
    by_default, in_force = (decide(policy, *verdict_logits(seed), CONFIG) for policy in (operator, together))
    assert (in_force.flagged | ~by_default.flagged).all()
    assert (in_force.action_ids >= by_default.action_ids).all()
    assert (in_force.action_ids == REFUSE)[by_default.action_ids == REFUSE].all()
    assert own.remembered_turns is None or operator.remembered_turns is not None


def test_the_edges_of_every_key():
    """Each setting alone, under an operator that names nothing else: it stops the start, or flags as much."""
    steps = [0.0, 1e-6, 0.1, 0.49, 0.5, 0.51, 0.9, 1.0]
    alone = chain(
        ({"risk_threshold": step} for step in steps),
        ({"thresholds": {name: step}} for step in steps for name in ("*", "privacy")),
        ({"review_thresholds": {name: step}} for step in steps for name in ("*", "privacy")),
        ({"temperatures": {part: t}} for t in (0.05, 0.99, 1.0, 1.01, 5.0, 100.0) for part in ("level", "category")),
        ({"categories": {name: is_on}} for is_on in (True, False) for name in ("*", "privacy")),
        ({"enabled": is_on} for is_on in (True, False)),
    )
    default = decide(SafetyPolicy(**REFUSE_ALL), *verdict_logits(0), CONFIG)
    num_started = 0
    for own in alone:
        if found(own):
            continue
        num_started += 1
        decision = decide(enforced_policy(own, REFUSE_ALL, CONFIG), *verdict_logits(0), CONFIG)
        assert (decision.flagged | ~default.flagged).all() and (decision.action_ids >= default.action_ids).all(), own
    assert num_started > 20 and ACTIONS[default.action_ids.max()] == "refuse"
