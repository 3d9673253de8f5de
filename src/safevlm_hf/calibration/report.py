"""One HTML file that shows a calibration: what was aimed at and reached, curves, reliability, and other thresholds.

It loads nothing from outside, and whatever comes from data is escaped.
"""

import os
import platform
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import transformers
from markupsafe import Markup

from ..files import write_text
from ..intervals.figure import Figure, counted_share
from ..intervals.reliability import calibration_error_interval, reliability_bins
from ..reports.pages import Section, render_page
from ..reports.plots import reliability_diagram, share_curves
from ..reports.tables import NO_INTERVAL, range_text
from .calibrate import CalibrationResult
from .curves import PRECISION, ROC, Curve, area_intervals, precision_over_recall, roc
from .figures import category_scores, confidences, flagged_categories
from .thresholds import FALSE_POSITIVE_RATE, MISS_RATE


THRESHOLDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
"""Thresholds of the table, common to all categories."""

CORNERS = (0.05, 0.1, 0.2, 0.4)
"""The ROC curves' corner that is drawn larger may reach so far."""

TARGETS = {
    FALSE_POSITIVE_RATE: "clean samples flagged",
    MISS_RATE: "risky samples missed",
}


def write_calibration_report(
    path: str | os.PathLike,
    result: CalibrationResult,
    facts: Mapping[str, str] | None = None,
    title: str = "Calibration of the safety head",
) -> Path:
    """Write the report and return its path. The file appears only when it is complete.

    Args:
        facts: what was run, as command, model and data; seed, samples, machine and versions are added.
    """
    return write_text(path, render_calibration_report(result, facts, title))


def render_calibration_report(
    result: CalibrationResult,
    facts: Mapping[str, str] | None = None,
    title: str = "Calibration of the safety head",
) -> str:
    """Render the whole page."""
    sections = (
        _figures(result),
        _reliability(result, "level"),
        _reliability(result, "category"),
        _curves(result),
        _chosen_thresholds(result),
        _other_thresholds(result),
    )
    own_facts = {
        "seed": str(result.seed),
        "samples": f"{len(result.choose)} to choose, {len(result.check)} to check",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": f"python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}",
    }
    facts = {**(facts or {}), **own_facts}
    lead = _lead(result) | {"is_drawn": facts.get("data", "").startswith("RiskCards")}
    return render_page("calibration/page.html", title, sections, facts=facts, lead=lead)


def _lead(result: CalibrationResult) -> dict:
    """Return the head of the page: what was aimed at and reached, and what the samples did not determine."""
    reached = result.reached
    return {
        "target": _percent(result.target),
        "what": TARGETS[result.target_kind],
        "reached": (_percent(reached.value), f"({_range(reached)})") if reached.total else None,
        "is_on_target": result.is_on_target,
        "level_errors": _errors(result, "level"),
        "category_errors": _errors(result, "category"),
        "num_chosen_with": len(result.choose),
        "num_checked": len(result.check),
        "remarks": result.remarks,
    }


# --------------------------------------------------------------------------------------------------
# Figures
# --------------------------------------------------------------------------------------------------


def _figures(result: CalibrationResult) -> Section:
    aims = dict.fromkeys(TARGETS, "") | {result.target_kind: _percent(result.target)}
    error, both = "the most probable one's probability", (result.before, result.after)
    rows = [
        (
            "Clean samples flagged",
            "over-refusal",
            [_rate(one.false_positives) for one in both],
            aims[FALSE_POSITIVE_RATE],
        ),
        ("Risky samples missed", "no category flagged", [_rate(one.misses) for one in both], aims[MISS_RATE]),
        ("ECE of the level", error, _errors(result, "level"), ""),
        ("ECE of the category", error, _errors(result, "category"), ""),
    ]
    for part, value in result.temperatures.items():
        before = result.base_policy.temperatures.get(part, 1.0)
        rows.append((f"Temperature of the {part}", "", [(f"{before:.3f}", ""), (f"{value:.3f}", "")], ""))
    return Section("Figures", "calibration/figures.html", {"rows": rows})


def _errors(result: CalibrationResult, part: str) -> list[tuple[str, str]]:
    """Return the calibration error of the level or the category (`part`), before and after, each with its interval."""
    errors = []
    for policy, figures in ((result.base_policy, result.before), (result.policy, result.after)):
        interval = calibration_error_interval(*confidences(policy, result.check, part), result.check.groups)
        text = range_text(interval)
        errors.append((f"{getattr(figures, f'{part}_error'):.4f}", f"({text})" if text else ""))
    return errors


def _rate(rate: Figure) -> tuple[str, str]:
    """Return the share, and what it rests on."""
    if rate.interval is None:
        return "no samples", ""
    return _percent(rate.value), f"({rate.count} of {rate.total}; {_range(rate)})"


