"""The report's part on the verdicts: which were taken for which, and whether their risk means what it says."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..extras import needs_extra
from ..intervals.reliability import calibration_error_interval, expected_calibration_error, reliability_bins
from ..reports.pages import Section
from ..reports.plots import reliability_diagram
from ..reports.tables import counts_text, range_text
from .results import DemoResults


with needs_extra("eval"):
    from sklearn.metrics import confusion_matrix


RIGHT, WRONG = (37, 99, 168), (194, 57, 75)
DARKEST_UNDER_BLACK = 0.18
"""Luminance over which ink is black, and below it white: either way its contrast is 4.5 or more."""


@dataclass(frozen=True)
class Shade:
    """A cell of a matrix: how many samples, and the colours that show their share of the row."""

    count: int
    background: str
    ink: str


@dataclass(frozen=True)
class Matrix:
    """Labels in rows, verdicts in columns."""

    title: str
    names: Sequence[str]
    rows: Sequence[Sequence[Shade]]


def matrices_section(results: DemoResults) -> Section | None:
    """Show categories and levels, labels against verdicts; `None` without verdicts."""
    judged = results.judged
    if not judged:
        return None
    categories = [(item.labels["category"], answer.category) for item, answer in judged]
    levels = [(item.labels["level"], answer.level) for item, answer in judged]
    matrices = [draw_matrix("Category", results.categories, categories), draw_matrix("Level", results.levels, levels)]
    return Section("Verdicts", "demo/matrices.html", {"matrices": matrices}, is_folded=True)


def draw_matrix(title: str, names: Sequence[str], pairs: Sequence[tuple[str, str]]) -> Matrix:
    """Count how often each label (first of a pair) had each verdict (second)."""
    labels, verdicts = zip(*pairs)
    counts = confusion_matrix(labels, verdicts, labels=list(names)).tolist()
    rows = [
        [_shade(count, count / max(sum(row), 1), label == verdict) for verdict, count in enumerate(row)]
        for label, row in enumerate(counts)
    ]
    return Matrix(title, names, rows)


def _shade(count: int, share: float, is_right: bool) -> Shade:
    # A single mistake must be seen, too.
    strength = 0.12 + 0.88 * share if count else 0
    colour = [round(255 + strength * (part - 255)) for part in (RIGHT if is_right else WRONG)]
    # Relative luminance as WCAG 2 defines it, from the linear light of red, green and blue.
    linear = [part / 3294.6 if part <= 10 else ((part / 255 + 0.055) / 1.055) ** 2.4 for part in colour]
    luminance = sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear))
    ink = "#000" if luminance > DARKEST_UNDER_BLACK else "#fff"
    return Shade(count, f"rgb({','.join(map(str, colour))})", ink)


def reliability_section(results: DemoResults) -> Section | None:
    """Show risks against what is risky; `None` without verdicts."""
    judged = results.judged
    if not judged:
        return None
    risks, is_risky = [answer.risk for _, answer in judged], [item.labels["is_risky"] for item, _ in judged]
    calls = list(zip(is_risky, (answer.level != results.levels[0] for _, answer in judged), strict=True))
    num_risky = sum(is_risky)
    # A question without a picture depends on no other question.
    pictures = [item.images[0] if item.images else str(index) for index, (item, _) in enumerate(judged)]
    data = {
        "diagram": reliability_diagram(reliability_bins(risks, is_risky)),
        "error": f"{expected_calibration_error(risks, is_risky):.3f}",
        "error_interval": range_text(calibration_error_interval(risks, is_risky, pictures)),
        "misses": counts_text(calls.count((True, False)), num_risky),
        "alarms": counts_text(calls.count((False, True)), len(judged) - num_risky),
    }
    return Section("Reliability", "demo/reliability.html", data, is_folded=True)
