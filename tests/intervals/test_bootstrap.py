import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from safevlm_hf.intervals.bootstrap import Bootstrap


def mean_of(values):
    return lambda weights: float(np.average(values, weights=weights))


def test_agrees_with_scipy_where_each_row_is_a_cluster():
    values = np.random.RandomState(1).normal(size=200)
    ours = Bootstrap(4000).interval(mean_of(values), np.arange(200))
    theirs = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=0).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_rows_of_a_cluster_stay_together():
    # 20 questions, each asked 10 times with one outcome: as good as 20 rows, not as 200.
    outcomes = np.random.RandomState(2).randint(2, size=20).astype(float)
    alone = Bootstrap(500).interval(mean_of(outcomes), np.arange(20))
    assert Bootstrap(500).interval(mean_of(np.repeat(outcomes, 10)), np.repeat(np.arange(20), 10)) == alone
    split = Bootstrap(500).interval(mean_of(np.repeat(outcomes, 10)), np.arange(200))
    assert split[1] - split[0] < (alone[1] - alone[0]) / 2


def test_the_draws_are_frozen():
    low, high = Bootstrap(100, seed=7).interval(mean_of(np.arange(10.0)), np.arange(10))
    assert (round(low, 6), round(high, 6)) == (2.6, 6.3)
    assert Bootstrap(100, seed=8).interval(mean_of(np.arange(10.0)), np.arange(10)) != (low, high)


@pytest.mark.parametrize("clusters", [np.array([], dtype=int), np.zeros(5, dtype=int)])
def test_no_interval_from_less_than_two_clusters(clusters):
    assert np.isnan(Bootstrap().interval(lambda weights: 1.0, clusters)).all()


def test_draws_without_a_value_are_left_out():
    has_first = Bootstrap(200).interval(lambda weights: 5.0 if weights[0] else np.nan, np.arange(4))
    assert has_first == (5, 5)
    assert np.isnan(Bootstrap(20).interval(lambda weights: np.nan, np.arange(4))).all()


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_an_interval_of_means_lies_within_the_values(values, seed):
    low, high = Bootstrap(20, seed).interval(mean_of(np.array(values)), np.arange(len(values)))
    assert min(values) - 1e-6 <= low <= high <= max(values) + 1e-6


@pytest.mark.parametrize("settings", [{"num_resamples": 0}, {"seed": -1}, {"seed": 2**32}, {"num_resamples": True}])
def test_bad_settings(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Bootstrap(**settings)
