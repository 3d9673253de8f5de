"""Shares and means: the plainest figures, on which most others stand. Of items, and of groups that count together."""

import math
from collections import defaultdict
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


def all_right(name: str, items: Sequence[Item], is_right: Sequence[bool | None]) -> Measurement:
    """Return the share of groups in which everything is right: MMBench's circular accuracy (arXiv 2307.06281), MME's
    acc+ (arXiv 2306.13394), and RiskCards' pairs of a risky and a clean question about one picture
    (`pairs_both_right`).

    One wrong answer decides; without one, a missing answer leaves the group open. `total` counts groups. Items without
    a group, or alone in it, are none. A label that all of a group share can make parts.

    Args:
        name: of the figure.
        items: n.
        is_right: n, `None` where it is not known.

    Raises:
        ValueError: as `align`.
    """
    groups = defaultdict(list)
    for item, right in align(items, is_right):
        if item.group is not None:
            groups[item.group].append((item, right))
    units, hits = [], []
    for group, rows in groups.items():
        if len(rows) > 1:
            labels = [item.labels for item, _ in rows]
            shared = {
                key: value for key, value in labels[0].items() if all((key, value) in one.items() for one in labels)
            }
            units.append(Item(group, (), (), labels=shared))
            hits.append(all_true([right for _, right in rows]))
    return share(name, units, hits)


def all_true(outcomes: Sequence[bool | None]) -> bool | None:
    """Tell whether all are true: one false decides, else one `None` leaves it open."""
    if any(outcome is not None and not outcome for outcome in outcomes):
        return False
    return None if any(outcome is None for outcome in outcomes) else True


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
