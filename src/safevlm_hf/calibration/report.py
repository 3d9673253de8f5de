"""One HTML file that shows a calibration: what was aimed at and reached, curves, reliability, and other thresholds.

It loads nothing from outside, and whatever comes from data is escaped.
"""

import os
import platform
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import torch
import transformers

from safevlm_hf.calibration.calibrate import CalibrationResult
from safevlm_hf.calibration.curves import Curve, precision_over_recall, roc
from safevlm_hf.calibration.figures import PolicyFigures, Rate, category_scores, confidences, flagged_categories
from safevlm_hf.calibration.reliability import reliability_bins
from safevlm_hf.calibration.thresholds import FALSE_POSITIVE_RATE
from safevlm_hf.evaluation.report import render_facts, render_page
from safevlm_hf.evaluation.report_plots import reliability_diagram, share_curves
from safevlm_hf.files import write_text


THRESHOLDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
"""Those of the table, common to all categories."""

TARGETS = {
    FALSE_POSITIVE_RATE: "clean samples flagged",
    "miss_rate": "risky samples missed",
}


def write_calibration_report(
    path: str | os.PathLike,
    result: CalibrationResult,
    facts: Mapping[str, str] | None = None,
    title: str = "Calibration of the safety head",
) -> Path:
    """Writes the report and returns its path. The file appears only when it is complete.

    Args:
        facts: what was run, as command, model and data; seed, samples, machine and versions are added.
    """
    return write_text(path, render_calibration_report(result, facts, title))


def render_calibration_report(
    result: CalibrationResult,
    facts: Mapping[str, str] | None = None,
    title: str = "Calibration of the safety head",
) -> str:
    """The whole page."""
    sections = (
        f"<h1>{escape(title)}</h1>\n{_lead(result)}{render_facts({**(facts or {}), **_own_facts(result)})}",
        _figures(result),
        _reliability(result),
        _curves(result),
        _categories(result),
        _thresholds(result),
    )
    return render_page(title, sections)


def _lead(result: CalibrationResult) -> str:
    reached = result.reached
    if reached.total:
        verdict = ("not within", "within")[result.is_on_target]
        said = f"Reached: <b>{_percent(reached.share)}</b>, {verdict} sampling error of the target."
    else:
        said = "There are no held-out samples to check it with."
    return (
        f'<p class="lead">Target: {_percent(result.target)} of {TARGETS[result.target_kind]}. {said} '
        f"Calibration error (ECE) of the level: {result.before.level_error:.4f} before, "
        f"<b>{result.after.level_error:.4f}</b> after; of the category: {result.before.category_error:.4f}, "
        f"<b>{result.after.category_error:.4f}</b>.</p>"
        f"<p>Temperatures and thresholds were chosen with {len(result.choose)} samples. Every figure here is of "
        f"{len(result.check)} others: no picture is in both parts. The sampling error (95%) is that of both.</p>"
        f"{_remarks(result)}"
    )


def _remarks(result: CalibrationResult) -> str:
    if not result.remarks:
        return ""
    items = "".join(f"<li>{escape(remark)}</li>" for remark in result.remarks)
    return (
        "<p>These samples do not determine everything. A threshold is not moved to where nothing contradicts it, and "
        f"what is left alone keeps the rule of the policy before:</p><ul>{items}</ul>"
    )


def _own_facts(result: CalibrationResult) -> dict[str, str]:
    return {
        "seed": str(result.seed),
        "samples": f"{len(result.choose)} to choose, {len(result.check)} to check",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": f"python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}",
    }


# --------------------------------------------------------------------------------------------------
# Figures
# --------------------------------------------------------------------------------------------------


def _figures(result: CalibrationResult) -> str:
    aims = dict.fromkeys(TARGETS, "") | {result.target_kind: _percent(result.target)}

    def row(label: str, note: str, show, target: str = "") -> str:
        cells = f"<td>{show(result.before)}</td><td>{show(result.after)}</td><td class='target'>{target}</td>"
        return f"<tr><th>{label}<small>{note}</small></th>{cells}</tr>"

    rows = (
        row(
            "Clean samples flagged", "over-refusal", lambda one: _rate(one.false_positives), aims[FALSE_POSITIVE_RATE]
        ),
        row("Risky samples missed", "no category flagged", lambda one: _rate(one.misses), aims["miss_rate"]),
        row("ECE of the level", "the most probable one's probability", lambda one: f"{one.level_error:.4f}"),
        row("ECE of the category", "the most probable one's probability", lambda one: f"{one.category_error:.4f}"),
        *(
            f"<tr><th>Temperature of the {part}</th><td>{result.base_policy.temperatures.get(part, 1.0):.3f}</td>"
            f"<td>{value:.3f}</td><td></td></tr>"
            for part, value in result.temperatures.items()
        ),
    )
    head = "<th></th><th>before</th><th>after</th><th>target</th>"
    return (
        '<h2>Figures</h2>\n<p class="note">In brackets: counts, and 95% intervals (Wilson). Before is the policy that '
        f"calibration started from.</p>{_table(head, rows)}"
    )


