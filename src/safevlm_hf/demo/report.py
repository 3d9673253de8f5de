"""One HTML file that shows what a run reached: figures, plots, pictures with verdicts and answers, and every mistake.

It loads nothing from outside, and whatever comes from data is escaped.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from ..files import write_text
from ..reports.pages import Section, render_page
from ..reports.plots import training_curves
from ..reports.tables import Row, Table, align, interval_text, show
from .control_parts import explanations_section, policies_section
from .figure_parts import bars_section, figure_rows, figures_section
from .headline import headline_columns, headline_rows, headline_section
from .picture_parts import gallery_section, mistakes_section, pairs_section
from .results import DemoResults
from .robustness_parts import robustness_section, tables_of_rows
from .rows import FIGURES, figure_name
from .verdict_parts import matrices_section, reliability_section


def write_report(path: str | os.PathLike, results: DemoResults) -> Path:
    """Write the report and return its path. The file appears only when it is complete."""
    return write_text(path, render_report(results))


def render_report(results: DemoResults) -> str:
    """Return the whole page."""
    # What is explained are the first risky items.
    explained = [row for row in results.rows if row[0].labels["is_risky"]][: len(results.explanations)]
    tried = results.rows[: len(results.trials[0].answers)] if results.trials else ()
    curves = training_curves(results.logs)
    sections = (
        headline_section(results),
        figures_section(results),
        robustness_section(results.robustness, results.targets),
        bars_section(results),
        matrices_section(results),
        reliability_section(results),
        policies_section(results.trials, tried, results.categories),
        explanations_section(results.explanations, results.localisation, explained),
        Section("Training", "demo/training.html", {"curves": curves}, is_folded=True) if curves else None,
        pairs_section(results),
        mistakes_section(results),
        gallery_section(results),
    )
    lead = {
        "attacks": _before_and_after(results, "attack_success_rate"),
        "refusals": _before_and_after(results, "over_refusal_rate"),
        "num_met": results.targets_met.count(True),
        "num_targets": len(results.targets),
        "has_pictures": any(item.images for item in results.items),
    }
    return render_page("demo/page.html", "SafeVLM on the held-out split", sections, facts=results.facts, lead=lead)


def _before_and_after(results: DemoResults, figure: str) -> list[dict[str, str]]:
    """Return a figure and its interval in the first column and in the last."""
    columns = list(results.figures.values()) or [{}]
    cells = [(column[figure].value, column[figure]) if figure in column else (None, None) for column in columns]
    return [{"text": show(value), "interval": interval_text(found)} for value, found in (cells[0], cells[-1])]


def format_headline(results: DemoResults) -> str:
    """Return the headline as a table of plain ASCII that fits on a terminal's screen."""
    rows, num_more_missed = headline_rows(results)
    table = _format(headline_columns(results), rows, results)
    return table + (f"\n\n{num_more_missed} more figures miss a target" if num_more_missed else "")


def format_table(results: DemoResults) -> str:
    """Return all figures as tables of plain ASCII."""
    alone = Table("Alone", list(results.figures), figure_rows(results))
    tables = (alone, *tables_of_rows(results.robustness, results.targets))
    return "\n\n".join(_format(table.columns, table.rows, results) for table in tables)


def _format(columns: Iterable[str], rows: Iterable[Row], results: DemoResults) -> str:
    table = [["held-out figure", *columns, "target"]]
    for row in rows:
        title = figure_name(row.title, row.note) if row.note in FIGURES else row.title
        table.append([title, *("" if cell is None else str(cell) for cell in row.cells), "; ".join(row.targets)])
    if not results.targets:
        table = [row[:-1] for row in table]
    return align(table).replace("… ", "  ").replace("≥", ">=").replace("≤", "<=")
