"""Rates and mean scores that say what failed judgements leave open."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from .base import Judgement


@dataclass(frozen=True)
class Bounds:
    """A rate or a mean over the judgements that can be used, and what the others could have made of it.

    Attributes:
        value: over those that did not fail; `None` where all failed.
        least, most: over all, if every failed one had been at the lower or at the upper end.
        total: judgements, failed ones included.
        failed: those without a label or a score.
    """

    value: float | None
    least: float
    most: float
    total: int
    failed: int


def bound_rate(judgements: Sequence[Judgement], labels: Collection[str]) -> Bounds:
    """The share of answers with one of these labels.

    Raises:
        ValueError: there are no judgements, or one has a score.
    """
    if any(one.score is not None for one in judgements):
        raise ValueError("expected judgements with labels, found a score: `bound_score` is for those")
    return _bound([None if one.failure else float(one.label in labels) for one in judgements], 0.0, 1.0)


def bound_score(judgements: Sequence[Judgement], lowest: float = 0.0, highest: float = 10.0) -> Bounds:
    """The mean score on a scale from `lowest` to `highest`.

    Raises:
        ValueError: there are no judgements, one has a label, or a score is not on the scale.
    """
    if any(one.label is not None for one in judgements):
        raise ValueError("expected judgements with scores, found a label: `bound_rate` is for those")
    wrong = [one.score for one in judgements if one.score is not None and not lowest <= one.score <= highest]
    if wrong:
        raise ValueError(f"the score {wrong[0]} is not on the scale from {lowest} to {highest}")
    return _bound([one.score for one in judgements], lowest, highest)


def _bound(values: list[float | None], lowest: float, highest: float) -> Bounds:
    if not values:
        raise ValueError("expected judgements, found none")
    known = [value for value in values if value is not None]
    failed = len(values) - len(known)
    return Bounds(
        value=sum(known) / len(known) if known else None,
        least=(sum(known) + lowest * failed) / len(values),
        most=(sum(known) + highest * failed) / len(values),
        total=len(values),
        failed=failed,
    )
