import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from safevlm_hf.intervals.areas import PRECISION, ROC, area_intervals, weighted_areas
from safevlm_hf.intervals.bootstrap import Bootstrap


def test_areas_are_scikit_learns_with_ties_and_weights():
    random = np.random.RandomState(0)
    for _ in range(20):
        scores, is_positive = random.randint(0, 9, 60) / 8, random.rand(60) < 0.3
        weights = random.randint(0, 4, 60).astype(float)
        found = weighted_areas(scores, is_positive, weights)
        assert found[ROC] == pytest.approx(roc_auc_score(is_positive, scores, sample_weight=weights))
        assert found[PRECISION] == pytest.approx(average_precision_score(is_positive, scores, sample_weight=weights))


def test_intervals_are_those_of_groups():
    random = np.random.RandomState(1)
    is_positive = random.rand(200) < 0.4
    scores = is_positive + random.randn(200)
    alone = area_intervals(scores, is_positive, range(200))
    low, high = alone[ROC]
    assert low < roc_auc_score(is_positive, scores) < high and high - low < 0.2
    # Everything twice says no more.
    doubled = area_intervals(np.tile(scores, 2), np.tile(is_positive, 2), [*range(200)] * 2)
    assert doubled[ROC] == pytest.approx(alone[ROC]) and doubled[PRECISION] == pytest.approx(alone[PRECISION])


def test_what_no_draw_changes_has_none():
    is_positive = np.array([True, False] * 10)
    assert area_intervals(is_positive.astype(float), is_positive, range(20), Bootstrap(50)) == {}
    assert np.isnan(weighted_areas(np.ones(3), np.ones(3, dtype=bool), np.ones(3))[ROC])
