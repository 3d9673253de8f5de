"""The 95% interval of a share of counts."""

import math


Z95 = 1.959964  # two-sided 95% of a normal distribution


def wilson_interval(count: int, total: int) -> tuple[float, float]:
    """Return Wilson's 95% interval of a share; 0 to 1 without samples."""
    if not total:
        return 0.0, 1.0
    share, weight = count / total, Z95**2 / total
    centre = (share + weight / 2) / (1 + weight)
    half = math.sqrt(weight * share * (1 - share) + weight**2 / 4) / (1 + weight)
    return max(0.0, centre - half), min(1.0, centre + half)
