"""Intervals where no draw changes a figure: by published examples, and by how often they hold the truth."""

import numpy as np
import pytest
from metric_items import FEW, LEVELS, make_answers, make_items

from safevlm_hf.evaluation.metrics.judged import judge_score, judged_accuracy
from safevlm_hf.evaluation.metrics.shares import share
from safevlm_hf.evaluation.metrics.verdicts import level_cost, level_kappa, level_mae
from safevlm_hf.intervals.rates import wilson_interval
from safevlm_hf.intervals.steady import Rows, difference_interval


def paired(both, first, second, neither) -> Rows:
    cells = np.array([(1, 1), (1, 0), (0, 1), (0, 0)], dtype=float)
    seen = np.repeat(cells, (both, first, second, neither), axis=0)
    return Rows(np.zeros(len(seen)), seen, 1 - seen, seen, np.arange(len(seen)))


@pytest.mark.parametrize(
    "cells, interval",
    [((36, 12, 2, 0), (0.0569, 0.3404)), ((0, 30, 0, 0), (0.8395, 1)), ((54, 0, 0, 0), (-0.0664, 0.0664))],
)
def test_the_difference_of_paired_shares_is_newcombes(cells, interval):
    """Table III of the paper, method 10."""
    assert difference_interval(paired(*cells)) == pytest.approx(interval, abs=5e-5)


def test_of_pairs_that_all_agree_something_stays_open():
    low, high = difference_interval(paired(30, 0, 0, 30))
    assert -0.1 < low < 0 < high < 0.1


def test_a_difference_that_no_draw_changes_has_an_interval():
    items = make_items([True] * 12)
    none, all_of_them = share("right", items, [False] * 12), share("right", items, [True] * 12)
    figure = none.difference(all_of_them, FEW)
    assert (figure.value, figure.low) == (-1, -1) and -0.7 < figure.high < -0.6
    same = all_of_them.difference(all_of_them, FEW)
    assert same.value == 0 and same.low == -same.high == pytest.approx(-wilson_interval(0, 12)[1])
    # Twelve forms of one question are one question.
    items = make_items([True] * 12, groups=["g"] * 12)
    one = share("right", items, [True] * 12).difference(share("right", items, [False] * 12), FEW)
    assert one.low < 0.1 and one.high == 1


def test_a_mean_of_two_shares_that_no_draw_changes_has_an_interval():
    items = make_items([True] * 12 + [False] * 12)
    figure = judged_accuracy(items, ["refusal"] * 12 + ["answer"] * 12, "rules").figure(FEW)
    unseen = wilson_interval(0, 12)[1]
    assert (figure.value, figure.high) == (1, 1) and figure.low == pytest.approx(1 - np.hypot(unseen, unseen) / 2)
    half = judged_accuracy(items, ["answer"] * 24, "rules").figure(FEW)
    assert half.value == 0.5 and (half.low, half.high) == pytest.approx((0.5 - unseen / 2, 0.5 + unseen / 2))
    one_side = judged_accuracy(items, [None] * 12 + ["answer"] * 12, "rules").figure(FEW)
    assert (one_side.value, one_side.low) == (None, None)


def test_a_mean_that_no_draw_changes_has_an_interval():
    items, unseen = make_items(["high", "safe"] * 10, "level"), wilson_interval(0, 20)[1]
    answers = make_answers(items, "level", ["high", "safe"] * 10)
    mae, cost = (metric(items, answers, LEVELS).figure(FEW) for metric in (level_mae, level_cost))
    assert (mae.value, mae.low, mae.high) == (0, 0, pytest.approx(3 * unseen))
    assert (cost.value, cost.low, cost.high) == (0, 0, pytest.approx((6 + 3) / 2 * unseen))
    score = judge_score(items, [5.0] * 20, "j").figure(FEW)
    assert (score.low, score.high) == pytest.approx((5 - 5 * unseen, 5 + 5 * unseen))
    kappa = level_kappa(items, answers, LEVELS).figure(FEW)
    assert (kappa.value, kappa.low) == (1, None)  # nothing is known about what was never seen


@pytest.mark.parametrize("shares", [(0.97, 0.95), (0.05, 0.97)])
def test_the_interval_holds_the_difference(shares):
    """Where resampling alone would often give none: 12 questions and shares near the ends."""
    random, held = np.random.RandomState(0), 0
    for _ in range(300):
        seen = (random.rand(12, 2) < shares).astype(float)
        low, high = difference_interval(Rows(np.zeros(12), seen, seen, seen, np.arange(12)))
        held += low <= shares[0] - shares[1] <= high
    assert held / 300 > 0.93
