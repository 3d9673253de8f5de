"""Intervals by resampling: how much a figure would move if other items had been drawn."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from safevlm_hf.evaluation.protocol.checked_fields import expect, is_count


@dataclass(frozen=True)
class Bootstrap:
    """The percentile bootstrap over clusters (Efron 1979; Davison and Hinkley 1997, section 3.8), 95%.

    Clusters are drawn with replacement, and all rows of a cluster stay together, so that the rotations of one question
    do not pass for independent questions. Draws in which a statistic is undefined (no risky item among them) are left
    out. What never varies in the sample has an interval without width, however small the sample is.

    Attributes:
        num_resamples: number of draws, at least 1.
        seed: the same seed and clusters give the same draws, on every platform and version of numpy.
    """

    num_resamples: int = 1000
    seed: int = 0

    def __post_init__(self):
        expect(is_count(self.num_resamples, least=1), "num_resamples", "at least 1", self.num_resamples)
        expect(is_count(self.seed) and self.seed < 2**32, "seed", "a whole number from 0 to 2**32 - 1", self.seed)

    def interval(self, statistic: Callable[[np.ndarray], float], clusters: np.ndarray) -> tuple[float, float]:
        """Low and high end.

        Args:
            statistic: weights (n,), how often each row was drawn, to a number; NaN where it is undefined.
            clusters: (n,), which cluster each row is of, from 0 without gaps.

        Returns:
            Two numbers; two NaN with fewer than two clusters, or where no draw defines the statistic.
        """
        num_clusters = int(clusters.max()) + 1 if len(clusters) else 0
        if num_clusters < 2:
            return np.nan, np.nan
        random = np.random.RandomState(self.seed)  # numpy has frozen its stream; `default_rng` may change
        values = np.empty(self.num_resamples)
        for draw in range(self.num_resamples):
            drawn = random.randint(num_clusters, size=num_clusters, dtype=np.int64)
            values[draw] = statistic(np.bincount(drawn, minlength=num_clusters)[clusters].astype(float))
        values = values[~np.isnan(values)]
        return tuple(np.quantile(values, (0.025, 0.975))) if len(values) else (np.nan, np.nan)
