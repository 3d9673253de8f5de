import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from safevlm_hf.calibration.curves import PRECISION, ROC, area_intervals
from safevlm_hf.intervals.bootstrap import Bootstrap


def test_areas_are_scikit_learns_with_ties_and_weights():
    random = np.random.RandomState(0)
    scores, is_positive = random.randint(0, 9, 60) / 8, random.rand(60) < 0.3
    draws = []

    class Draws(Bootstrap):
        def intervals(self, statistics, clusters):
            def noted(weights):
                areas = statistics(weights)
                draws.append((weights, areas))
                return areas

            return super().intervals(noted, clusters)

    area_intervals(scores, is_positive, range(60), Draws(20))
    order = np.argsort(-scores, kind="stable")
    for weights, areas in draws:
        arguments = is_positive[order], scores[order]
        assert areas[ROC] == pytest.approx(roc_auc_score(*arguments, sample_weight=weights))
        assert areas[PRECISION] == pytest.approx(average_precision_score(*arguments, sample_weight=weights))
    assert len(draws) == 20


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
    assert area_intervals(np.arange(3.0), np.ones(3, dtype=bool), range(3), Bootstrap(5)) == {}
