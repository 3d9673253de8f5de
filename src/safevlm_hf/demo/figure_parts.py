"""The report's figures of questions that stand alone, as a table and as bars before and after."""

from collections.abc import Mapping, Sequence

from ..intervals.figure import Figure
from ..reports.pages import Section
from ..reports.tables import Cell, Row, counted_note, interval_text, mean_note, short_note
from .results import DemoResults
from .targets import is_met


FIGURES = {
    "attack_success_rate": ("Risky prompts answered", "attack success; lower is better"),
    "over_refusal_rate": ("Clean prompts refused", "over-refusal, warnings included; lower is better"),
    "clean_exact_match": ("Clean answers right", "exact match"),
    "category_accuracy": ("Category accuracy", "verdict, of all labelled samples"),
    "level_accuracy": ("Level accuracy", "verdict, of all labelled samples"),
    "pairs_both_right": ("Question pairs, both right", "level and category right on both questions"),
    "map_ratio": ("Map on the risky pictogram", "its share of the verdict's map over its share of the area"),
    "num_samples": ("Samples", "held out"),
}
"""Figure to its name and what it counts, in the order of the table. Others follow under their own names."""

FIRST_POOLING = '… with head_pooling="first"', "as published: the question never reaches the verdict"
FIRST_COLOUR, MIDDLE_COLOUR, LAST_COLOUR = "#a9b4c0", "#7ba3cf", "#2563a8"


def figures_section(results: DemoResults) -> Section:
    """The table of all figures, with the targets on them."""
    data = {"columns": list(results.figures), "rows": figure_rows(results)}
    return Section("Figures", "report/figures.html", data, is_folded=True)


def figure_rows(results: DemoResults, columns: Sequence[str] | None = None) -> list[Row]:
    """One row per figure, and beside the pairs one of a head with `head_pooling="first"`; all columns if unset."""
    rows, rates, columns = [], results.rates, list(results.figures) if columns is None else columns
    for name in _figure_names(results):
        cells = [
            Cell(
                show(results.figures[column].get(name)),
                _note(results, rates, column, name),
                is_met(results.targets, results.figures, name, column),
                short_note(rates.get(column, {}).get(name)),
            )
            for column in columns
        ]
        of_name = [target for target in results.targets if target.figure == name]
        targets = [str(target) for target in of_name if target.column in columns]
        rows.append(Row(*FIGURES.get(name, (name, "")), cells, targets))
        if name == "pairs_both_right" and results.first_pooling is not None:
            first = results.first_pooling[name]
            last = Cell(show(first.value), counted_note(first), short_note=short_note(first))
            rows.append(Row(*FIRST_POOLING, [None] * (len(cells) - 1) + [last]))
    return rows


def _note(results: DemoResults, rates: Mapping[str, Mapping[str, Figure]], column: str, name: str) -> str:
    if name == "map_ratio" and results.figures[column].get(name) is not None:
        return mean_note((results.localisation or {}).get("pictogram_region", {}))
    return counted_note(rates.get(column, {}).get(name))


def bars_section(results: DemoResults) -> Section | None:
    """Those figures that are shares, as bars; `None` without any."""
    columns = list(results.figures)
    colours = dict.fromkeys(columns, MIDDLE_COLOUR) | dict(
        zip(columns[:1] + columns[-1:], (FIRST_COLOUR, LAST_COLOUR))
    )
    groups, rates = [], results.rates
    for name in _figure_names(results):
        values = {column: figures.get(name) for column, figures in results.figures.items()}
        is_share = any(isinstance(value, float) for value in values.values()) and name != "map_ratio"
        if name in FIGURES and is_share:
            bars = [
                {
                    "column": column,
                    "text": show(value),
                    "interval": interval_text(rates.get(column, {}).get(name)),
                    "width": f"{100 * (value or 0):.1f}",
                    "colour": colours[column],
                }
                for column, value in values.items()
            ]
            groups.append({"title": FIGURES[name][0], "bars": bars})
    return Section("Before and after", "report/bars.html", {"groups": groups}, is_folded=True) if groups else None


def show(value: float | int | None) -> str:
    """A figure as the report writes it."""
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _figure_names(results: DemoResults) -> list[str]:
    present = dict.fromkeys(name for figures in results.figures.values() for name in figures)
    return [name for name in FIGURES if name in present] + [name for name in present if name not in FIGURES]
