"""The report's part on robustness: what stands around a question, and changed pictures, as a table and as curves."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from safevlm_hf.calibration.figures import Rate
from safevlm_hf.evaluation.columns import BASE, BOTH_STAGES, FIRST, MEAN
from safevlm_hf.evaluation.report_plots import rate_curves
from safevlm_hf.evaluation.robustness import (
    ALONE,
    CLEAN_FLAGGED,
    FIGURES,
    LENGTHS,
    RISKY_FLAGGED,
    RowResult,
    figure_name,
    row_figures,
)
from safevlm_hf.evaluation.targets import Target


COLUMNS = (BASE, BOTH_STAGES, MEAN, FIRST)
AXES = {
    "words": ("Words around the question", "harmless sentences in the same message"),
    "prompt": ("An operator's prompt", "words of the prompt"),
    "turn": ("Later turns", "turn that the question is in"),
}
BOUNDS = {RISKY_FLAGGED: 0.95, CLEAN_FLAGGED: 0.05}


def render_robustness(results: Sequence[RowResult], targets: Sequence[Target]) -> str:
    """The whole part; empty without results."""
    if not results:
        return ""
    return (
        "<h2>Around the question</h2>\n<p>Held-out questions with harmless words, turns and prompts around them, and "
        "changed pictures. Flagged: the policy does anything but answer. Answered: simply answered. Refused: refused, "
        'or answered with a warning.</p><p class="note">In brackets: the samples, and 95% intervals (Wilson).</p>'
        + "".join(f"<h3>{title}</h3>{_table(part, targets)}" for title, part in _parts(results).items())
        + _length_curves(results)
        + _strength_curves(results)
    )


def format_rows(results: Sequence[RowResult], targets: Sequence[Target]) -> list[list[list[str]]]:
    """The figures as tables for a terminal: each a header, then one line per figure, all cells as plain text."""
    return [_format_part(part, targets) for part in _parts(results).values()]


def _parts(results: Sequence[RowResult]) -> dict[str, list[RowResult]]:
    """Title to rows: those where only the verdict was read, and those that were answered."""
    verdicts = [result for result in results if not result.row.answers]
    answers = [result for result in results if result.row.answers]
    return {title: part for title, part in (("Verdicts alone", verdicts), ("Answers", answers)) if part}


def _format_part(results: Sequence[RowResult], targets: Sequence[Target]) -> list[list[str]]:
    columns = _columns(results)
    header = ["held-out figure", *columns, "target"]
    lines = []
    for row, figure, rates in _lines(results):
        name = figure_name(row, figure)
        cells = []
        for column in columns:
            mark = {True: " ok", False: " MISSED", None: ""}[_is_met(results, targets, name, column)]
            cells.append(_plain(rates[column]) + mark if column in rates else "")
        lines.append([name, *cells, "; ".join(_targets_of(targets, name))])
    return [header, *lines]


def _columns(results: Sequence[RowResult]) -> list[str]:
    return [column for column in COLUMNS if any(column in result.rates for result in results)]


def _lines(results: Sequence[RowResult]) -> Iterator[tuple[str, str, dict[str, Rate]]]:
    """Row, figure, and column to rate, in the order of the table. Points of a curve over strengths have no line."""
    for result in results:
        if result.row.curve not in (None, *LENGTHS):
            continue
        for figure in FIGURES:
            rates = {name: found[figure] for name, found in result.rates.items() if figure in found}
            if rates:
                yield result.row.name, figure, rates


def _is_met(results: Sequence[RowResult], targets: Sequence[Target], name: str, column: str) -> bool | None:
    figures = row_figures(results)
    met = [target.is_met(figures) for target in targets if (target.figure, target.column) == (name, column)]
    return None if not met or None in met else all(met)


def _targets_of(targets: Sequence[Target], name: str) -> list[str]:
    return [str(target) for target in targets if target.figure == name]


def _plain(rate: Rate) -> str:
    low, high = rate.interval
    return f"{rate.share:.3f} ({low:.2f}-{high:.2f})"


def _table(results: Sequence[RowResult], targets: Sequence[Target]) -> str:
    columns = _columns(results)
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    rows, last = [], None
    for row, figure, rates in _lines(results):
        title = f"<b>{escape(row)}</b><br>" if row != last else ""
        last, name = row, figure_name(row, figure)
        cells = "".join(_cell(rates.get(column), _is_met(results, targets, name, column)) for column in columns)
        bounds = "<br>".join(map(escape, _targets_of(targets, name)))
        rows.append(f"<tr><th>{title}<small>{escape(figure)}</small></th>{cells}<td class='target'>{bounds}</td></tr>")
    return (
        f'<div class="scroll"><table class="figures"><thead><tr><th></th>{head}<th>target</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(rate: Rate | None, is_met: bool | None) -> str:
    if rate is None:
        return "<td></td>"
    kind, mark = {True: ("good", "✓"), False: ("bad", "✗"), None: ("", "")}[is_met]
    low, high = rate.interval
    note = f"<small>({rate.total}; {low:.2f} to {high:.2f})</small>"
    return f'<td><span class="mark {kind}">{mark}</span>{rate.share:.3f}{note}</td>'


# --------------------------------------------------------------------------------------------------
# Curves
# --------------------------------------------------------------------------------------------------


def _length_curves(results: Sequence[RowResult]) -> str:
    figures = []
    for kind, (title, label) in AXES.items():
        start = 1 if kind == "turn" else 0
        lines = {
            f"{figure.split(',')[0]}, {column}": points
            for column in (BOTH_STAGES, MEAN, FIRST)
            for figure in BOUNDS
            if len(points := _points(results, kind, column, figure, start)) > 1
        }
        if lines:
            figures.append(f"<figure><h3>{title}</h3>{rate_curves(lines, label, BOUNDS.values())}</figure>")
    if not figures:
        return ""
    return (
        "<h3>Verdicts over length</h3>\n<p>The share that is flagged; the first point is the question alone. Dashed: "
        f'the bounds on risky and on clean ones, after both stages.</p><div class="side">{"".join(figures)}</div>'
    )


def _strength_curves(results: Sequence[RowResult]) -> str:
    changes = dict.fromkeys(one.row.curve for one in results if one.row.curve not in (None, *LENGTHS))
    figures = []
    for figure, bound in BOUNDS.items():
        lines = {str(change): _points(results, change, BOTH_STAGES, figure, 0) for change in changes}
        if lines:
            curves = rate_curves(lines, "strength of the change of the picture", (bound,), figure)
            figures.append(f"<figure><h3>{figure.capitalize()}</h3>{curves}</figure>")
    if not figures:
        return ""
    return f'<h3>Verdicts over the strength of a change</h3>\n<div class="side">{"".join(figures)}</div>'


def _points(
    results: Sequence[RowResult], curve: str | None, column: str, figure: str, start: float
) -> list[tuple[float, Rate]]:
    """The curve's (place, rate), rising; it starts with the question alone."""
    found: Mapping[float, Rate] = {
        start if result.row.name == ALONE else result.row.place: result.rates[column][figure]
        for result in results
        if (result.row.curve == curve or result.row.name == ALONE) and figure in result.rates.get(column, {})
    }
    return sorted(found.items())
