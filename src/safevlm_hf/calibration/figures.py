"""Figures of a policy on labelled samples."""

from dataclasses import dataclass

import torch

from ..intervals.figure import Figure, counted_share
from ..intervals.reliability import expected_calibration_error
from ..modeling.safety_decision import calibrated_probabilities, decide
from ..modeling.safety_policy import SafetyNames, SafetyPolicy
from .logits import LabelledLogits


@dataclass(frozen=True)
class PolicyFigures:
    """Figures of a policy on labelled samples, as generation applies it.

    Attributes:
        level_error, category_error: ECE of the most probable level's and category's probability, 0 to 1.
        false_positives: clean samples (level 0) on which a category is flagged.
        misses: risky samples, of categories that are on, on which none is flagged.
    """

    level_error: float
    category_error: float
    false_positives: Figure
    misses: Figure


def evaluate_policy(policy: SafetyPolicy, labelled: LabelledLogits, config: SafetyNames) -> PolicyFigures:
    """Return the figures of one policy on labelled samples, of which every window is decided."""
    is_flagged = flagged_categories(policy, labelled, config).any(dim=-1)
    is_on = torch.tensor([policy.is_on(name) for name in config.categories])
    clean, risky = labelled.level == 0, (labelled.level > 0) & is_on[labelled.category]
    return PolicyFigures(
        level_error=expected_calibration_error(*confidences(policy, labelled, "level")),
        category_error=expected_calibration_error(*confidences(policy, labelled, "category")),
        false_positives=counted_share("false_positive_rate", is_flagged[clean].tolist()),
        misses=counted_share("miss_rate", (~is_flagged)[risky].tolist()),
    )


def flagged_categories(policy: SafetyPolicy, labelled: LabelledLogits, config: SafetyNames) -> torch.BoolTensor:
    """Return (n, categories): whether any window of the sample is flagged as the category."""
    level_logits, category_logits, _ = labelled.all_windows()
    return labelled.highest(decide(policy, level_logits, category_logits, config).flagged.float()) > 0


def category_scores(policy: SafetyPolicy, labelled: LabelledLogits) -> torch.Tensor:
    """Return (n, categories): the calibrated probability of each category at the window where it is the highest."""
    return labelled.highest(calibrated_probabilities(policy, labelled.all_windows()[1], "category"))


def confidences(policy: SafetyPolicy, labelled: LabelledLogits, part: str) -> tuple[list[float], list[bool]]:
    """Return the probability of each sample's most probable level or category (`part`), and whether it is the
    label."""
    confidence, found = calibrated_probabilities(policy, getattr(labelled, f"{part}_logits"), part).max(dim=-1)
    return confidence.tolist(), (found == getattr(labelled, part)).tolist()