def _table(head: str, rows: Sequence[str]) -> str:
    return f'<table class="figures"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _rate(rate: Rate) -> str:
    if not rate.total:
        return "no samples"
    low, high = rate.interval
    return (
        f"{_percent(rate.share)} <span class='note'>({rate.count} of {rate.total}; "
        f"{_percent(low)} to {_percent(high)})</span>"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _reliability(result: CalibrationResult) -> str:
    def diagram(name: str, policy, part: str) -> str:
        figures: PolicyFigures = getattr(result, name)
        bins = reliability_bins(*confidences(policy, result.check, part))
        svg = reliability_diagram(bins, "predicted probability", "share that is right")
        return f"<figure><h3>{name.capitalize()}: ECE {getattr(figures, f'{part}_error'):.4f}</h3>{svg}</figure>"

    def side(part: str) -> str:
        diagrams = diagram("before", result.base_policy, part) + diagram("after", result.policy, part)
        return f'<h2>Reliability of the {part}</h2>\n<div class="side">{diagrams}</div>'

    return (
        f"{side('level')}\n<p>Where the most probable level has 0.8, is it right in 8 of 10 samples? On the dashed "
        f"line it is; above it the model is too modest, below it too sure.</p>\n{side('category')}"
    )


# --------------------------------------------------------------------------------------------------
# Curves
# --------------------------------------------------------------------------------------------------


def _scores(result: CalibrationResult) -> dict[str, tuple[torch.Tensor, torch.BoolTensor]]:
    """Category that is on to the held-out samples' probabilities of it, and whether it is their label."""
    probabilities = category_scores(result.policy, result.check)
    ids = {name: index for index, name in enumerate(result.config.categories) if result.policy.is_on(name)}
    return {name: (probabilities[:, index], result.check.category == index) for name, index in ids.items()}


def _curves(result: CalibrationResult) -> str:
    roc_curves, precision_curves = {}, {}
    for name, (scores, is_positive) in _scores(result).items():
        if is_positive.any() and not is_positive.all():
            arguments = scores.numpy(), is_positive.numpy(), result.thresholds.get(name)
            roc_curves[name], precision_curves[name] = roc(*arguments), precision_over_recall(*arguments)
    roc_svg = _draw(roc_curves, "false positive rate", "true positive rate")
    precision_svg = _draw(precision_curves, "recall", "precision", is_stepped=True)
    return (
        "<h2>Curves</h2>\n<p>Each category against the rest, by its calibrated probability, with the area under the "
        'curve. Dots are the chosen thresholds.</p><div class="side">'
        f"<figure><h3>ROC</h3>{roc_svg}</figure><figure><h3>Precision and recall</h3>{precision_svg}</figure></div>"
    )


def _draw(curves: Mapping[str, Curve], xlabel: str, ylabel: str, is_stepped: bool = False) -> str:
    """The curves with their areas in the legend, and dots where a threshold was chosen."""
    named = {f"{name} ({curve.area:.3f})": curve for name, curve in curves.items()}
    points = {name: curve.chosen for name, curve in named.items() if curve.chosen is not None}
    return share_curves(
        {name: (curve.x, curve.y) for name, curve in named.items()}, points, xlabel, ylabel, is_stepped
    )


# --------------------------------------------------------------------------------------------------
# Thresholds
# --------------------------------------------------------------------------------------------------


def _categories(result: CalibrationResult) -> str:
    clean = result.check.level == 0
    flagged = flagged_categories(result.policy, result.check, result.config)
    rows = []
    for name in _scores(result):
        index = result.config.categories.index(name)
        is_flagged, is_own = flagged[:, index], result.check.category == index
        on_clean = Rate(int((is_flagged & clean).sum()), int(clean.sum()))
        caught = Rate(int((is_flagged & is_own).sum()), int(is_own.sum()))
        threshold = f"{result.thresholds[name]:.3g}" if name in result.thresholds else "left alone"
        note = "<small>not determined</small>" if name in result.undetermined else ""
        rows.append(
            f"<tr><th>{escape(name)}{note}</th><td>{threshold}</td><td>{_rate(on_clean)}</td>"
            f"<td>{_rate(caught)}</td></tr>"
        )
    head = "<th>category</th><th>threshold</th><th>clean samples it flags</th><th>its own samples it flags</th>"
    return (
        '<h2>Chosen thresholds</h2>\n<p class="note">Rounded here, not in the policy. A risky sample that another '
        f"category flags is no miss.</p>{_table(head, rows)}"
    )


def _thresholds(result: CalibrationResult) -> str:
    scores = torch.stack([scores for scores, _ in _scores(result).values()], dim=1)
    members = torch.stack([is_positive for _, is_positive in _scores(result).values()], dim=1)
    clean = result.check.level == 0
    risky = members.any(dim=1) & ~clean
    rows = [_threshold_row("chosen, by category", result.after.false_positives, result.after.misses, "chosen")]
    for threshold in THRESHOLDS:
        flagged = (scores >= threshold).any(dim=1)
        false_positives = Rate(int((flagged & clean).sum()), int(clean.sum()))
        misses = Rate(int((~flagged & risky).sum()), int(risky.sum()))
        rows.append(_threshold_row(f"{threshold:g}", false_positives, misses))
    head = "<th>threshold</th><th>clean samples flagged (over-refusal)</th><th>risky samples missed</th>"
    return (
        "<h2>Other thresholds</h2>\n<p>What one threshold on the calibrated probability of every category would give."
        f"</p>{_table(head, rows)}"
    )


def _threshold_row(name: str, false_positives: Rate, misses: Rate, kind: str = "") -> str:
    cells = f"<th>{name}</th><td>{_rate(false_positives)}</td><td>{_rate(misses)}</td>"
    return f'<tr class="{kind}">{cells}</tr>' if kind else f"<tr>{cells}</tr>"
