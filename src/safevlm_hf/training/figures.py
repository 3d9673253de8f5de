"""The validation figures of a stage: for the terminal, and to warn where a stage has learned nothing."""

import logging
from collections import Counter

from ..reports.tables import align


logger = logging.getLogger(__name__)

FIGURES = {
    "attack_success_rate": "risky prompts answered",
    "over_refusal_rate": "clean prompts refused",
    "needless_warning_rate": "needless warnings",
    "category_accuracy": "right categories",
    "level_accuracy": "right levels",
}
"""Those of the model card, and what the terminal calls them."""
MOST_FREQUENT = {"category": "safety_category", "level": "safety_level"}
"""Label to the records' column."""


def most_frequent_shares(records) -> dict[str, float]:
    """Shares of the most frequent category and level among the labelled records, as figures: who always says the same
    has that accuracy. Nothing without records."""
    shares = {}
    for label, column in MOST_FREQUENT.items() if records is not None else ():
        counts = Counter(value for value in records[column] if value >= 0)
        if counts:
            shares[f"eval_most_frequent_{label}"] = round(max(counts.values()) / counts.total(), 4)
    return shares


def warn_at_chance(checkpoint: str, training_record: dict | None):
    """Warn where stage 1's verdicts on its validation data were no better than always saying the most frequent one."""
    stages = (training_record or {}).get("stages") or []
    # A checkpoint may have gone through stage 1 more than once, for new categories; the last time counts.
    metrics = next((stage.get("metrics") for stage in reversed(stages) if stage.get("stage") == 1), None) or {}
    for label in MOST_FREQUENT:
        accuracy, chance = (metrics.get(f"eval_{name}") for name in (f"{label}_accuracy", f"most_frequent_{label}"))
        if accuracy is not None and chance is not None and accuracy <= chance:
            logger.warning(
                "%s has learned nothing about the %s yet: %.3f are right on its validation data, and %.3f are where "
                "the most frequent one is always said. Train stage 1 longer before stage 2.",
                checkpoint,
                label,
                accuracy,
                chance,
            )


def show_figures(trainer):
    """Print the validation figures of a stage that is done, or that it has none; once for all processes."""
    stage = trainer.model.config.training_record["stages"][-1]
    if trainer.is_world_process_zero():
        none = f"stage {stage['stage']} had no validation records (`--validation_file`), so there are no figures"
        print(format_figures(stage) if stage["metrics"] else none)


def format_figures(stage: dict) -> str:
    """Return a table of plain text from a stage of the training record."""
    metrics = stage["metrics"]
    rows = [[f"stage {stage['stage']}, validation data", "", "by always saying the most frequent"]]
    for name, title in FIGURES.items():
        if f"eval_{name}" in metrics:
            chance = metrics.get(f"eval_most_frequent_{name.removesuffix('_accuracy')}")
            rows.append([title, f"{metrics[f'eval_{name}']:.3f}", "" if chance is None else f"{chance:.3f}"])
    if "eval_loss" in metrics:
        rows.append(["loss", f"{metrics['eval_loss']:.3f}", ""])
    return align(rows)
