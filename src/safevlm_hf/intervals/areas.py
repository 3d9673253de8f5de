"""Intervals of the areas under curves, by a bootstrap that sorts the scores once, and not in each draw."""

from collections.abc import Sequence

import numpy as np

from .bootstrap import Bootstrap


ROC, PRECISION = "roc", "precision"


def area_intervals(
    scores: np.ndarray, is_positive: np.ndarray, groups: Sequence[str], bootstrap: Bootstrap | None = None
) -> dict[str, tuple[float, float]]:
    """Return 95% intervals of both areas, by bootstrap over the groups. One that no draw changes is left out.

    Args:
        scores, is_positive: (n,).
        groups: n keys; samples of one key stay together.
    """
    order = np.argsort(-scores, kind="stable")
    scores, is_positive, clusters = scores[order], is_positive[order], np.unique(groups, return_inverse=True)[1][order]
    found = (bootstrap or Bootstrap()).intervals(lambda weights: _areas(scores, is_positive, weights), clusters)
    return {name: (float(low), float(high)) for name, (low, high) in found.items() if low < high}


def _areas(scores: np.ndarray, is_positive: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """Return both areas of falling scores; equal scores are reached together."""
    # A threshold can only lie between two different scores.
    is_end = np.append(scores[1:] != scores[:-1], True)
    positives, others = (np.cumsum(weights * side)[is_end] for side in (is_positive, ~is_positive))
    if not positives[-1] or not others[-1]:
        return {ROC: np.nan, PRECISION: np.nan}
    new_positives, new_others = np.diff(positives, prepend=0), np.diff(others, prepend=0)
    reached = np.maximum(positives + others, 1)  # where nothing is reached, nothing is new either, and the sum has a 0
    return {
        ROC: float((new_others * (positives - new_positives / 2)).sum() / (positives[-1] * others[-1])),
        PRECISION: float((new_positives * positives / reached).sum() / positives[-1]),
    }
