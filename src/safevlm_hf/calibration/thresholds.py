"""A threshold per category, for a share of clean samples that may be flagged or of risky ones that may pass.

Each threshold is set at a sample, and that sample counts on the wrong side: as a fresh one is as likely to be beyond
the j-th of n as j / (n + 1), the rate on fresh samples is then expected to be the target, and not above it. It goes no
further than there are samples to win: beyond `LOWEST` or `HIGHEST` only with `MIN_SAMPLES` there.

Where a category's own samples all lie over all clean ones, any threshold in the gap does the same. It then takes the
middle of the gap, kept between `LOWEST` and `HIGHEST`. A category is left alone, with the base policy's rule, where it
has no samples of its own, where there are no clean ones, or where that middle would leave the gap.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass, field

import numpy as np
import torch

from ..modeling.safety_policy import SafetyNames, SafetyPolicy
from .figures import category_scores, flagged_categories
from .logits import LabelledLogits


FALSE_POSITIVE_RATE, MISS_RATE = "false_positive_rate", "miss_rate"
LOWEST, HIGHEST = 0.05, 0.95
"""Thresholds stay between these, unless `MIN_SAMPLES` samples of the kind that a step further would win lie beyond."""
MIN_SAMPLES = 5


@dataclass(frozen=True)
class ThresholdChoice:
    """The thresholds that were chosen, and what the samples did not tell.

    Attributes:
        thresholds: category to its threshold on the calibrated probability, in [0, 1] and not rounded: rounding may
            miss the target. Categories that are left alone are missing.
        undetermined: category to the reason why the target does not determine its threshold.
    """

    thresholds: dict[str, float]
    undetermined: dict[str, str] = field(default_factory=dict)


def choose_thresholds(
    labelled: LabelledLogits,
    temperatures: dict[str, float],
    config: SafetyNames,
    target_false_positive_rate: float | None = None,
    target_miss_rate: float | None = None,
    base_policy: SafetyPolicy | dict | None = None,
    maximize_recall: bool = False,
) -> ThresholdChoice:
    """Choose the threshold of each category on its calibrated probability, for one of two targets in (0, 1).

    Args:
        labelled: samples to choose with; to check with others is up to the caller (`calibrate` does).
        temperatures: as `fit_temperatures` gives them; what they lack is the base policy's.
        target_false_positive_rate: greatest share of the clean samples (level 0) on which any category is flagged.
            Every category's threshold is the same quantile of its probability on clean samples, unless
            `maximize_recall`.
        target_miss_rate: greatest share of the risky samples on which no category is flagged. Every category's is the
            same quantile of its probability on the samples labelled with it.
        base_policy: whose rule holds where nothing is chosen. A category that it switches off gets no threshold, and
            its samples do not count as risky.
        maximize_recall: spend the false alarms where they find the most risky samples, rather than evenly. A category
            that is rare, or hard to tell from clean samples, may then get few of them.

    Raises:
        ValueError: `maximize_recall` with a target for misses, not exactly one target, or one out of (0, 1); the
            policy flags nothing; or too few samples for the target.
    """
    kind, target = check_target(target_false_positive_rate, target_miss_rate, maximize_recall)
    policy = SafetyPolicy.create(base_policy, config).override({"temperatures": temperatures}, config)
    names = categories_to_calibrate(policy, config)
    columns = torch.tensor([config.categories.index(name) for name in names])
    samples = _Scores(
        names=names,
        scores=category_scores(policy, labelled)[:, columns],
        members=(labelled.category[:, None] == columns) & (labelled.level > 0)[:, None],
        is_clean=labelled.level == 0,
    )
    fixed, undetermined = _undetermined_thresholds(samples)
    chosen = [name for name in names if name not in undetermined]
    if not chosen:
        return ThresholdChoice(fixed, undetermined)
    is_chosen = torch.tensor([name in chosen for name in names])
    # Samples that other categories flag anyway are right or wrong whatever is chosen for these.
    bands = dict.fromkeys(covered_bands(policy, fixed))
    policy = policy.override({"thresholds": fixed, "review_thresholds": bands}, config)
    elsewhere = (flagged_categories(policy, labelled, config)[:, columns] & ~is_chosen).any(dim=1)
    if maximize_recall:
        thresholds = _thresholds_for_recall(samples.of(is_chosen), elsewhere, samples.members.any(dim=1), target)
    elif kind == FALSE_POSITIVE_RATE:
        thresholds = _thresholds_for_false_positives(samples.of(is_chosen), elsewhere, target)
    else:
        thresholds = _thresholds_for_misses(samples.of(is_chosen), elsewhere, samples.members.any(dim=1), target)
    # Each float32 gets the fewest digits that tell it (0.05, not 0.05000000074505806), for people read the file.
    by_name = fixed | dict(zip(chosen, (float(str(np.float32(value.item()))) for value in thresholds)))
    return ThresholdChoice({name: by_name[name] for name in names if name in by_name}, undetermined)


@dataclass(frozen=True)
class _Scores:
    """Samples that thresholds are chosen from.

    Attributes:
        names: k categories.
        scores: (n, k), their calibrated probabilities, at the window where each is the highest.
        members: (n, k), whether the sample is a risky one of the category.
        is_clean: (n,).
    """

    names: list[str]
    scores: torch.Tensor
    members: torch.BoolTensor
    is_clean: torch.BoolTensor

    def of(self, columns: torch.BoolTensor) -> "_Scores":
        names = [name for name, is_kept in zip(self.names, columns.tolist()) if is_kept]
        return _Scores(names, self.scores[:, columns], self.members[:, columns], self.is_clean)

    def bounds(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the lowest and the highest threshold of each category that enough samples speak for, (k,) each."""
        num_samples = len(self.scores)
        lowest = [_ranked(own, LOWEST, largest=False) for own in self._columns(self.members)]
        highest = [_ranked(clean, HIGHEST, largest=True) for clean in self._columns(self.is_clean[:, None])]
        # A probability below 1 / n cannot be told from n samples.
        return torch.stack(lowest).clamp(min=1 / num_samples), torch.stack(highest).clamp(max=1 - 1 / num_samples)

    def _columns(self, chosen: torch.BoolTensor) -> list[torch.Tensor]:
        chosen = chosen.expand_as(self.scores)
        return [column[is_chosen] for column, is_chosen in zip(self.scores.unbind(1), chosen.unbind(1))]


