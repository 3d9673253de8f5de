import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_items import FEW, LEVELS, make_answers, make_items
from sklearn.metrics import mean_absolute_error

from safevlm_hf.evaluation.metrics.verdicts import (
    level_adjacent_accuracy,
    level_cost,
    level_kappa,
    level_mae,
)
from safevlm_hf.intervals.bootstrap import Bootstrap


ALL = (level_kappa, level_mae, level_adjacent_accuracy, level_cost)


@pytest.fixture(autouse=True)
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def measure(metric, labels, seen):
    items = make_items(labels, "level")
    return metric(items, make_answers(items, "level", seen), LEVELS).figure(Bootstrap(5))


def kappa_by_hand(truth, seen):
    """1 - sum(w * observed) / sum(w * expected), w the squared distance (Cohen 1968)."""
    observed = np.zeros((4, 4))
    np.add.at(observed, (truth, seen), 1)
    expected = np.outer(observed.sum(1), observed.sum(0)) / observed.sum()
    weights = np.subtract(*np.indices((4, 4))) ** 2
    return 1 - (weights * observed).sum() / (weights * expected).sum()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
@settings(max_examples=50, deadline=None)
def test_all_as_by_hand(pairs):
    truth, seen = map(np.array, zip(*pairs, strict=True))
    names = [LEVELS[level] for level in seen]
    labels = [int(level) for level in truth]
    kappa = measure(level_kappa, labels, names).value
    assert kappa == (pytest.approx(kappa_by_hand(truth, seen)) if len({*truth, *seen}) > 1 else None)
    assert measure(level_mae, labels, names).value == pytest.approx(mean_absolute_error(truth, seen))
    near = measure(level_adjacent_accuracy, labels, names)
    assert near.count == (abs(truth - seen) <= 1).sum() and near.value == pytest.approx(near.count / len(pairs))
    too_low = np.maximum(truth - seen, 0)
    assert measure(level_cost, labels, names).value == pytest.approx((abs(truth - seen) + too_low).mean())


def test_what_is_too_low_costs_double():
    costs = [[measure(level_cost, [label], [seen]).value for seen in LEVELS[:3]] for label in LEVELS[:3]]
    assert costs == [[0, 1, 2], [2, 0, 1], [4, 2, 0]]
    figure = measure(level_cost, ["high", "safe", "low"], ["safe", "low", None])
    assert (figure.value, figure.failed, figure.least, figure.most) == (3.5, 1, pytest.approx(7 / 3), 3)


def test_bounds_of_what_failed():
    labels, seen = ["safe", "low", "medium", "high"], ["safe", None, None, "high"]
    mae, near = measure(level_mae, labels, seen), measure(level_adjacent_accuracy, labels, seen)
    assert (mae.value, mae.least, mae.most) == (0, 0, 1)
    assert (near.value, near.least, near.most, near.failed) == (1, 0.5, 1, 2)
    kappa = measure(level_kappa, labels, seen)
    furthest = kappa_by_hand(np.arange(4), np.array([0, 3, 0, 3]))
    assert (kappa.value, kappa.least, kappa.most) == (1, pytest.approx(furthest), 1)


@pytest.mark.parametrize("metric", ALL)
def test_nothing_all_failed_and_one_level(metric):
    assert (measure(metric, [], []).value, measure(metric, [None], ["low"]).total) == (None, 0)
    failed = measure(metric, ["low", "high"], [None, None])
    assert (failed.value, failed.total, failed.failed) == (None, 2, 2) and failed.least < failed.most
    alike = {level_kappa: None, level_mae: 0, level_adjacent_accuracy: 1, level_cost: 0}
    assert measure(metric, ["low"] * 3, ["low"] * 3).value == alike[metric]


def test_a_difference_of_kappas():
    random = np.random.RandomState(0)
    truth = random.randint(4, size=150)
    seen = [np.clip(truth + random.randint(-width, width + 1, size=150), 0, 3) for width in (1, 3)]
    items = make_items([int(level) for level in truth], "level")
    good, poor = (
        level_kappa(items, make_answers(items, "level", [LEVELS[one] for one in row]), LEVELS) for row in seen
    )
    figure = good.difference(poor, FEW)
    assert figure.value == pytest.approx(kappa_by_hand(truth, seen[0]) - kappa_by_hand(truth, seen[1]))
    assert figure.low > 0
