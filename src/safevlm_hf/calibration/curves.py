"""Curves of scikit-learn: they show how well scores tell one kind of sample from the rest, at any threshold."""

from dataclasses import dataclass

import numpy as np

from ..extras import needs_extra


with needs_extra("eval"):
    from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_curve


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
