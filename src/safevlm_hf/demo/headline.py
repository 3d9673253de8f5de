"""Headline of a run: before and after, in a table that fits on one screen."""

from ..reports.pages import Section
from ..reports.tables import Row
from .figure_parts import figure_rows
from .results import DemoResults
from .robustness_parts import row_of_figure
from .rows import (
    CLEAN_FLAGGED,
    CLEAN_REFUSED,
    PAIRS,
    PAIRS_RIGHT,
    PICTURES_ANSWERED,
    PROMPT_ANSWERED,
    RISKY_ANSWERED,
    RISKY_FLAGGED,
    SMALL_PRINT_ANSWERED,
    TURN_ANSWERED,
    WORDS_ANSWERED,
)
from .wordings import ABOUT_THE_LOOK, IN_OTHER_WORDS


MAX_ROWS = 25
HEADLINES = (
    *(
        (row, figure)
        for row in (WORDS_ANSWERED, PROMPT_ANSWERED, TURN_ANSWERED, PICTURES_ANSWERED)
        for figure in (RISKY_ANSWERED, CLEAN_REFUSED)
    ),
    (PAIRS, PAIRS_RIGHT),
    (IN_OTHER_WORDS, RISKY_FLAGGED),
    (IN_OTHER_WORDS, CLEAN_FLAGGED),
    (ABOUT_THE_LOOK, RISKY_FLAGGED),
    (SMALL_PRINT_ANSWERED, RISKY_FLAGGED),
)
"""Row and figure of those around the question that the table has, as far as they were measured."""


def headline_section(results: DemoResults) -> Section:
    """Return the headline, which the report begins with."""
    rows, num_more_missed = headline_rows(results)
    data = {"columns": headline_columns(results), "rows": rows, "num_more_missed": num_more_missed}
    return Section("What the run reached", "demo/headline.html", data)


def headline_columns(results: DemoResults) -> list[str]:
    """Return the first column and the last: before and after."""
    columns = list(results.figures)
    return list(dict.fromkeys((*columns[:1], *columns[-1:])))


def headline_rows(results: DemoResults) -> tuple[list[Row], int]:
    """Return at most `MAX_ROWS` rows, and how many others miss a target.

    They are the figures of questions that stand alone, those of `HEADLINES`, and whatever misses a target."""
    columns = headline_columns(results)
    found = {
        (result.row.name, figure): (result, figure)
        for result in results.robustness
        for rates in result.rates.values()
        for figure in rates
    }
    shown = figure_rows(results, columns)
    shown += [row_of_figure(*found[key], columns, results.targets) for key in HEADLINES if key in found]
    others = [row_of_figure(*value, columns, results.targets) for key, value in found.items() if key not in HEADLINES]
    missed = [row for row in others if any(cell is not None and cell.is_met is False for cell in row.cells)]
    num_free = max(0, MAX_ROWS - len(shown))
    return [*shown, *missed[:num_free]], len(missed[num_free:])
