"""Agreement of judges on the same answers, and the answers on which they differ."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from ...intervals.bootstrap import Bootstrap
from ...intervals.rates import wilson_interval
from .base import Judgement
from .labels import COMPLETION_LABELS, HARM_LABELS, PREFERENCE_LABELS


SAME = {"care": "answer"}
"""Labels that count as others: keyword judges do not know "care", and count it as an answer."""
SCORES, HARM, REFUSALS, COMPLETION, PREFERENCE = "scores", "harm", "refusals", "completion", "preference"
BANDS = 5
"""Scores are compared by bands of equal width."""


def compare_judges(
    judgements: Mapping[str, Sequence[Judgement]],
    same: Mapping[str, str] = SAME,
    scale: tuple[float, float] = (0, 10),
) -> list[dict[str, Any]]:
    """Compare every pair of judges on the answers that both of them judged, as plain data.

    Judges with labels are compared by Cohen's kappa, those with scores by kappa with quadratic weights over five bands
    of the scale. Judges of different kinds (refusals, harm, completion, preference, scores) are not compared.

    Args:
        judgements: name of each judge to its judgements, of the same items in the same order.
        same: label to the label that it counts as.
        scale: lowest and highest score.

    Returns:
        One dict per pair: `judges` (two names), `judged` (answers that both judged), `failed` (answers that one or
        both did not), `agreement` (share), `agreement_interval` (95%, Wilson's), `kappa`, `kappa_interval` (95%,
        bootstrap over the answers), `labels` (of scores: the bands, from 0), `confusion` (rows are the first judge's
        labels, columns the second's), and `differing` (a list of `{"item_id", "labels"}`, what either judge said).
        `agreement` and `kappa` are `None` where they are undefined: without answers, or, for kappa, where both judges
        gave one and the same label throughout. `kappa_interval` is `None` where no draw changes kappa.

    Raises:
        ValueError: two judges judged other items, or in another order.
    """
    ids = {name: [judgement.item_id for judgement in column] for name, column in judgements.items()}
    for one, other in zip(ids, [*ids][1:]):
        if ids[one] != ids[other]:
            raise ValueError(f"{one!r} and {other!r} judged other items, or in another order: judge the same answers")
    pairs = combinations(judgements, 2)
    return [
        _compare((one, other), judgements[one], judgements[other], same, scale)
        for one, other in pairs
        if len({_kind(judgements[one]), _kind(judgements[other])} - {None}) < 2
    ]


def _compare(names: tuple[str, str], ones: Sequence[Judgement], others: Sequence[Judgement], same, scale) -> dict:
    judged = [(a, b) for a, b in zip(ones, others) if a.failure is None and b.failure is None]
    has_scores = SCORES in (_kind(ones), _kind(others))
    first = [_category(a, same, scale) for a, _ in judged]
    second = [_category(b, same, scale) for _, b in judged]
    # All bands stand in the matrix, for quadratic weights go by their distance.
    labels = [*range(BANDS)] if has_scores else sorted({*first, *second})
    cells = np.array([labels.index(a) * len(labels) + labels.index(b) for a, b in zip(first, second)], dtype=int)
    kappa, kappa_interval = _kappa(cells, len(labels), is_quadratic=has_scores)
    num_agreed = sum(a == b for a, b in zip(first, second))
    return {
        "judges": list(names),
        "judged": len(judged),
        "failed": len(ones) - len(judged),
        "agreement": num_agreed / len(judged) if judged else None,
        "agreement_interval": list(wilson_interval(num_agreed, len(judged))) if judged else None,
        "kappa": kappa,
        "kappa_interval": kappa_interval,
        "labels": labels,
        "confusion": [[list(zip(first, second)).count((a, b)) for b in labels] for a in labels] if judged else [],
        "differing": [
            {"item_id": a.item_id, "labels": [a.said, b.said]} for (a, b), x, y in zip(judged, first, second) if x != y
        ],
    }


def _kappa(cells: np.ndarray, num_labels: int, is_quadratic: bool) -> tuple[float | None, list[float] | None]:
    """Return Cohen's kappa and its interval.

    Args:
        cells: (n,), of each answer the cell of the confusion matrix that it is in, row by row.
    """
    distances = np.subtract(*np.indices((num_labels, num_labels)))
    costs = (distances**2 if is_quadratic else distances != 0).astype(float)

    def kappa(weights: np.ndarray) -> float:
        counts = np.bincount(cells, weights, num_labels**2).reshape(num_labels, num_labels)
        by_chance = (costs * np.outer(counts.sum(axis=1), counts.sum(axis=0))).sum() / max(counts.sum(), 1)
        return 1 - float((costs * counts).sum() / by_chance) if by_chance else math.nan

    value = kappa(np.ones(len(cells)))
    if math.isnan(value):
        return None, None
    low, high = Bootstrap().interval(kappa, np.arange(len(cells)))
    return value, [float(low), float(high)] if low < high else None


def _category(judgement: Judgement, same: Mapping[str, str], scale: tuple[float, float]) -> str | int:
    said = judgement.said
    if isinstance(said, str):
        return same.get(said, said)
    lowest, highest = scale
    # A band ends with its highest score, as in the rubrics: 2 is the end of "0 to 2".
    return min(max(math.ceil((said - lowest) / (highest - lowest) * BANDS) - 1, 0), BANDS - 1)


def _kind(judgements: Sequence[Judgement]) -> str | None:
    """Return the kind of the judgements; `None` where all of its judgements failed."""
    known = [judgement for judgement in judgements if judgement.failure is None]
    if not known:
        return None
    if known[0].score is not None:
        return SCORES
    kinds = {HARM: HARM_LABELS, COMPLETION: COMPLETION_LABELS, PREFERENCE: PREFERENCE_LABELS}
    return next((kind for kind, labels in kinds.items() if known[0].label in labels), REFUSALS)
