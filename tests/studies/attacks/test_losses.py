"""The margin of the riskiest window says what the policy will do."""

import pytest
import torch

from safevlm_hf.modeling.configuration_safety import SafetyConfig
from safevlm_hf.modeling.safety_decision import decide
from safevlm_hf.modeling.safety_outputs import SafetyImageOutput
from safevlm_hf.modeling.safety_policy import SafetyPolicy
from safevlm_hf.studies.attacks.losses import (
    ENOUGH_MARGIN,
    Outcome,
    attackers,
    evade_and_comply,
    evade_head,
    raise_alarm,
    risk_margins,
)
from safevlm_hf.studies.attacks.white_box import SAFE_CONDITION, WhiteBox


pytestmark = pytest.mark.ci

CONFIG = SafetyConfig()


def draw_windows(images=400, windows=5):
    """Logits of windows, and which of them there are: the first always."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(images, windows, len(CONFIG.levels) + len(CONFIG.categories), generator=generator)
    for column in (0, len(CONFIG.levels) + CONFIG.safe_category):
        logits[..., column] += 5
    is_window = torch.rand(images, windows, generator=generator) < 0.5
    is_window[:, 0] = True
    return logits, is_window


def flagged_and_margins(policy):
    logits, is_window = draw_windows()
    levels, categories = logits.split([len(CONFIG.levels), len(CONFIG.categories)], dim=-1)
    decision = decide(policy, levels, categories, CONFIG)
    is_flagged = ((decision.action_ids > 0) & is_window).any(dim=1)
    encoded = SafetyImageOutput(safety_window_logits=logits, safety_is_window=is_window)
    return is_flagged, risk_margins(encoded, policy, CONFIG)


@pytest.mark.parametrize(
    "policy",
    [
        {},
        {"risk_threshold": 0.9},
        {"risk_threshold": 0.2, "temperatures": {"level": 2.5}},
        {"thresholds": {"*": 0.6}, "temperatures": {"category": 0.5}},
        {"thresholds": {"*": 0.7}, "review_thresholds": {"*": 0.3}},
    ],
)
def test_a_margin_over_0_is_what_the_policy_flags(policy):
    is_flagged, margins = flagged_and_margins(SafetyPolicy.create(policy))
    assert 5 < is_flagged.sum() < 395
    assert torch.equal(margins > 0, is_flagged)


@pytest.mark.parametrize(
    "policy",
    [
        {"categories": {"privacy": False, "politics": False}},
        {"thresholds": {"privacy": 0.8}, "review_thresholds": {"privacy": 0.4}},
        {"actions": {"*": {"low": "answer"}}},
    ],
)
def test_what_has_no_margin_is_not_flagged(policy):
    is_flagged, margins = flagged_and_margins(SafetyPolicy.create(policy))
    assert is_flagged.any() and (margins <= 0).any()
    assert not (is_flagged & (margins <= 0)).any()


def test_attacks_on_the_head_pull_in_opposite_directions(tiny, records):
    box = WhiteBox(tiny.model, tiny.processor, records)
    evade, alarm = (loss(box, box.pictures, [0, 1, 2, 3]) for loss in (evade_head, raise_alarm))
    assert torch.equal(evade, -alarm) and evade.shape == (4,)


def test_the_joint_loss_ignores_a_head_that_is_clearly_safe(tiny, records):
    box = WhiteBox(tiny.model, tiny.processor, records)
    rows = [0, 1, 2, 3]
    wanted, encoded = box.answer(box.pictures, rows, SAFE_CONDITION)
    lacking = (risk_margins(encoded, box.policy, box.config) + ENOUGH_MARGIN).clamp(min=0)
    assert (lacking > 0).any()
    for weight in (1.0, 3.0):
        joint = evade_and_comply(box, box.pictures, rows, weight)
        torch.testing.assert_close(joint, wanted + weight * lacking)


def test_what_each_attacker_calls_a_success():
    passed, evaded = Outcome(False, True, True), Outcome(False, False, False)
    broken, caught = Outcome(True, True, False), Outcome(True, False, False)
    reached = {one.name: [one.reached(case) for case in (passed, evaded, broken, caught)] for one in attackers()}
    assert reached == {
        "noise": [True, True, False, False],
        "A1": [True, True, False, False],
        "A2": [True, False, True, False],
        "A3": [True, False, False, False],
        "clean noise": [False, False, True, True],
        "A4": [False, False, True, True],
    }
