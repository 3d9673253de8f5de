"""Tables and lines for the terminal."""

import os

from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text


LONGEST_LINE = 100_000  # in a pipe or a file
ACTION_STYLES = {"answer": "green", "review": "yellow", "condition": "dark_orange", "refuse": "red"}


def progress(items, description: str):
    from tqdm import tqdm

    return tqdm(items, desc=description, unit="image", disable=None if len(items) > 3 else True)


def no_color() -> bool:
    return bool(os.environ.get("NO_COLOR"))


def make_console(stderr: bool = False) -> Console:
    """Return a console that keeps to `NO_COLOR`, and to one line per line where no terminal reads."""
    # With `NO_COLOR` rich itself still prints bold and underlined text. Without a terminal it would wrap lines at 80
    # columns, and programs take lines apart.
    console = Console(stderr=stderr, color_system=None if no_color() else "auto")
    if not console.file.isatty():
        console.width = LONGEST_LINE
    return console


def plain(text: str, style: str = "") -> Text:
    """Return the text as it is, without markup. Characters that a terminal would obey become visible."""
    return Text("".join(char if char.isprintable() else repr(char)[1:-1] for char in text), style)


def print_warning(text: str):
    make_console(stderr=True).print(plain(f"Warning: {text}", "yellow"), soft_wrap=True)


def show_scope(model):
    """Say on stderr what a checkpoint was trained on, and so what it knows."""
    from safevlm_hf.modeling.model_card import describe_scope

    make_console(stderr=True).print(plain(describe_scope(model.config.training_record)), soft_wrap=True)


def borderless_table(*names: str, title: str | None = None) -> Table:
    """Return an empty table that breaks long words on a narrow terminal and cuts nothing."""
    columns = (Column(plain(name), overflow="fold") for name in names)
    return Table(*columns, title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)


def verdict_table(judged: list[tuple]) -> Table:
    table = borderless_table("image", "action", "category", "level", "risk", "flagged", "review")
    for path, verdict in judged:
        table.add_row(
            plain(str(path)),
            Text(verdict.action, ACTION_STYLES[verdict.action]),
            plain(verdict.category),
            plain(verdict.level),
            f"{verdict.risk:.3f}",
            plain(", ".join(verdict.flagged_categories)),
            plain(", ".join(verdict.review_categories)),
        )
    return table


def verdict_line(number: int, verdict) -> Text:
    start = Text(f"image {number}: {verdict.action} ", ACTION_STYLES[verdict.action])
    return Text.assemble(start, plain(f"({verdict.category}, {verdict.level}, risk {verdict.risk:.2f})"))
