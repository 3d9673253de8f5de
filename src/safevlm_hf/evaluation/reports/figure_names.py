"""How reports and cards name figures, and which of them they show first."""

from safevlm_hf.evaluation.counting import NOT_FLAGGED
from safevlm_hf.evaluation.metrics.figure import Figure


ACRONYMS = {"auroc": "AUROC", "ece": "ECE", "f1": "F1", "mae": "MAE"}


def figure_title(name: str) -> str:
    """The name of a figure in words."""
    return " ".join(ACRONYMS.get(word, word) for word in name.split("_"))


def is_over_all(figure: Figure) -> bool:
    """Whether a figure is over all items, or all that were not flagged; others are over a part or over a task of the
    benchmark ("score/posters")."""
    return figure.part in (None, NOT_FLAGGED) and "/" not in figure.name
