"""Shares and means: the plainest figures, on which most others stand."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ...intervals.steady import mean_interval, share_interval
from ...items import Item
from ...strict_data import shorten
from .measurement import Measurement, align


def weighted_mean(truth: np.ndarray, seen: np.ndarray, weights: np.ndarray) -> float:
    """Return the mean of `seen`; NaN where all weights are 0."""
    total = weights.sum()
    return float((seen * weights).sum() / total) if total else math.nan


def share(name: str, items: Sequence[Item], hits: Sequence[bool | None], judge: str | None = None) -> Measurement:
    """Return the share of items that are hits, as the accuracy of MMBench, SEED-Bench and POPE (over items, not over
    types).

    Args:
        name: of the figure.
        items: those that the share is of, n.
        hits: n, `None` where the outcome is not known.

    Raises:
        ValueError: as `align`, or a hit is none of true, false and `None`.
    """
    rows = align(items, hits)
    for item, hit in rows:
        if not (hit is None or isinstance(hit, (bool, np.bool_))):
            raise ValueError(f"the outcome of {shorten(item.id)} is {shorten(hit)}, expected True, False or None")
    return mean_of(name, rows, (0, 1), judge, is_share=True)


def mean_of(
    name: str,
    rows: Sequence[tuple[Item, float | None]],
    ends: tuple[ArrayLike, ArrayLike],
    judge: str | None = None,
    is_share: bool = False,
) -> Measurement:
    """Return the mean of numbers.

    Args:
        rows: n items in `align`'s order, with their numbers.
        ends: lowest and highest possible number, of all or of each row (n,): what stands for missing ones.
    """
    lowest, highest = (np.broadcast_to(end, len(rows)).astype(float) for end in ends)
    seen = np.array([math.nan if value is None else value for _, value in rows], dtype=float)
    return Measurement(
        name=name,
        statistic=weighted_mean,
        items=[item for item, _ in rows],
        truth=np.zeros(len(rows)),
        seen=seen,
        best=highest,
        worst=lowest,
        judge=judge,
        is_share=is_share,
        steady_interval=share_interval if is_share else mean_interval,
    )