def _ranked(scores: torch.Tensor, bound: float, largest: bool) -> torch.Tensor:
    """Return `bound`, or the score beyond it that `MIN_SAMPLES` samples reach."""
    if len(scores) < MIN_SAMPLES:
        return torch.tensor(bound)
    ranked = scores.topk(MIN_SAMPLES, largest=largest).values[-1]
    return ranked.clamp(min=bound) if largest else ranked.clamp(max=bound)


def covered_bands(policy: SafetyPolicy, thresholds: dict[str, float]) -> dict[str, float]:
    """Return the categories whose review band would begin at or over these thresholds, and where it begins."""
    begins = {name: policy.review_threshold(name) for name in thresholds}
    return {name: begin for name, begin in begins.items() if begin is not None and begin >= thresholds[name]}


def _undetermined_thresholds(samples: _Scores) -> tuple[dict[str, float], dict[str, str]]:
    """Return the thresholds of categories that no sample contradicts, and the reasons; some of them have only a
    reason."""
    thresholds, reasons = {}, {}
    for name, scores, is_member in zip(samples.names, samples.scores.unbind(1), samples.members.unbind(1)):
        own, clean = scores[is_member], scores[samples.is_clean]
        if not len(own) or not len(clean):
            which = "sample of its own" if not len(own) else "clean sample"
            reasons[name] = f"left alone: no {which} to choose with"
        elif own.min() > clean.max():
            low, high = clean.max().item(), own.min().item()
            middle = min(max((low + high) / 2, LOWEST), HIGHEST)
            gap = f"its {len(own)} samples lie apart from {len(clean)} clean ones, gap {low:.2g} to {high:.2g}"
            if low < middle <= high:
                thresholds[name] = middle
                reasons[name] = f"the middle of a gap: {gap}"
            else:
                reasons[name] = f"left alone: {gap}, outside of {LOWEST} to {HIGHEST}"
    return thresholds, reasons


def check_target(
    target_false_positive_rate: float | None, target_miss_rate: float | None, maximize_recall: bool = False
) -> tuple[str, float]:
    targets = {FALSE_POSITIVE_RATE: target_false_positive_rate, MISS_RATE: target_miss_rate}
    given = {kind: target for kind, target in targets.items() if target is not None}
    if len(given) != 1:
        raise ValueError(
            f"calibration needs one target, target_{FALSE_POSITIVE_RATE} or target_{MISS_RATE}; got {len(given)}"
        )
    ((kind, target),) = given.items()
    if maximize_recall and kind != FALSE_POSITIVE_RATE:
        raise ValueError(f"maximize_recall spends false alarms: name target_{FALSE_POSITIVE_RATE}, not target_{kind}")
    if not 0 < target < 1:
        raise ValueError(f"target_{kind} is {target}, expected a share between 0 and 1, as 0.05")
    return kind, float(target)


def _thresholds_for_false_positives(samples: _Scores, elsewhere: torch.BoolTensor, target: float) -> torch.Tensor:
    """Return (k,) thresholds. `elsewhere`: samples that are flagged as another category, whatever is chosen here."""
    scores, others = samples.scores[samples.is_clean], elsewhere[samples.is_clean]
    num_samples, num_categories = scores.shape
    ranked = scores.sort(dim=0, descending=True).values
    lowest, _ = samples.bounds()

    def thresholds(step: int) -> torch.Tensor:
        """Take each category's clean sample of rank step / categories: in each step one category goes a rank on."""
        ranks = (step + torch.arange(num_categories)) // num_categories
        return ranked.gather(0, ranks[None])[0].maximum(lowest)

    def num_flagged(step: int) -> int:
        return int(((scores >= thresholds(step)).any(dim=1) | others).sum())

    steps = range((num_samples - 1) * num_categories + 1)
    return _last_allowed(thresholds, num_flagged, steps, num_samples, target, FALSE_POSITIVE_RATE)


