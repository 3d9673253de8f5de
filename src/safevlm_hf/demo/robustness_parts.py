"""The report's part on robustness: what stands around a question, and changed pictures, as a table and as curves."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..intervals.figure import Figure
from ..reports.pages import Section
from ..reports.plots import rate_curves
from ..reports.tables import Row, Table, figure_cell
from .rows import (
    ALONE,
    BASE,
    BOTH_STAGES,
    CLEAN_FLAGGED,
    FIGURES,
    FIRST,
    LENGTHS,
    MEAN,
    RISKY_FLAGGED,
    RowResult,
    figure_name,
    row_figures,
)
from .targets import Target, is_met


COLUMNS = (BASE, BOTH_STAGES, MEAN, FIRST)
AXES = {
    "words": ("Words around the question", "harmless sentences in the same message"),
    "prompt": ("An operator's prompt", "words of the prompt"),
    "turn": ("Later turns", "turn that the question is in"),
}
BOUNDS = {RISKY_FLAGGED: 0.95, CLEAN_FLAGGED: 0.05}


def robustness_section(results: Sequence[RowResult], targets: Sequence[Target]) -> Section | None:
    """Return the whole part; `None` without results."""
    if not results:
        return None
    tables = []
    for table in tables_of_rows(results, targets):
        # Of the lines of one row only the first carries its name.
        names = [None, *(row.title for row in table.rows)]
        rows = [replace(row, title="") if row.title == name else row for row, name in zip(table.rows, names)]
        tables.append(replace(table, rows=rows))
    data = {
        "tables": tables,
        "length_curves": _length_curves(results),
        "strength_curves": _strength_curves(results),
    }
    return Section("Around the question", "demo/robustness.html", data, is_folded=True)


def tables_of_rows(results: Sequence[RowResult], targets: Sequence[Target]) -> list[Table]:
    """Return two tables: rows of which only the verdict was read, and those that were answered.

    Points of a curve over strengths have no line."""
    tables = []
    for title, answers in (("Verdicts alone", False), ("Answers", True)):
        part = [result for result in results if result.row.answers is answers]
        columns = [column for column in COLUMNS if any(column in result.rates for result in part)]
        rows = [
            row_of_figure(result, figure, columns, targets)
            for result in part
            if result.row.curve in (None, *LENGTHS)
            for figure in FIGURES
            if any(figure in found for found in result.rates.values())
        ]
        if part:
            tables.append(Table(title, columns, rows))
    return tables


def row_of_figure(result: RowResult, figure: str, columns: Sequence[str], targets: Sequence[Target]) -> Row:
    """Return one figure of a row, with the name of the row."""
    name, measured = figure_name(result.row.name, figure), row_figures([result])
    found = [result.rates.get(column, {}).get(figure) for column in columns]
    cells = [
        None if one is None else figure_cell(one, is_met(targets, measured, name, column))
        for column, one in zip(columns, found)
    ]
    return Row(result.row.name, figure, cells, [str(target) for target in targets if target.figure == name])


# --------------------------------------------------------------------------------------------------
# Curves
# --------------------------------------------------------------------------------------------------


def _length_curves(results: Sequence[RowResult]) -> dict[str, str]:
    """Map a kind of surroundings to the shares that are flagged over its amounts, as SVG."""
    found = {}
    for kind, (title, label) in AXES.items():
        # A question alone is in turn 1, and has 0 words around it.
        start = 1 if kind == "turn" else 0
        lines = {
            f"{figure.split(',')[0]}, {column}": points
            for column in (BOTH_STAGES, MEAN, FIRST)
            for figure in BOUNDS
            if len(points := _points(results, kind, column, figure, start)) > 1
        }
        if lines:
            found[title] = rate_curves(lines, label, BOUNDS.values())
    return found


def _strength_curves(results: Sequence[RowResult]) -> dict[str, str]:
    """Map a figure to its shares over the strength of each change of the picture, as SVG."""
    changes = dict.fromkeys(one.row.curve for one in results if one.row.curve not in (None, *LENGTHS))
    found = {}
    for figure, bound in BOUNDS.items():
        lines = {str(change): _points(results, change, BOTH_STAGES, figure, 0) for change in changes}
        lines = {change: points for change, points in lines.items() if points}
        if lines:
            label = "strength of the change of the picture"
            found[figure.capitalize()] = rate_curves(lines, label, (bound,), figure)
    return found


def _points(
    results: Sequence[RowResult], curve: str | None, column: str, figure: str, start: float
) -> list[tuple[float, Figure]]:
    """Return the curve's (place, rate), rising; it starts with the question alone."""
    found: Mapping[float, Figure] = {
        start if result.row.name == ALONE else result.row.place: result.rates[column][figure]
        for result in results
        if (result.row.curve == curve or result.row.name == ALONE) and figure in result.rates.get(column, {})
    }
    return sorted(found.items())
