"""Reliability: whether a risk means what it says. Of the samples with a risk of 0.8, 8 in 10 are risky (bins, ECE)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .bootstrap import Bootstrap


@dataclass(frozen=True)
class ReliabilityBin:
    """The samples whose risk is in [low, high): their number, mean risk, and the share that is risky (0 to 1)."""

    low: float
    high: float
    num_samples: int
    mean_risk: float
    risky_share: float


def reliability_bins(risks: Sequence[float], is_risky: Sequence[bool], num_bins: int = 10) -> list[ReliabilityBin]:
    """Return the bins of equal width over [0, 1] that hold samples, rising.

    Args:
        risks: predicted probability of a risk, 0 to 1, one per sample. The last bin includes 1.
        is_risky: whether the sample is labelled risky.

    Raises:
        ValueError: the lengths differ, or a risk is not in [0, 1].
    """
    if len(risks) != len(is_risky):
        raise ValueError(f"{len(risks)} risks but {len(is_risky)} labels")
    members: list[list[tuple[float, bool]]] = [[] for _ in range(num_bins)]
    for risk, label in zip(risks, is_risky, strict=True):
        if not -1e-6 <= risk <= 1 + 1e-6:
            raise ValueError(f"a risk is {risk}, expected 0 to 1")
        members[min(max(int(risk * num_bins), 0), num_bins - 1)].append((risk, bool(label)))
    return [
        ReliabilityBin(
            low=index / num_bins,
            high=(index + 1) / num_bins,
            num_samples=len(bin),
            mean_risk=sum(risk for risk, _ in bin) / len(bin),
            risky_share=sum(label for _, label in bin) / len(bin),
        )
        for index, bin in enumerate(members)
        if bin
    ]


def weighted_calibration_error(
    risks: np.ndarray, is_risky: np.ndarray, weights: np.ndarray, num_bins: int = 10
) -> float:
    """Return the mean over the samples, (n,) and weighted, of |risky share - mean risk| of their bin (Guo et al. 2017,
    arXiv 1706.04599). The bins are those of `reliability_bins`."""
    bins = np.clip(risks * num_bins, 0, num_bins - 1).astype(int)
    return float(np.abs(np.bincount(bins, weights * (is_risky - risks))).sum() / weights.sum())


def expected_calibration_error(risks: Sequence[float], is_risky: Sequence[bool], num_bins: int = 10) -> float | None:
    """Return the calibration error of samples that count alike: 0 is perfect, 1 the worst; `None` without samples.
    Arguments and errors as in `reliability_bins`."""
    if not reliability_bins(risks, is_risky, num_bins):
        return None
    return weighted_calibration_error(
        np.array(risks), np.array(is_risky, dtype=float), np.ones(len(risks)), num_bins=num_bins
    )


def calibration_error_interval(
    risks: Sequence[float], is_risky: Sequence[bool], pictures: Sequence[str], num_bins: int = 10
) -> tuple[float, float]:
    """Return the 95% interval of the calibration error, by bootstrap over the pictures: questions about one stay
    together.

    Two NaN with fewer than two pictures. Other arguments and errors as in `reliability_bins`.
    """
    seen, truth = np.array(risks), np.array(is_risky, dtype=float)
    return Bootstrap().interval(
        lambda weights: weighted_calibration_error(seen, truth, weights, num_bins),
        np.unique(pictures, return_inverse=True)[1],
    )
