"""Intervals of figures that no draw of the bootstrap changes, 95%.

Resampling cannot show what was never seen: 0 of 20 is not 0% for certain. Wilson's interval of a share can, and what
is made of shares gets its interval from theirs (MOVER: Zou and Donner 2008). Clusters are counted, not rows.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .rates import wilson_interval


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows that a figure is of, all known.

    Attributes:
        truth, seen, worst, best: as of a `Measurement`.
        clusters: (n,), which cluster each row is of.
    """

    truth: np.ndarray
    seen: np.ndarray
    worst: np.ndarray
    best: np.ndarray
    clusters: np.ndarray

    @property
    def num_clusters(self) -> int:
        return len(np.unique(self.clusters))

    def only(self, is_in: np.ndarray) -> "Rows":
        return Rows(*(getattr(self, name)[is_in] for name in ("truth", "seen", "worst", "best", "clusters")))


SteadyInterval = Callable[[Rows], tuple[float, float]]


def share_interval(rows: Rows) -> tuple[float, float]:
    """Return Wilson's interval of a share."""
    return _wilson(rows.seen.mean(), rows.num_clusters)


def mean_interval(rows: Rows) -> tuple[float, float]:
    """Return the interval of a mean of numbers between `worst` and `best`: as many clusters as Wilson's interval of
    none of all allows may come out at either end. Of a share of 0 or 1 it is Wilson's."""
    value, unseen = rows.seen.mean(), wilson_interval(0, rows.num_clusters)[1]
    low, high = (float(value + unseen * (end.mean() - value)) for end in (rows.worst, rows.best))
    return low, high


def difference_interval(rows: Rows) -> tuple[float, float]:
    """Return Newcombe's interval of a difference of paired shares (1998, Statistics in Medicine 17, method 10); `seen`
    is (n, 2)."""
    total = rows.num_clusters
    one, other = rows.seen.T > 0
    both, first, second, neither = (
        total * float(cell.mean()) for cell in (one & other, one & ~other, ~one & other, ~one & ~other)
    )
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    product = both * neither - first * second
    # This is Newcombe's correction for continuity, for a positive correlation alone.
    product = max(product - total / 2, 0) if product > 0 else product
    correlation = product / math.sqrt(margins) if margins else 0.0
    (low, high), (other_low, other_high) = (_wilson(share.mean(), total) for share in (one, other))
    value, other_value = one.mean(), other.mean()
    below = _distance(value - low, other_high - other_value, correlation)
    above = _distance(high - value, other_value - other_low, correlation)
    return max(-1.0, value - other_value - below), min(1.0, value - other_value + above)


def mean_over_interval(part_of: Callable[[Rows], Sequence[Rows]], statistic, inside: SteadyInterval) -> SteadyInterval:
    """Return the interval of the plain mean of a statistic over parts, by MOVER from the interval inside each of
    them."""

    def interval(rows: Rows) -> tuple[float, float]:
        parts = part_of(rows)
        values = [statistic(one.truth, one.seen, np.ones(len(one.truth))) for one in parts]
        ends = [inside(one) for one in parts]
        # Parts are independent, so the squares of their distances to the ends add up.
        value = math.fsum(values) / len(parts)
        below, above = (
            math.hypot(*(end[side] - own for end, own in zip(ends, values, strict=True))) / len(parts)
            for side in (0, 1)
        )
        return value - below, value + above

    return interval


def _wilson(share: float, total: int) -> tuple[float, float]:
    return wilson_interval(round(float(share) * total), total)


def _distance(one: float, other: float, correlation: float) -> float:
    return math.sqrt(max(0.0, one**2 - 2 * correlation * one * other + other**2))
