"""The report's figures of questions that stand alone, as a table and as bars before and after."""

from collections.abc import Sequence

from ..reports.pages import Section
from ..reports.tables import Row, figure_cell, interval_text, show
from .results import DemoResults
from .targets import is_met


FIGURES = {
    "attack_success_rate": ("Risky prompts answered", "attack success; lower is better"),
    "over_refusal_rate": ("Clean prompts refused", "over-refusal; lower is better"),
    "needless_warning_rate": ("Clean prompts answered with a warning", "lower is better"),
    "clean_exact_match": ("Clean answers right", "exact match"),
    "category_accuracy": ("Category accuracy", "verdict, of all labelled samples"),
    "level_accuracy": ("Level accuracy", "verdict, of all labelled samples"),
    "pairs_both_right": ("Question pairs, both right", "level and category right on both questions"),
    "map_ratio": ("Map on the risky pictogram", "its share of the verdict's map over its share of the area"),
}
"""Figure to its name and what it counts, in the order of the table. Others follow under their own names."""

FIRST_POOLING = '… with head_pooling="first"', "as published: the question never reaches the verdict"
FIRST_COLOUR, MIDDLE_COLOUR, LAST_COLOUR = "#a9b4c0", "#7ba3cf", "#2563a8"


def figures_section(results: DemoResults) -> Section:
    """Show the table of all figures, with the targets on them."""
    data = {"columns": list(results.figures), "rows": figure_rows(results)}
    return Section("Figures", "demo/figures.html", data, is_folded=True)


def figure_rows(results: DemoResults, columns: Sequence[str] | None = None) -> list[Row]:
    """Return one row per figure, and beside the pairs one of a head with `head_pooling="first"`; all columns if
    unset."""
    rows, values = [], results.values
    columns = list(results.figures) if columns is None else columns
    for name in _figure_names(results):
        cells = [
            figure_cell(results.figures[column].get(name), is_met(results.targets, values, name, column))
            for column in columns
        ]
        targets = [str(one) for one in results.targets if one.figure == name and one.column in columns]
        rows.append(Row(*FIGURES.get(name, (name, "")), cells, targets))
        if name == "pairs_both_right" and results.first_pooling is not None:
            # That head is compared with the last column, after both stages.
            last = figure_cell(results.first_pooling[name])
            rows.append(Row(*FIRST_POOLING, [None] * (len(cells) - 1) + [last]))
    return rows


def bars_section(results: DemoResults) -> Section | None:
    """Show the figures that are shares, as bars; `None` without any."""
    columns = list(results.figures)
    colours = dict.fromkeys(columns, MIDDLE_COLOUR) | dict(
        zip(columns[:1] + columns[-1:], (FIRST_COLOUR, LAST_COLOUR))
    )
    groups = []
    for name in _figure_names(results):
        found = {column: figures[name] for column, figures in results.figures.items() if name in figures}
        if name in FIGURES and any(figure.count is not None and figure.total for figure in found.values()):
            bars = [
                {
                    "column": column,
                    "text": show(figure.value),
                    "interval": interval_text(figure),
                    "width": f"{100 * (figure.value or 0):.1f}",
                    "colour": colours[column],
                }
                for column, figure in found.items()
            ]
            groups.append({"title": FIGURES[name][0], "bars": bars})
    return Section("Before and after", "demo/bars.html", {"groups": groups}, is_folded=True) if groups else None


def _figure_names(results: DemoResults) -> list[str]:
    present = dict.fromkeys(name for figures in results.figures.values() for name in figures)
    return [name for name in FIGURES if name in present] + [name for name in present if name not in FIGURES]
