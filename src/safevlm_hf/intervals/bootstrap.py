"""Intervals by resampling: how much a figure would move if other items had been drawn."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from ..strict_data import STRICT


@dataclass(frozen=True, config=STRICT)
class Bootstrap:
    """The percentile bootstrap over clusters (Efron 1979; Davison and Hinkley 1997, section 3.8), 95%.

    Clusters are drawn with replacement, and all rows of a cluster stay together, so that the rotations of one question
    do not pass for independent questions. Draws in which a statistic is undefined (no risky item among them) are left
    out. What never varies in the sample has an interval without width, however small the sample is (`steady` has
    others).

    Attributes:
        num_resamples: number of draws, at least 1.
        seed: the same seed and clusters give the same draws, on every platform and version of numpy.
    """

    num_resamples: Annotated[int, Field(ge=1)] = 1000
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    def interval(self, statistic: Callable[[np.ndarray], float], clusters: np.ndarray) -> tuple[float, float]:
        """Return the low and the high end.

        Args:
            statistic: weights (n,), how often each row was drawn, to a number; NaN where it is undefined.
            clusters: (n,), which cluster each row is of, from 0 without gaps.

        Returns:
            Two numbers; two NaN with fewer than two clusters, or where no draw defines the statistic.
        """
        return self.intervals(lambda weights: {"": statistic(weights)}, clusters).get("", (np.nan, np.nan))

    def intervals(
        self, statistics: Callable[[np.ndarray], Mapping[str, float]], clusters: np.ndarray
    ) -> dict[str, tuple[float, float]]:
        """Return, as `interval`, the ends of several statistics on the same draws. Without two clusters there are
        none."""
        num_clusters = int(clusters.max()) + 1 if len(clusters) else 0
        values: dict[str, list[float]] = defaultdict(list)
        random = np.random.RandomState(self.seed)  # numpy has frozen its stream; `default_rng` may change
        for _ in range(self.num_resamples if num_clusters > 1 else 0):
            # Counts of each cluster are enough: a statistic takes weights, and no rows are copied.
            drawn = random.randint(num_clusters, size=num_clusters, dtype=np.int64)
            weights = np.bincount(drawn, minlength=num_clusters)[clusters].astype(float)
            for name, value in statistics(weights).items():
                values[name] += [] if np.isnan(value) else [value]
        return {
            name: tuple(np.quantile(found, (0.025, 0.975))) if found else (np.nan, np.nan)
            for name, found in values.items()
        }
