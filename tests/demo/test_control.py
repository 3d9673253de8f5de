"""Policies at work in the report, on a model whose verdicts are set by hand."""

from dataclasses import replace
from html import escape

import pytest
import torch
from support.html_page import Page

from safevlm_hf.benchmarks.benchmark import user_turn
from safevlm_hf.benchmarks.riskcards import items_of
from safevlm_hf.demo.control import POLICIES, draw_explanations, try_policies
from safevlm_hf.demo.control_parts import explanations_section, policies_section
from safevlm_hf.evaluation.answering_records import give_answers, give_verdicts
from safevlm_hf.modeling.configuration_safety import DEFAULT_CATEGORIES
from safevlm_hf.reports.pages import render_section


pytestmark = pytest.mark.ci


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
    defaults = give_answers(high_privacy, nano_processor, records, progress=False)
    off, moved, forced = try_policies(high_privacy, nano_processor, records)
    assert [trial.policy for trial in (off, moved, forced)] == [policy for _, _, policy in POLICIES]
    assert {one.action for one in off.answers} == {"answer"}
    assert {one.action for one in moved.answers} == {"condition"}
    assert all(forced.is_fixed(one) for one in forced.answers)
    assert not any(off.is_fixed(one) for one in off.answers)
    rows = list(zip(items_of(records), defaults, strict=True))
    page = render_section(policies_section([off, moved, forced], rows, DEFAULT_CATEGORIES))
    assert page.count("<h3>") == 4 and "data:image/jpeg;base64," in page
    assert "&#34;privacy&#34;: false" in page
    fixed = "This service does not answer that."
    compared, of_off, of_moved, of_forced = page.split("<h3>")[1:]
    for name, action in (("default policy", "condition"), (off.name, "answer"), (forced.name, "refuse")):
        assert f"<b>{name} ({action})</b>" in compared  # one record's answers under all of them
    assert fixed in compared and fixed in of_forced
    assert "Privacy is off, the other categories stay on. The counts change in" in of_off
    # By the moved threshold nothing changes, for nothing here is misleading: the answers are shown all the same.
    assert "Answers that changed: 0 of 4" in of_moved and of_moved.count("(condition)</b>") == 2
    assert "<b>default policy (condition)</b>" in of_off and "<b>this policy (answer)</b>" in of_off


def test_explanations_are_drawn(high_privacy, nano_processor, riskcards):
    records = list(riskcards)[:1]
    (drawing,) = draw_explanations(high_privacy, nano_processor, records)
    assert drawing.startswith(b"\x89PNG")
    (explained,) = give_verdicts(high_privacy, nano_processor, records, progress=False)
    item = replace(items_of(records)[0], messages=user_turn("Who lives here, and where? " * 20 + "<b>"))
    found = {
        "num_samples": 3,
        "mass": 0.5,
        "area_share": 0.1,
        "mass_ratio": 5.0,
        "random_ratio": 1.0,
        "best_ratio": 10.0,
        "intervals": {"mass": [0.42, 0.58]},
    }
    html = render_section(explanations_section([drawing], {"region": found}, [(item, explained)]))
    assert "data:image/png;base64," in html and "5.00" in html and "0.500<small>(0.42 to 0.58)</small>" in html
    # What the drawing shows stands beside it as text, the question whole.
    verdict = f"privacy, high · risk {explained.risk:.2f} · condition"
    assert f"<b>{escape(item.question)}</b><br>Verdict: {verdict}" in html
    (alt,) = (attributes["alt"] for attributes, _ in Page(html).of("img"))
    assert alt.startswith(f"Verdict: {verdict}.") and "Categories: privacy 1.00, " in alt
    assert explanations_section([], None) is policies_section([], [], []) is None
