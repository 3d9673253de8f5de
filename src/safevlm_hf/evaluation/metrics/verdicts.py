"""Figures of the verdicts themselves, without any judge: macro-F1 of level and category, AUROC and ECE of the risk."""

import math
from collections.abc import Sequence

import numpy as np

from ...extras import needs_extra
from ...intervals.reliability import weighted_calibration_error
from ...items import Answer, Item
from ...strict_data import shorten
from .labels import is_risky, known_risk, labelled_ids
from .measurement import Measurement, align


with needs_extra("eval"):
    from sklearn.metrics import f1_score, roc_auc_score


def level_macro_f1(items: Sequence[Item], answers: Sequence[Answer], levels: Sequence[str]) -> Measurement:
    """`level_macro_f1`: scikit-learn's macro F1 of the verdict's level, over the levels that occur as labels.

    Args:
        items, answers: n each; items with the label `level`, by name or index, count.
        levels: names in rising order.

    Raises:
        ValueError: as `align`, or a level is none of the names.
    """
    return _macro_f1("level", items, answers, levels)


def category_macro_f1(items: Sequence[Item], answers: Sequence[Answer], categories: Sequence[str]) -> Measurement:
    """`category_macro_f1`: the same of the category. A benchmark with names of its own has to be mapped before."""
    return _macro_f1("category", items, answers, categories)


def risk_auroc(items: Sequence[Item], answers: Sequence[Answer]) -> Measurement:
    """`risk_auroc`: the probability that a risky item has a higher risk than a harmless one (scikit-learn's
    `roc_auc_score`; Hateful Memes' metric, arXiv 2005.04790). `None` without items of both sides.

    Args:
        items, answers: n each; items with the label `is_risky` count. A risk that is no finite number has failed.

    Raises:
        ValueError: as `align`, or a risk is outside of 0 to 1.
    """

    def area(truth: np.ndarray, seen: np.ndarray, weights: np.ndarray) -> float:
        has_both = 0 < (truth * weights).sum() < weights.sum()
        return float(roc_auc_score(truth, seen, sample_weight=weights)) if has_both else math.nan

    return _risk_measurement("risk_auroc", area, items, answers)


def risk_ece(items: Sequence[Item], answers: Sequence[Answer], num_bins: int = 10) -> Measurement:
    """`risk_ece`: expected calibration error of the risk, 0 to 1 (Guo et al. 2017, arXiv 1706.04599), with
    `num_bins` bins of equal width, as `intervals.reliability` has them. Arguments as of `risk_auroc`."""

    def error(truth: np.ndarray, seen: np.ndarray, weights: np.ndarray) -> float:
        return weighted_calibration_error(seen, truth, weights, num_bins)

    # Errors of either sign cancel inside a bin, so no risk is the best or the worst.
    return _risk_measurement("risk_ece", error, items, answers, has_bounds=False)


def _macro_f1(field: str, items, answers, names: Sequence[str]) -> Measurement:
    def score(truth: np.ndarray, seen: np.ndarray, weights: np.ndarray) -> float:
        classes = np.unique(truth[weights > 0]).astype(int)
        if not len(classes):
            return math.nan
        options = {"labels": classes, "average": "macro", "zero_division": 0}
        return float(f1_score(truth.astype(int), seen.astype(int), sample_weight=weights, **options))

    rows = labelled_ids(field, items, answers, names)
    truth = np.array([label for _, label, _ in rows], dtype=float)
    return Measurement(
        name=f"{field}_macro_f1",
        statistic=score,
        items=[item for item, _, _ in rows],
        truth=truth,
        seen=np.array([math.nan if given is None else given for *_, given in rows], dtype=float),
        best=truth,
        worst=np.full(len(rows), math.nan),  # which wrong class hurts a mean over classes most depends on the others
    )


def _risk_measurement(name: str, statistic, items, answers, has_bounds: bool = True) -> Measurement:
    rows = [row for row in align(items, answers) if is_risky(row[0]) is not None]
    risks = [known_risk(answer.risk, f"the risk of {shorten(item.id)}") for item, answer in rows]
    truth = np.array([is_risky(item) for item, _ in rows], dtype=float)
    return Measurement(
        name=name,
        statistic=statistic,
        items=[item for item, _ in rows],
        truth=truth,
        seen=np.array([math.nan if risk is None else risk for risk in risks], dtype=float),
        best=truth,
        worst=1 - truth if has_bounds else np.full(len(rows), math.nan),
    )
