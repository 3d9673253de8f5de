"""Policies at work in the report, on a model whose verdicts are set by hand."""

import pytest
import torch

from safevlm_hf.evaluation.answering import answer_records
from safevlm_hf.evaluation.held_out.control import POLICIES, draw_explanations, try_policies
from safevlm_hf.evaluation.reports.control_parts import explanations_section, policies_section
from safevlm_hf.evaluation.reports.pages import render_section
from safevlm_hf.modeling.configuration_safety import DEFAULT_CATEGORIES


@pytest.fixture
def high_privacy(nano_model):
    """Every picture is privacy, high."""
    head = nano_model.model.safety_head
    with torch.no_grad():
        for linear, answer in ((head.level_head, 3), (head.category_head, 4)):
            linear.weight.zero_()
            linear.bias.zero_()
            linear.bias[answer] = 9.0
        nano_model.model.safety_conditions.weight[1:].normal_(std=3.0)  # an answer that nobody could read
    return nano_model


def test_policies_at_work(high_privacy, nano_processor, riskcards):
    records = list(riskcards)[:4]
    defaults = answer_records(high_privacy, nano_processor, records, progress=False)
    off, moved, forced = try_policies(high_privacy, nano_processor, records)
    assert [trial.policy for trial in (off, moved, forced)] == [policy for _, _, policy in POLICIES]
    assert {one.verdict.action for one in off.predictions} == {"answer"}
    assert {one.verdict.action for one in moved.predictions} == {"condition"}
    assert all(forced.is_fixed(one) for one in forced.predictions)
    assert not any(off.is_fixed(one) for one in off.predictions)
    page = render_section(policies_section([off, moved, forced], defaults, DEFAULT_CATEGORIES))
    assert page.count("<h3>") == 3 and "data:image/jpeg;base64," in page
    assert "&#34;privacy&#34;: false" in page and "private data" in page
    assert "No answer changed." in page  # by the moved threshold: nothing here is misleading


def test_explanations_are_drawn(high_privacy, nano_processor, riskcards):
    (drawing,) = draw_explanations(high_privacy, nano_processor, list(riskcards)[:1])
    assert drawing.startswith(b"\x89PNG")
    found = {
        "num_samples": 3,
        "mass": 0.5,
        "area_share": 0.1,
        "mass_ratio": 5.0,
        "random_ratio": 1.0,
        "best_ratio": 10.0,
    }
    page = render_section(explanations_section([drawing], {"region": found}))
    assert "data:image/png;base64," in page and "5.00" in page
    assert explanations_section([], None) is policies_section([], [], []) is None