def _thresholds_for_recall(
    samples: _Scores, elsewhere: torch.BoolTensor, is_risky: torch.BoolTensor, target: float
) -> torch.Tensor:
    """Return (k,) thresholds: from each category's highest clean sample, the move that finds the most risky samples
    for each clean one is made again and again. Arguments as below."""
    scores, is_clean = samples.scores, samples.is_clean
    lowest, _ = samples.bounds()
    first = scores[is_clean].amax(dim=0).maximum(lowest)

    def flagged(thresholds: torch.Tensor) -> torch.BoolTensor:
        return (scores >= thresholds).any(dim=1) | elsewhere

    num_clean = int(is_clean.sum())
    allowed = math.floor(target * num_clean + 1e-9)

    def num_flagged(_) -> int:
        return int(flagged(first)[is_clean].sum())

    # Where even the first thresholds flag too many, this says so.
    thresholds = _last_allowed(lambda _: first, num_flagged, range(1), num_clean, target, FALSE_POSITIVE_RATE)
    while True:
        best, now = (0.0, thresholds), flagged(thresholds)
        for column in range(scores.shape[1]):
            others = thresholds.clone()
            others[column] = torch.inf
            is_open = ~flagged(others)  # this category alone decides on these
            own = scores[:, column]
            borders = own[is_clean & is_open].sort(descending=True).values.maximum(lowest[column]).unique().flip(0)
            for border in borders[borders < thresholds[column]]:
                gained = is_open & ~now & (own >= border)
                if int((gained & is_clean).sum()) > allowed - int(now[is_clean].sum()):
                    break
                ratio = int((gained & is_risky).sum()) / max(int((gained & is_clean).sum()), 1)
                if ratio > best[0]:
                    best = (ratio, others.index_fill(0, torch.tensor(column), border.item()))
        if not best[0]:
            return thresholds
        thresholds = best[1]


def _thresholds_for_misses(
    samples: _Scores, elsewhere: torch.BoolTensor, is_risky: torch.BoolTensor, target: float
) -> torch.Tensor:
    """Return (k,) thresholds. `elsewhere` as above; `is_risky`: (n,), the samples to flag, those of other categories
    too."""
    ranked = [own.sort().values for own in samples._columns(samples.members)]
    lowest, highest = samples.bounds()
    scores, others = samples.scores[is_risky], elsewhere[is_risky]
    # In each step one category goes a rank on, the one that is then the least far in its own samples.
    moves = sorted((rank / len(own), column) for column, own in enumerate(ranked) for rank in range(1, len(own)))
    moved = torch.tensor([column for _, column in moves], dtype=torch.long)

    def thresholds(step: int) -> torch.Tensor:
        """Stand just over each category's own sample of its rank."""
        ranks = moved[:step].bincount(minlength=len(ranked)).tolist()
        border = torch.stack([own[rank] for own, rank in zip(ranked, ranks)])
        return torch.nextafter(border, torch.ones(())).minimum(highest).maximum(lowest)

    def num_missed(step: int) -> int:
        return int(((scores < thresholds(step)).all(dim=1) & ~others).sum())

    return _last_allowed(thresholds, num_missed, range(len(moved) + 1), len(scores), target, MISS_RATE)


def _last_allowed(thresholds, num_wrong, steps: range, num_samples: int, target: float, kind: str) -> torch.Tensor:
    """Return the thresholds of the last step with no more than target * n samples on the wrong side."""
    which = "clean" if kind == FALSE_POSITIVE_RATE else "risky"
    allowed = math.floor(target * num_samples + 1e-9)
    least = num_wrong(0) if num_samples else 1
    if allowed < max(least, 1):
        raise ValueError(
            f"a {kind} of {target:g} cannot be chosen with {num_samples} {which} samples: it allows {allowed} on the "
            f"wrong side, and {max(least, 1)} are there at the least: those that the thresholds are set at, and those "
            f"that the head gets wrong by more than thresholds of {LOWEST} to {HIGHEST} can mend. It takes about "
            f"{math.ceil(max(least, 1) / target)}, if the head tells them apart: add samples, lower holdout_share, or "
            "raise the target"
        )
    return thresholds(steps[bisect_right(steps, allowed, key=num_wrong) - 1])


def categories_to_calibrate(policy: SafetyPolicy, config: SafetyNames) -> list[str]:
    names = [name for name in config.categories if policy.is_on(name)]
    if policy.enabled is False or not names:
        raise ValueError("the base policy flags nothing (disabled, or every category is off): switch something on")
    return names
