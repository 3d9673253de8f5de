"""Curves of scikit-learn: they show how well scores tell one kind of sample from the rest, at any threshold. And the
intervals of the areas under them, by a bootstrap that sorts the scores once, and not in each draw."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..extras import needs_extra
from ..intervals.bootstrap import Bootstrap


with needs_extra("eval"):
    from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_curve


ROC, PRECISION = "roc", "precision"


@dataclass(frozen=True)
class Curve:
    """One share over another, both 0 to 1, the area under it, and the point that a threshold chose, if any."""

    x: np.ndarray
    y: np.ndarray
    area: float
    chosen: tuple[float, float] | None = None


def roc(scores: np.ndarray, is_positive: np.ndarray, threshold: float | None = None) -> Curve:
    """True positive rate over false positive rate. There are positives and others."""
    x, y, thresholds = roc_curve(is_positive, scores, drop_intermediate=False)
    return Curve(x, y, auc(x, y), _chosen(x, y, thresholds, threshold))


def precision_over_recall(scores: np.ndarray, is_positive: np.ndarray, threshold: float | None = None) -> Curve:
    """Precision over recall, rising in recall; the area is the average precision. There are positives."""
    precision, recall, thresholds = precision_recall_curve(is_positive, scores)
    # At recall 0 scikit-learn sets 1, which no threshold reaches: the highest one's precision is held from there.
    precision[-1] = precision[-2]
    area = average_precision_score(is_positive, scores)
    chosen = _chosen(recall[:-1][::-1], precision[:-1][::-1], thresholds[::-1], threshold)
    return Curve(recall[::-1], precision[::-1], area, chosen)


def _chosen(x, y, thresholds, threshold: float | None) -> tuple[float, float] | None:
    """The point of what reaches the threshold; `None` where nothing does. Points and thresholds fall."""
    num_reached = (thresholds >= threshold).sum() if threshold is not None else 0
    return (x[num_reached - 1], y[num_reached - 1]) if num_reached else None


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
