"""Tables of figures, for a page and for a terminal. Their cells know whether the bounds on them are met."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..intervals.figure import Figure
from ..intervals.rates import wilson_interval


NO_INTERVAL = "no interval: no draw changes it"
"""Text in place of an interval, where the sample does not show how sure a figure is."""


@dataclass(frozen=True)
class Cell:
    """A figure in a table. `str` gives it as a terminal shows it.

    Attributes:
        text: the figure.
        note: the samples that it rests on, and its interval.
        is_met: whether it meets its targets; `None` if it has none.
        short_note: its interval in few characters.
    """

    text: str
    note: str = ""
    is_met: bool | None = None
    short_note: str = ""

    def __str__(self):
        met = {True: "ok", False: "MISSED", None: ""}[self.is_met]
        return " ".join(filter(None, (self.text, self.short_note, met)))


def figure_cell(figure: Figure | None, is_met: bool | None = None) -> Cell:
    """A figure with what it rests on; "-" where there is none."""
    if figure is None or figure.value is None:
        return Cell(show(None), is_met=is_met)
    if figure.interval is None:
        return Cell(show(figure.value), is_met=is_met)
    low, high = figure.interval
    note = f"({figure.total}; {interval_text(figure)})"
    return Cell(show(figure.value), note, is_met, f"({low:.2f}-{high:.2f})")


def show(value: float | None) -> str:
    """A value as tables write it."""
    return "-" if value is None else f"{value:.3f}"


@dataclass(frozen=True)
class Row:
    """One figure over all columns. A cell that is `None` stays empty."""

    title: str
    note: str
    cells: Sequence[Cell | None]
    targets: Sequence[str] = ()


@dataclass(frozen=True)
class Table:
    """Figures over columns, under a title."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Row]


def interval_text(figure: Figure | None) -> str:
    """Return the 95% interval of a figure, "0.01 to 0.07"; empty where there is none."""
    return "" if figure is None or figure.interval is None else range_text(figure.interval)


def range_text(interval: Sequence[float]) -> str:
    """Return the ends of an interval, "0.01 to 0.07"; empty where there is none (NaN)."""
    low, high = interval
    return "" if low != low else f"{low:.2f} to {high:.2f}"


def counts_text(count: int, total: int) -> str:
    """Return a count and the 95% interval of its share: "3 of 200 (0.01 to 0.04)"."""
    return f"{count} of {total}" + (f" ({range_text(wilson_interval(count, total))})" if total else "")


def align(rows: Sequence[Sequence[str]]) -> str:
    """Lay rows out as text, in columns of equal width with a rule under the first row."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    rule = ["-" * width for width in widths]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in [rows[0], rule, *rows[1:]])
    return "\n".join(line.rstrip() for line in lines)
