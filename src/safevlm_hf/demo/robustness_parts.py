"""The report's part on robustness: what stands around a question, and changed pictures, as a table and as curves."""

from collections.abc import Iterator, Mapping, Sequence

from ..intervals.figure import Figure
from ..reports.pages import Section
from ..reports.plots import rate_curves
from ..reports.tables import Cell, Row, figure_cell
from .results import DemoResults
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
    """The whole part; `None` without results."""
    if not results:
        return None
    data = {
        "tables": [_table(title, part, targets) for title, part in _parts(results).items()],
        "length_curves": _length_curves(results),
        "strength_curves": _strength_curves(results),
    }
    return Section("Around the question", "report/robustness.html", data, is_folded=True)


def row_of_figure(result: RowResult, figure: str, columns: Sequence[str], results: DemoResults) -> Row:
    """One figure of a row by itself, with its name whole."""
    name, measured = figure_name(result.row.name, figure), row_figures([result])
    cells = [
        _cell(result.rates.get(column, {}).get(figure), is_met(results.targets, measured, name, column))
        for column in columns
    ]
    return Row(result.row.name, figure, cells, _of(results.targets, name))


def format_rows(results: Sequence[RowResult], targets: Sequence[Target]) -> list[list[list[str]]]:
    """The figures as tables for a terminal: each a header, then one line per figure, all cells as plain text."""
    return [_format_part(part, targets) for part in _parts(results).values()]


def _parts(results: Sequence[RowResult]) -> dict[str, list[RowResult]]:
    """Title to rows: those where only the verdict was read, and those that were answered."""
    verdicts = [result for result in results if not result.row.answers]
    answers = [result for result in results if result.row.answers]
    return {title: part for title, part in (("Verdicts alone", verdicts), ("Answers", answers)) if part}


def _format_part(results: Sequence[RowResult], targets: Sequence[Target]) -> list[list[str]]:
    columns, figures = _columns(results), row_figures(results)
    lines = []
    for row, figure, rates in _lines(results):
        name = figure_name(row, figure)
        cells = [_cell(rates.get(column), is_met(targets, figures, name, column)) for column in columns]
        lines.append([name, *("" if cell is None else str(cell) for cell in cells), "; ".join(_of(targets, name))])
    return [["held-out figure", *columns, "target"], *lines]


def _columns(results: Sequence[RowResult]) -> list[str]:
    return [column for column in COLUMNS if any(column in result.rates for result in results)]


def _lines(results: Sequence[RowResult]) -> Iterator[tuple[str, str, dict[str, Figure]]]:
    """Row, figure, and column to rate, in the order of the table. Points of a curve over strengths have no line."""
    for result in results:
        if result.row.curve not in (None, *LENGTHS):
            continue
        for figure in FIGURES:
            rates = {name: found[figure] for name, found in result.rates.items() if figure in found}
            if rates:
                yield result.row.name, figure, rates


def _of(targets: Sequence[Target], name: str) -> list[str]:
    return [str(target) for target in targets if target.figure == name]


def _table(title: str, results: Sequence[RowResult], targets: Sequence[Target]) -> dict:
    """Columns and rows; of the lines of one row only the first carries its name."""
    columns, figures = _columns(results), row_figures(results)
    rows, last = [], None
    for row, figure, rates in _lines(results):
        name = figure_name(row, figure)
        cells = [_cell(rates.get(column), is_met(targets, figures, name, column)) for column in columns]
        rows.append(Row(row if row != last else "", figure, cells, _of(targets, name)))
        last = row
    return {"title": title, "columns": columns, "rows": rows}


def _cell(figure: Figure | None, met: bool | None) -> Cell | None:
    return None if figure is None else figure_cell(figure, met)


# --------------------------------------------------------------------------------------------------
# Curves
# --------------------------------------------------------------------------------------------------


def _length_curves(results: Sequence[RowResult]) -> dict[str, str]:
    """Kind of surroundings to the shares that are flagged over its amounts, as SVG."""
    found = {}
    for kind, (title, label) in AXES.items():
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
    """Figure to its shares over the strength of each change of the picture, as SVG."""
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
    """The curve's (place, rate), rising; it starts with the question alone."""
    found: Mapping[float, Figure] = {
        start if result.row.name == ALONE else result.row.place: result.rates[column][figure]
        for result in results
        if (result.row.curve == curve or result.row.name == ALONE) and figure in result.rates.get(column, {})
    }
    return sorted(found.items())
