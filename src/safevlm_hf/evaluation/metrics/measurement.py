"""From outcomes to figures: one metric on the items that it is of, in whole, by parts, and against another system."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...intervals.bootstrap import Bootstrap
from ...intervals.figure import Figure
from ...intervals.steady import Rows, SteadyInterval, difference_interval, mean_over_interval
from ...items import Answer, Item
from ...strict_data import shorten


Statistic = Callable[[np.ndarray, np.ndarray, np.ndarray], float]
UNLABELLED = "unlabelled"
"""The part of the items without the label that parts are made by."""


def align(items: Sequence[Item], *columns: Sequence) -> list[tuple]:
    """Return rows (item, value, ...) in the order of the ids, so that no figure depends on the order of its items.

    Raises:
        ValueError: lengths differ, an id comes twice, or an answer is to another item than the one in its place.
    """
    for column in columns:
        if len(column) != len(items):
            raise ValueError(f"{len(items)} items but {len(column)} outcomes, expected one for each item")
    rows = sorted(zip(items, *columns, strict=True), key=lambda row: row[0].id)
    for row, next_row in zip(rows, rows[1:]):
        if row[0].id == next_row[0].id:
            raise ValueError(f"the id {shorten(row[0].id)} comes twice, expected one item per id")
    for item, *values in rows:
        for value in values:
            if isinstance(value, Answer) and value.item_id != item.id:
                found = shorten(value.item_id)
                raise ValueError(f"an answer to {found} stands in the place of {shorten(item.id)}: align them first")
    return rows


@dataclass(frozen=True, eq=False)
class Measurement:
    """One metric on n items, ready to be counted.

    Attributes:
        name: of the figure.
        statistic: (truth, seen, weights) to a number, NaN where it is undefined; weights (n,) say how often each row
            counts.
        items: n, in the order of their ids; `group` says which count together, `labels` make parts.
        truth: (n,) or (n, columns), what each item is.
        seen: (n,) or (n, columns), what came out; NaN where nothing did.
        best, worst: like `seen`, what stands for a missing outcome in the two bounds; NaN where none is known.
        judge: who judged.
        is_share: whether `seen` are hits (0 or 1) and the statistic is their share.
        steady_interval: the interval where no draw changes the figure; `None` where nothing can be said.
    """

    name: str
    statistic: Statistic
    items: Sequence[Item]
    truth: np.ndarray
    seen: np.ndarray
    best: np.ndarray
    worst: np.ndarray
    judge: str | None = None
    is_share: bool = False
    steady_interval: SteadyInterval | None = None

    def figure(self, bootstrap: Bootstrap | None = None, part: str | None = None) -> Figure:
        """Return the figure over all items."""
        known = self._only(~np.isnan(np.atleast_2d(self.seen.T)).any(axis=0))
        failed = len(self.items) - len(known.items)
        value = self._value(known.truth, known.seen)
        low, high = known._interval(value, bootstrap or Bootstrap())
        has_bounds = failed and not np.isnan([self.worst, self.best]).any()
        # In the two bounds, what failed is taken to be at its one end or at its other.
        ends = [np.where(np.isnan(self.seen), end, self.seen) for end in (self.worst, self.best) if has_bounds]
        bounds = [self._value(self.truth, filled) for filled in ends]
        least, most = sorted(bounds) if bounds and not np.isnan(bounds).any() else (None, None)
        return Figure(
            name=self.name,
            value=rounded(value),
            low=rounded(low),
            high=rounded(high),
            total=len(self.items),
            failed=failed,
            count=int(known.seen.sum()) if self.is_share else None,
            least=rounded(least),
            most=rounded(most),
            part=part,
            judge=self.judge,
        )

    def figures(self, by: str, bootstrap: Bootstrap | None = None) -> list[Figure]:
        """Return the figure over all items, those of the parts that share a value of the label `by`, and their plain
        mean.

        The mean is the headline of benchmarks whose parts differ in size (HoliSafe's mASR over types, RTVLM's mean
        over columns). It is `None` where that of a part is. Items without the label are no part of it.
        """
        parts = np.array([str(item.labels.get(by, UNLABELLED)) for item in self.items], dtype=object)
        names = sorted(set(parts))
        figures = [self._only(parts == name).figure(bootstrap, f"{by}={name}") for name in names]
        labelled = self._only(parts != UNLABELLED)
        names = [name for name in names if name != UNLABELLED]
        codes = np.array([names.index(name) for name in parts if name != UNLABELLED], dtype=float)

        def split(rows: Rows) -> list[Rows]:
            # The number of the part stands in front of truth for the draws alone; inside of a part it says nothing.
            own = [rows.only(rows.truth[:, 0] == code) for code in np.unique(rows.truth[:, 0])]
            return [replace(part, truth=part.truth[:, 1]) for part in own]

        mean = replace(
            labelled,
            statistic=_mean_over_parts(self.statistic, len(names)),
            truth=np.column_stack([codes, labelled.truth]),
            is_share=False,
            steady_interval=self.steady_interval and mean_over_interval(split, self.statistic, self.steady_interval),
        )
        return [self.figure(bootstrap), *figures, mean.figure(bootstrap, f"mean over {by}")]

    def difference(self, other: "Measurement", bootstrap: Bootstrap | None = None) -> Figure:
        """Return this figure less that of another system on the same items, paired: both see the same draws of items.
        An item that failed with one of them counts as failed.

        Raises:
            ValueError: the two are not the same metric, by the same judge, on the same items.
        """
        if (self.name, self.judge) != (other.name, other.judge):
            names = [f"{one.name} (judge {one.judge})" for one in (self, other)]
            raise ValueError(f"expected one metric by one judge, got {names[0]} and {names[1]}")
        ids, other_ids = ([item.id for item in one.items] for one in (self, other))
        if ids != other_ids:
            odd = sorted({*ids} ^ {*other_ids})
            raise ValueError(f"expected the same items, but {len(odd)} are in one of the two, as {shorten(odd[0])}")
        return replace(
            self,
            name=f"{self.name}_difference",
            statistic=lambda truth, seen, weights: (
                self.statistic(truth, seen[:, 0], weights) - other.statistic(truth, seen[:, 1], weights)
            ),
            seen=np.column_stack([self.seen, other.seen]),
            # The difference is largest where the other one does worst.
            best=np.column_stack([self.best, other.worst]),
            worst=np.column_stack([self.worst, other.best]),
            is_share=False,
            steady_interval=difference_interval if self.is_share and other.is_share else None,
        ).figure(bootstrap)

    def _only(self, rows: np.ndarray) -> "Measurement":
        """Return the same of some items, (n,) bool."""
        arrays = {name: getattr(self, name)[rows] for name in ("truth", "seen", "best", "worst")}
        return replace(self, items=[item for item, is_in in zip(self.items, rows) if is_in], **arrays)

    def _value(self, truth: np.ndarray, seen: np.ndarray) -> float:
        return self.statistic(truth, seen, np.ones(len(truth))) if len(truth) else math.nan

    def _interval(self, value: float, bootstrap: Bootstrap) -> tuple[float, float]:
        """Return the interval of rows that are all known; two NaN where there is none."""
        clusters = clusters_of(self.items)
        # Where no draw changes the figure, or all leave it undefined, resampling says nothing about it.
        low, high = bootstrap.interval(lambda weights: self.statistic(self.truth, self.seen, weights), clusters)
        if low < high:
            return low, high
        is_steady = low == high or (len(self.seen) and not np.ptp(self.seen, axis=0).any())
        if math.isnan(value) or not is_steady or self.steady_interval is None:
            return math.nan, math.nan
        return self.steady_interval(Rows(self.truth, self.seen, self.worst, self.best, clusters))


def clusters_of(items: Sequence[Item]) -> np.ndarray:
    """Return (n,), the number of each item's group, from 0; an item without a group is one of its own."""
    numbers: dict[tuple[str, str], int] = {}
    keys = [("id", item.id) if item.group is None else ("group", item.group) for item in items]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def _mean_over_parts(statistic: Statistic, num_parts: int) -> Statistic:
    """Return the mean of a statistic over parts, whose numbers are the first column of truth."""

    def mean(truth: np.ndarray, seen: np.ndarray, weights: np.ndarray) -> float:
        values = []
        for part in range(num_parts):
            rows = (truth[:, 0] == part) & (weights > 0)
            values.append(statistic(truth[rows, 1], seen[rows], weights[rows]) if rows.any() else math.nan)
        return math.fsum(values) / num_parts

    return mean


def rounded(value: Any) -> float | None:
    """Return a number with 12 decimals: the last bits of a sum depend on the machine, and files should not."""
    return None if value is None or math.isnan(value) else round(float(value), 12) + 0.0
