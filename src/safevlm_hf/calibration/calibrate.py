"""From a labelled set to a calibrated policy: temperatures, thresholds for a target, and what they reach on data that
was not used to choose them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..intervals.figure import Figure
from ..intervals.rates import Z95
from ..modeling.configuration_safety import SafetyConfig
from ..modeling.operator_policy import OF_CHECKPOINT, merge_policies
from ..modeling.safety_policy import TEMPERATURES, SafetyPolicy
from .figures import PolicyFigures, evaluate_policy
from .logits import LabelledLogits, collect_verdict_logits, split
from .temperatures import fit_temperatures
from .thresholds import (
    FALSE_POSITIVE_RATE,
    categories_to_calibrate,
    check_target,
    choose_thresholds,
    covered_bands,
)


@dataclass(frozen=True)
class CalibrationResult:
    """A calibrated policy, and what it reaches on the samples that were not used to choose it.

    Attributes:
        policy: the base policy with the temperatures and thresholds in it.
        base_policy: the policy before.
        temperatures: of `"level"` and `"category"`; one that the samples do not tell is missing.
        thresholds: category to threshold; those that are off or left alone are missing.
        undetermined: category to the reason why the samples do not determine its threshold (`ThresholdChoice`).
        covered_bands: category to the beginning of its review band, of those that a threshold has come under.
        target_kind: `"false_positive_rate"` or `"miss_rate"`.
        target: the rate aimed at, in (0, 1).
        before, after: figures of both policies on `check`.
        choose, check: the samples chosen with, and those held out.
        config: names of categories and levels.
        seed, holdout_share: of the split.
    """

    policy: SafetyPolicy
    base_policy: SafetyPolicy
    temperatures: dict[str, float]
    thresholds: dict[str, float]
    undetermined: dict[str, str]
    covered_bands: dict[str, float]
    target_kind: str
    target: float
    before: PolicyFigures
    after: PolicyFigures
    choose: LabelledLogits
    check: LabelledLogits
    config: SafetyConfig
    seed: int
    holdout_share: float

    @property
    def reached(self) -> Figure:
        """The rate that was aimed at, on the held-out samples."""
        return self._aimed_at(self.after)

    @property
    def is_on_target(self) -> bool:
        """Tell whether the reached rate is within the sampling error of both parts (95%) of the target. Where the
        samples chosen with stay below the target, as thresholds go no further than there are samples to win, it may,
        too."""
        chosen_with = self._aimed_at(evaluate_policy(self.policy, self.choose, self.config))
        if not self.reached.total or not chosen_with.total:
            return False
        variance = self.target * (1 - self.target) * (1 / chosen_with.total + 1 / self.reached.total)
        error = Z95 * math.sqrt(variance)
        return min(self.target, chosen_with.value) - error <= self.reached.value <= self.target + error

    @property
    def remarks(self) -> list[str]:
        """Name what the samples did not determine, one sentence each; nothing where they determined everything."""
        remarks = [f"{name}: threshold not determined, {reason}" for name, reason in self.undetermined.items()]
        return (
            remarks
            + [
                f"temperature of the {part}: not determined, left at {self.policy.temperatures.get(part, 1.0):g}"
                for part in TEMPERATURES
                if part not in self.temperatures
            ]
            + [
                f"{name}: its review band is left out, for it began at {begin:g}, at or over the threshold"
                for name, begin in self.covered_bands.items()
            ]
        )

    def _aimed_at(self, figures: PolicyFigures) -> Figure:
        return figures.false_positives if self.target_kind == FALSE_POSITIVE_RATE else figures.misses

    def figures(self) -> dict:
        """Return everything but the samples, as JSON-able data."""
        return {
            "target": {self.target_kind: self.target},
            "is_on_target": self.is_on_target,
            "num_samples": {"choose": len(self.choose), "check": len(self.check)},
            "seed": self.seed,
            "holdout_share": self.holdout_share,
            "temperatures": dict(self.temperatures),
            "thresholds": dict(self.thresholds),
            "not_determined": self.remarks,
            "before": _to_dict(self.before),
            "after": _to_dict(self.after),
        }


def _to_dict(figures: PolicyFigures) -> dict:
    return {
        "level_error": figures.level_error,
        "category_error": figures.category_error,
        "false_positives": figures.false_positives.share_to_dict(),
        "misses": figures.misses.share_to_dict(),
    }


def calibrate(
    model,
    processor,
    records: Sequence[dict],
    target_false_positive_rate: float | None = None,
    target_miss_rate: float | None = None,
    base_policy: SafetyPolicy | dict | None = None,
    seed: int = 0,
    holdout_share: float = 0.5,
    batch_size: int = 32,
    progress: bool = True,
    maximize_recall: bool = False,
) -> CalibrationResult:
    """Fit temperatures and choose thresholds on one part of the records, and measure both on the other.

    Args:
        model, processor, records, batch_size, progress: as for `collect_verdict_logits`.
        target_false_positive_rate, target_miss_rate, maximize_recall: as for `choose_thresholds`; exactly one target.
        base_policy: set over the checkpoint's own policy, as `generate` does. A category that is off gets no
            threshold. Where a threshold is not determined, its rule stays (`choose_thresholds`).
        seed, holdout_share: as for `split`.

    Raises:
        ValueError: as those functions do, or the base policy is disabled or does not fit the model.
    """
    check_target(
        target_false_positive_rate, target_miss_rate, maximize_recall
    )  # now, for collecting logits takes long
    config = model.config.safety_config
    policy = merge_policies([(OF_CHECKPOINT, model.kept_policy()), ("`base_policy`", base_policy)], config)
    categories_to_calibrate(policy, config)
    return calibrate_logits(
        collect_verdict_logits(model, processor, records, batch_size, progress),
        config,
        target_false_positive_rate,
        target_miss_rate,
        policy,
        seed,
        holdout_share,
        maximize_recall,
    )


def calibrate_logits(
    labelled: LabelledLogits,
    config: SafetyConfig,
    target_false_positive_rate: float | None = None,
    target_miss_rate: float | None = None,
    base_policy: SafetyPolicy | dict | None = None,
    seed: int = 0,
    holdout_share: float = 0.5,
    maximize_recall: bool = False,
) -> CalibrationResult:
    """Calibrate as `calibrate` does, from logits that were collected before."""
    kind, target = check_target(target_false_positive_rate, target_miss_rate, maximize_recall)
    base_policy = SafetyPolicy.create(base_policy, config)
    categories_to_calibrate(base_policy, config)
    choose, check = split(labelled, holdout_share, seed)
    temperatures = fit_temperatures(choose)
    targets = target_false_positive_rate, target_miss_rate
    choice = choose_thresholds(choose, temperatures, config, *targets, base_policy, maximize_recall)
    found = {"thresholds": choice.thresholds, "temperatures": temperatures}
    # A band that began over its category's threshold would never be entered: it is left out, and the remarks say so.
    covered = covered_bands(base_policy, choice.thresholds)
    policy = base_policy.override(found | {"review_thresholds": dict.fromkeys(covered)}, config)
    return CalibrationResult(
        policy=policy,
        base_policy=base_policy,
        temperatures=temperatures,
        thresholds=choice.thresholds,
        undetermined=choice.undetermined,
        covered_bands=covered,
        target_kind=kind,
        target=target,
        before=evaluate_policy(base_policy, check, config),
        after=evaluate_policy(policy, check, config),
        choose=choose,
        check=check,
        config=config,
        seed=seed,
        holdout_share=holdout_share,
    )
