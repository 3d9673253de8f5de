"""Names of figures in reports and cards, and the figures that they show first."""

from ..benchmarks import BENCHMARKS
from ..intervals.figure import Figure
from .counting import NOT_FLAGGED


ACRONYMS = {"auroc": "AUROC", "ece": "ECE", "f1": "F1", "mae": "MAE"}


def figure_title(name: str, part: str | None = None) -> str:
    """Return the name of a figure in words, and its part after it."""
    words = " ".join(ACRONYMS.get(word, word) for word in name.split("_"))
    return f"{words}, {part}" if part else words


def is_headline(figure: Figure, benchmark: str) -> bool:
    """Tell whether a figure is a mean over parts that its benchmark's paper reports first."""
    return benchmark in BENCHMARKS and (figure.name, figure.part) in BENCHMARKS[benchmark].headlines


def is_shown_first(figure: Figure, benchmark: str) -> bool:
    """Tell whether a figure is over all items, or all that were not flagged, or a headline of its benchmark. Others
    are of a part, or of a task of the benchmark ("score/posters")."""
    is_over_all = figure.part in (None, NOT_FLAGGED) and "/" not in figure.name
    return is_over_all or is_headline(figure, benchmark)
