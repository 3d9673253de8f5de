"""Distance of the verdict's level from the label: levels are ordered, and one too low is worse than one too high."""

import math
from collections.abc import Sequence

import numpy as np

from ...extras import needs_extra
from ...items import Answer, Item
from .labels import labelled_ids
from .measurement import Measurement
from .shares import mean_of


with needs_extra("eval"):
    from sklearn.metrics import cohen_kappa_score


def level_kappa(items: Sequence[Item], answers: Sequence[Answer], levels: Sequence[str]) -> Measurement:
    """`level_kappa`: quadratic weighted kappa (Cohen 1968; scikit-learn's `cohen_kappa_score`). 1 is perfect, 0 is
    what chance reaches; `None` where all labels and all verdicts are one level.

    For `least` and `most` a verdict that failed is taken to be at the level that is furthest from the label, and to be
    right. With few items kappa can go a little further, because it also depends on how often each level is given.

    Args:
        items, answers: n each; items with the label `level`, by name or index, count.
        levels: names in rising order, of labels and verdicts. A benchmark with a scale of its own is mapped before.

    Raises:
        ValueError: as `align`, or a level is none of the names.
    """

    def kappa(truth: np.ndarray, seen: np.ndarray, weights: np.ndarray) -> float:
        drawn = weights > 0
        if len({*truth[drawn], *seen[drawn]}) < 2:
            # Where there is one level alone, chance agrees every time.
            return math.nan
        ids, options = range(len(levels)), {"weights": "quadratic", "sample_weight": weights}
        return float(cohen_kappa_score(truth.astype(int), seen.astype(int), labels=ids, **options))

    rows = labelled_ids("level", items, answers, levels)
    truth, highest = np.array([label for _, label, _ in rows], dtype=float), len(levels) - 1
    return Measurement(
        name="level_kappa",
        statistic=kappa,
        items=[item for item, _, _ in rows],
        truth=truth,
        seen=np.array([math.nan if given is None else given for *_, given in rows], dtype=float),
        best=truth,
        worst=np.where(2 * truth > highest, 0.0, highest),
    )


def level_mae(items: Sequence[Item], answers: Sequence[Answer], levels: Sequence[str]) -> Measurement:
    """`level_mae`: mean absolute error, in levels. Arguments as of `level_kappa`."""
    return _mean_of_table("level_mae", items, answers, levels, _distances(len(levels)))


def level_adjacent_accuracy(items: Sequence[Item], answers: Sequence[Answer], levels: Sequence[str]) -> Measurement:
    """`level_adjacent_accuracy`: the share of verdicts at most one level off. Arguments as of `level_kappa`."""
    is_near = _distances(len(levels)) <= 1
    return _mean_of_table("level_adjacent_accuracy", items, answers, levels, is_near, is_share=True)


def level_cost(
    items: Sequence[Item],
    answers: Sequence[Answer],
    levels: Sequence[str],
    costs: Sequence[Sequence[float]] | None = None,
) -> Measurement:
    """`level_cost`: mean cost of a verdict (cost-sensitive error, Elkan 2001).

    Args:
        items, answers, levels: as of `level_kappa`.
        costs: (levels, levels), what it costs to take a labelled level (row) for a level (column), 0 or more. By
            default `default_costs`: levels that are too low count double.

    Raises:
        ValueError: as `level_kappa`, or the costs are not as described.
    """
    num_levels = len(levels)
    table = default_costs(num_levels) if costs is None else np.asarray(costs, dtype=float)
    if table.shape != (num_levels, num_levels) or not (np.isfinite(table) & (table >= 0)).all():
        raise ValueError(f"expected {num_levels} x {num_levels} costs from 0, got {table.tolist()}")
    return _mean_of_table("level_cost", items, answers, levels, table)


def default_costs(num_levels: int) -> np.ndarray:
    """Return (levels, levels), how many levels a verdict (column) is from the label (row), doubled where it is too
    low."""
    labelled, given = np.indices((num_levels, num_levels))
    return np.where(given < labelled, 2.0, 1.0) * _distances(num_levels)


def _distances(num_levels: int) -> np.ndarray:
    return np.abs(np.subtract(*np.indices((num_levels, num_levels))))


def _mean_of_table(name: str, items, answers, levels, table: np.ndarray, is_share: bool = False) -> Measurement:
    """Return the mean of the table's entries, labels in its rows and verdicts in its columns."""
    rows = labelled_ids("level", items, answers, levels)
    values = [(item, None if given is None else float(table[label, given])) for item, label, given in rows]
    possible = table[[label for _, label, _ in rows]] if rows else np.zeros((0, len(levels)))
    return mean_of(name, values, (possible.min(axis=1), possible.max(axis=1)), is_share=is_share)