def _range(rate: Figure) -> str:
    return " to ".join(map(_percent, rate.interval))


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _reliability(result: CalibrationResult, part: str) -> Section:
    """Draw diagrams before and after, of the level or of the category (`part`)."""
    policies = {"Before": result.base_policy, "After": result.policy}
    diagrams = {
        f"{name}: ECE {' '.join(filter(None, error))}": reliability_diagram(
            reliability_bins(*confidences(policy, result.check, part)), "predicted probability", "share that is right"
        )
        for (name, policy), error in zip(policies.items(), _errors(result, part))
    }
    return Section(f"Reliability of the {part}", "calibration/reliability.html", {"part": part, "diagrams": diagrams})


# --------------------------------------------------------------------------------------------------
# Curves
# --------------------------------------------------------------------------------------------------


def _scores(result: CalibrationResult) -> dict[str, tuple[torch.Tensor, torch.BoolTensor]]:
    """Map each category that is on to the held-out samples' probabilities of it, and whether it is their label."""
    probabilities = category_scores(result.policy, result.check)
    ids = {name: index for index, name in enumerate(result.config.categories) if result.policy.is_on(name)}
    return {name: (probabilities[:, index], result.check.category == index) for name, index in ids.items()}


def _curves(result: CalibrationResult) -> Section:
    roc_curves, precision_curves, rows = {}, {}, []
    for name, (scores, is_positive) in _scores(result).items():
        # A curve needs samples of both kinds.
        if is_positive.any() and not is_positive.all():
            arguments = scores.numpy(), is_positive.numpy(), result.thresholds.get(name)
            roc_curves[name], precision_curves[name] = roc(*arguments), precision_over_recall(*arguments)
            intervals = area_intervals(*arguments[:2], result.check.groups)
            ranges = {kind: "{:.4f} to {:.4f}".format(*one) for kind, one in intervals.items() if one is not None}
            areas = {ROC: roc_curves[name].area, PRECISION: precision_curves[name].area}
            rows.append(
                (name, [(f"{area:.4f}", f"({ranges.get(kind, NO_INTERVAL)})") for kind, area in areas.items()])
            )
    axes, corner = ("false positive rate", "true positive rate"), _corner(roc_curves)
    drawn = {"ROC": _draw(roc_curves, *axes)}
    if corner < 1:
        drawn["ROC, upper left corner enlarged: mind the axes"] = _draw(roc_curves, *axes, corner=corner)
    drawn["Precision and recall"] = _draw(precision_curves, "recall", "precision", is_stepped=True)
    return Section("Curves", "calibration/curves.html", {"curves": drawn, "rows": rows})


def _corner(curves: Mapping[str, Curve]) -> float:
    """Return the smallest corner that every curve, and every chosen point, comes into; 1 where only the whole has
    them."""
    nearest = [float(np.maximum(curve.x, 1 - curve.y).min()) for curve in curves.values()]
    chosen = [max(curve.chosen[0], 1 - curve.chosen[1]) for curve in curves.values() if curve.chosen is not None]
    farthest = max([*nearest, *chosen], default=1.0)
    return next((corner for corner in CORNERS if 1.2 * farthest <= corner), 1)


def _draw(
    curves: Mapping[str, Curve], xlabel: str, ylabel: str, is_stepped: bool = False, corner: float = 1
) -> Markup:
    """Draw the curves, and dots where a threshold was chosen."""
    points = {name: curve.chosen for name, curve in curves.items() if curve.chosen is not None}
    shares = {name: (curve.x, curve.y) for name, curve in curves.items()}
    return share_curves(shares, points, xlabel, ylabel, is_stepped, corner)


# --------------------------------------------------------------------------------------------------
# Thresholds
# --------------------------------------------------------------------------------------------------


def _chosen_thresholds(result: CalibrationResult) -> Section:
    clean = result.check.level == 0
    flagged = flagged_categories(result.policy, result.check, result.config)
    rows = []
    for name in _scores(result):
        index = result.config.categories.index(name)
        is_flagged, is_own = flagged[:, index], result.check.category == index
        threshold = f"{result.thresholds[name]:.3g}" if name in result.thresholds else "left alone"
        rates = [_rate(_rate_within(is_flagged, clean)), _rate(_rate_within(is_flagged, is_own))]
        rows.append((name, name in result.undetermined, threshold, rates))
    return Section("Chosen thresholds", "calibration/chosen.html", {"rows": rows})


def _other_thresholds(result: CalibrationResult) -> Section:
    scores, members = (torch.stack(columns, dim=1) for columns in zip(*_scores(result).values()))
    clean = result.check.level == 0
    risky = members.any(dim=1) & ~clean
    rows = [("chosen, by category", [_rate(result.after.false_positives), _rate(result.after.misses)])]
    for threshold in THRESHOLDS:
        flagged = (scores >= threshold).any(dim=1)
        rows.append((f"{threshold:g}", [_rate(_rate_within(flagged, clean)), _rate(_rate_within(~flagged, risky))]))
    return Section("Other thresholds", "calibration/others.html", {"rows": rows})


def _rate_within(is_counted: torch.BoolTensor, samples: torch.BoolTensor) -> Figure:
    return counted_share("flagged_rate", is_counted[samples].tolist())
