import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_items import FEW, LEVELS, make_answers, make_items
from sklearn.metrics import f1_score, roc_auc_score

from safevlm_hf.evaluation.metrics.verdicts import category_macro_f1, level_macro_f1, risk_auroc, risk_ece
from safevlm_hf.intervals.bootstrap import Bootstrap
from safevlm_hf.intervals.reliability import expected_calibration_error


NAMES = ("privacy", "politics", "safe")
RISKS = st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=40)


@pytest.fixture(autouse=True)
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), min_size=1, max_size=30))
@settings(max_examples=40, deadline=None)
def test_macro_f1_over_the_labels_that_occur(pairs):
    labels, seen = map(list, zip(*pairs, strict=True))
    items = make_items(labels, "category")
    figure = category_macro_f1(items, make_answers(items, "category", seen), NAMES).figure(Bootstrap(3))
    expected = f1_score(labels, seen, labels=sorted(set(labels)), average="macro", zero_division=0)
    assert (figure.name, figure.value) == ("category_macro_f1", pytest.approx(expected))


def test_macro_f1_by_hand():
    items = make_items(["safe", 0, "high", 3, None], "level")
    answers = make_answers(items, "level", ["safe", "high", "high", None, "low"])
    figure = level_macro_f1(items, answers, LEVELS).figure(FEW)
    # Known: safe 1 of 2 found, high 1 of 1 found with one false alarm: both 2 / 3.
    assert (figure.value, figure.total, figure.failed) == (pytest.approx(2 / 3), 4, 1)
    assert figure.least is figure.most is None  # what the failed one could have been at worst is not known


def test_names_of_another_scheme_are_an_error():
    items = make_items(["privacy violation"], "category")
    with pytest.raises(ValueError, match="'category' of '00000' is 'privacy violation', expected one of privacy, "):
        category_macro_f1(items, make_answers(items, "category", ["privacy"]), NAMES)
    items = make_items(["privacy"], "category")
    with pytest.raises(ValueError, match="category of the answer to '00000' is '<b>'"):
        category_macro_f1(items, make_answers(items, "category", ["<b>"]), NAMES)
    for level in (4, -1, True, 1.0):
        with pytest.raises(ValueError, match="label 'level' of '00000'"):
            level_macro_f1(make_items([level], "level"), make_answers(items, "level", ["low"]), LEVELS)


@given(RISKS)
@settings(max_examples=40, deadline=None)
def test_auroc_and_ece_as_elsewhere(rows):
    risky, risks = map(list, zip(*rows, strict=True))
    items = make_items(risky)
    answers = make_answers(items, "risk", risks)
    auroc = risk_auroc(items, answers).figure(Bootstrap(3))
    assert auroc.value == (pytest.approx(roc_auc_score(risky, risks)) if len({*risky}) == 2 else None)
    ece = risk_ece(items, answers).figure(Bootstrap(3))
    assert ece.value == pytest.approx(expected_calibration_error(risks, risky), abs=1e-9)


def test_intervals_of_auroc_hold_the_value():
    random = np.random.RandomState(0)
    risky = [bool(side) for side in random.randint(2, size=200)]
    risks = [float(value) for value in np.clip(0.3 * np.array(risky) + 0.7 * random.rand(200), 0, 1)]
    items = make_items(risky)
    figure = risk_auroc(items, make_answers(items, "risk", risks)).figure(Bootstrap(200))
    assert 0.5 < figure.low < figure.value < figure.high < 1


def test_risks_that_are_no_numbers_have_failed():
    items = make_items([True, True, False, False])
    answers = make_answers(items, "risk", [0.9, math.nan, 0.1, math.inf])
    auroc, ece = risk_auroc(items, answers).figure(FEW), risk_ece(items, answers).figure(FEW)
    assert (auroc.value, auroc.total, auroc.failed, auroc.least, auroc.most) == (1, 4, 2, 0.25, 1)
    assert (ece.value, ece.least, ece.most) == (pytest.approx(0.1), None, None)


def test_a_risk_outside_is_an_error():
    items = make_items([True])
    with pytest.raises(ValueError, match="risk of '00000' is 1.5, expected 0 to 1"):
        risk_auroc(items, make_answers(items, "risk", [1.5]))
    assert risk_ece(items, make_answers(items, "risk", [1 + 1e-9])).figure(FEW).value == 0


@pytest.mark.parametrize("metric", [risk_auroc, risk_ece])
def test_nothing_and_all_failed(metric):
    for items in ([], make_items([None, None])):
        figure = metric(items, make_answers(items, "risk", [0.5] * len(items))).figure(FEW)
        assert (figure.value, figure.low, figure.total) == (None, None, 0)
    items = make_items([True, False])
    figure = metric(items, make_answers(items, "risk", [None, None])).figure(FEW)
    assert (figure.value, figure.failed) == (None, 2)
    assert (figure.least, figure.most) == ((0, 1) if metric is risk_auroc else (None, None))
