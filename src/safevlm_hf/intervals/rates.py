"""Shares of counts, with their 95% intervals."""

import math
from dataclasses import dataclass


Z95 = 1.959964  # two-sided 95% of a normal distribution


@dataclass(frozen=True)
class Rate:
    """`count` of `total` samples."""

    count: int
    total: int

    @property
    def share(self) -> float | None:
        """0 to 1; `None` without samples."""
        return self.count / self.total if self.total else None

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of the share."""
        if not self.total:
            return 0.0, 1.0
        share, weight = self.share, Z95**2 / self.total
        centre = (share + weight / 2) / (1 + weight)
        half = math.sqrt(weight * share * (1 - share) + weight**2 / 4) / (1 + weight)
        return max(0.0, centre - half), min(1.0, centre + half)
