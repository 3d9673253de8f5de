"""From a labelled set to a calibrated policy: temperatures, thresholds for a target, and what they reach on data that
was not used to choose them.

Calibrated means that of the samples with a risk of 0.8, 8 in 10 are risky (reliability bins, ECE).
"""

import logging
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from tqdm.auto import tqdm

from safevlm_hf.evaluation.answering import judge_batch, longest_first
from safevlm_hf.modeling.configuration_safety import SafetyConfig
from safevlm_hf.modeling.safety_policy import TEMPERATURES, SafetyPolicy, is_readable


logger = logging.getLogger(__name__)

FALSE_POSITIVE_RATE, MISS_RATE = "false_positive_rate", "miss_rate"
LOWEST, HIGHEST = 0.05, 0.95
"""Thresholds stay between these, unless `MIN_SAMPLES` samples of the kind that a step further would win lie beyond."""
MIN_SAMPLES = 5
Z95 = 1.959964  # two-sided 95% of a normal distribution


# --------------------------------------------------------------------------------------------------
# Reliability
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReliabilityBin:
    """The samples whose risk is in [low, high): their number, mean risk, and the share that is risky (0 to 1)."""

    low: float
    high: float
    num_samples: int
    mean_risk: float
    risky_share: float


def reliability_bins(risks: Sequence[float], is_risky: Sequence[bool], num_bins: int = 10) -> list[ReliabilityBin]:
    """Bins of equal width over [0, 1] that hold samples, rising.

    Args:
        risks: predicted probability of a risk, 0 to 1, one a sample. The last bin includes 1.
        is_risky: whether the sample is labelled risky.

    Raises:
        ValueError: the lengths differ, or a risk is not in [0, 1].
    """
    if len(risks) != len(is_risky):
        raise ValueError(f"{len(risks)} risks but {len(is_risky)} labels")
    members = [[] for _ in range(num_bins)]
    for risk, label in zip(risks, is_risky, strict=True):
        if not -1e-6 <= risk <= 1 + 1e-6:
            raise ValueError(f"a risk is {risk}, expected 0 to 1")
        members[min(max(int(risk * num_bins), 0), num_bins - 1)].append((risk, bool(label)))
    return [
        ReliabilityBin(
            low=index / num_bins,
            high=(index + 1) / num_bins,
            num_samples=len(bin),
            mean_risk=sum(risk for risk, _ in bin) / len(bin),
            risky_share=sum(label for _, label in bin) / len(bin),
        )
        for index, bin in enumerate(members)
        if bin
    ]


def expected_calibration_error(risks: Sequence[float], is_risky: Sequence[bool], num_bins: int = 10) -> float | None:
    """Mean over the samples of |risky share - mean risk| of their bin (Guo et al. 2017, arXiv 1706.04599).

    0 is perfect, 1 the worst; `None` without samples. Arguments and errors as in `reliability_bins`.
    """
    bins = reliability_bins(risks, is_risky, num_bins)
    if not bins:
        return None
    return sum(bin.num_samples * abs(bin.risky_share - bin.mean_risk) for bin in bins) / len(risks)


# --------------------------------------------------------------------------------------------------
# Logits with labels
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LabelledLogits:
    """What the safety head said about n samples, and what is true.

    Attributes:
        level_logits: (n, levels), float32, of the window of the question that decided.
        category_logits: (n, categories), float32, of the same window.
        level, category: (n,), the labels as ids.
        groups: n keys; samples of one key, as two questions about one picture, stay on one side of a `split`.
        windows: per sample, (windows, levels + categories), the logits of all windows of all of its images: another
            policy may be decided by another window. Without them the deciding window is the only one.
    """

    level_logits: torch.Tensor
    category_logits: torch.Tensor
    level: torch.LongTensor
    category: torch.LongTensor
    groups: tuple[str, ...]
    windows: tuple[torch.Tensor, ...] | None = None

    def __post_init__(self):
        lengths = {name: len(value) for name, value in vars(self).items() if value is not None}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"labelled logits must have one row per sample, got {lengths}")

    def __len__(self) -> int:
        return len(self.groups)

    def select(self, rows: Sequence[int]) -> "LabelledLogits":
        """The samples of these rows, in this order."""
        rows = torch.as_tensor(rows, dtype=torch.long)
        tensors = (self.level_logits, self.category_logits, self.level, self.category)
        groups, windows = (
            None if values is None else tuple(values[row] for row in rows.tolist())
            for values in (self.groups, self.windows)
        )
        return LabelledLogits(*(tensor[rows] for tensor in tensors), groups, windows)

    def all_windows(self) -> tuple[torch.Tensor, torch.Tensor, torch.LongTensor]:
        """Level logits, category logits, and the row of the sample, of every window of all samples."""
        if self.windows is None:
            return self.level_logits, self.category_logits, torch.arange(len(self))
        counts = torch.tensor([len(window) for window in self.windows])
        logits = torch.cat(self.windows)
        levels, categories = logits.split([self.level_logits.shape[1], self.category_logits.shape[1]], dim=-1)
        return levels, categories, torch.arange(len(self)).repeat_interleave(counts)

    def highest(self, values: torch.Tensor) -> torch.Tensor:
        """(windows of all samples, columns) to the highest value per sample and column, (n, columns)."""
        rows = self.all_windows()[2][:, None].expand_as(values)
        return values.new_zeros(len(self), values.shape[1]).scatter_reduce(0, rows, values, "amax", include_self=False)


def collect_verdict_logits(
    model, processor, records: Sequence[dict], batch_size: int = 32, progress: bool = True
) -> LabelledLogits:
    """The head's logits on the last question of each record, in the records' order; no language model is run.

    Args:
        model, processor: a safe model's.
        records: as `load_records` gives them. Of several images the riskiest counts. Records without an image or
            without labels, or with an image that gives no verdict, are left out, and named in a warning.

    Raises:
        ValueError: the model has no safety head, the labels are not its own, or no record is left.
    """
    if not hasattr(model, "assess"):
        raise ValueError(f"calibration needs a model with a safety head, got {type(model).__name__}")
    records = list(records)
    left_out = {index: reason for index, one in enumerate(records) if (reason := _unusable(one, model))}
    used = [index for index in range(len(records)) if index not in left_out]
    logits = _assess(model, processor, [records[index] for index in used], batch_size, progress)
    for index, (level_logits, category_logits, _) in zip(used, logits):
        if not is_readable(level_logits[None], category_logits[None]):
            left_out[index] = "no verdict (pixels that are not numbers)"
    _report_left_out(records, left_out)
    kept = [(records[index], found) for index, found in zip(used, logits) if index not in left_out]
    if not kept:
        raise ValueError(
            f"none of {len(records)} records can be used to calibrate: each needs an image, a category and a level"
        )
    return LabelledLogits(
        level_logits=torch.stack([found[0] for _, found in kept]),
        category_logits=torch.stack([found[1] for _, found in kept]),
        level=torch.tensor([record["safety_level"] for record, _ in kept]),
        category=torch.tensor([record["safety_category"] for record, _ in kept]),
        groups=tuple(record["images"][0] for record, _ in kept),
        windows=tuple(found[2] for _, found in kept),
    )


def _unusable(record: dict, model) -> str | None:
    """Why a record cannot be used, if so."""
    config = model.config.safety_config
    if not record["images"]:
        return "no image"
    for key, names in (("safety_level", config.levels), ("safety_category", config.categories)):
        label = record.get(key)
        if label is None or label < 0:
            return "no labels"
        if label >= len(names):
            where = record.get("source", "a record")
            raise ValueError(f"{where}: {key} is {label}, but the model has {len(names)}: {', '.join(names)}")
    return None


def _report_left_out(records: Sequence[dict], left_out: dict[int, str]) -> None:
    if not left_out:
        return
    named = (f"- {records[index].get('source', f'record {index}')}: {left_out[index]}" for index in sorted(left_out))
    logger.warning("Calibration leaves out %d of %d records:\n%s", len(left_out), len(records), "\n".join(named))


@torch.inference_mode()
def _assess(model, processor, records: list[dict], batch_size: int, progress: bool) -> list[tuple]:
    """Per record (levels,) and (categories,) logits of its riskiest image, and the logits of all windows."""
    order = longest_first(records)
    logits: list = [None] * len(records)
    was_training = model.training
    model.eval()
    try:
        with tqdm(total=len(records), desc="assessing", unit="record", disable=not progress) as bar:
            for start in range(0, len(order), batch_size):
                rows = order[start : start + batch_size]
                batch = [records[row] for row in rows]
                with _head_outputs(model) as seen:
                    outputs = judge_batch(model, processor, batch)
                for position, (level_logits, category_logits) in _riskiest_images(outputs).items():
                    is_own = outputs.safety_image_rows == position
                    windows = _windows(seen[-1], is_own)
                    logits[rows[position]] = (level_logits, category_logits, windows)
                bar.update(len(rows))
    finally:
        model.train(was_training)
    return logits


@contextmanager
def _head_outputs(model) -> Iterator[list[tuple]]:
    """What the safety head returns meanwhile, one entry per call."""
    seen: list[tuple] = []
    hook = model.model.safety_head.register_forward_hook(lambda *call: seen.append(call[-1]))
    try:
        yield seen
    finally:
        hook.remove()


def _windows(head_output: tuple, is_own: torch.BoolTensor) -> torch.Tensor:
    """The logits of all windows of these images, (windows, levels + categories), float32."""
    level_logits, category_logits, is_window = (output.cpu() for output in head_output)
    logits = torch.cat([level_logits, category_logits], dim=-1).float()
    return logits[is_own.cpu()[:, None] & is_window]


def _riskiest_images(outputs) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """Row of the batch to the logits of its image with the least p(level is safe); one that is not a number first."""
    levels, categories = outputs.safety_level_logits.float().cpu(), outputs.safety_category_logits.float().cpu()
    rows, safety = outputs.safety_image_rows.cpu(), levels.softmax(dim=-1)[:, 0].nan_to_num(-1.0)
    riskiest = {}
    for image in safety.argsort(descending=True).tolist():
        riskiest[int(rows[image])] = (levels[image], categories[image])
    return riskiest


def split(
    labelled: LabelledLogits, holdout_share: float = 0.5, seed: int = 0
) -> tuple[LabelledLogits, LabelledLogits]:
    """The samples to choose with, and those to check with; a group is in one of them only.

    Args:
        holdout_share: share of the samples to check with, in (0, 1).
        seed: of the draw. The same samples in the same order are split alike.

    Raises:
        ValueError: the share is not in (0, 1), or there are less than two groups.
    """
    if not 0 < holdout_share < 1:
        raise ValueError(f"holdout_share is {holdout_share}, expected a number between 0 and 1")
    sizes = Counter(labelled.groups)
    if len(sizes) < 2:
        raise ValueError(f"calibration needs two pictures or more to choose and to check, got {len(sizes)}")
    names = list(sizes)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    held_out, num_held_out = set(), 0
    for index in order[:-1]:  # one group is left to choose with
        if num_held_out >= holdout_share * len(labelled):
            break
        held_out.add(names[index])
        num_held_out += sizes[names[index]]
    is_held_out = [group in held_out for group in labelled.groups]
    rows = range(len(labelled))
    return (
        labelled.select([row for row in rows if not is_held_out[row]]),
        labelled.select([row for row in rows if is_held_out[row]]),
    )


# --------------------------------------------------------------------------------------------------
# Temperatures and thresholds
# --------------------------------------------------------------------------------------------------


def fit_temperatures(labelled: LabelledLogits) -> dict[str, float]:
    """The temperatures of `"level"` and `"category"` with the least negative log likelihood of the labels.

    One that would end at a bound of `TEMPERATURES`, as where no label contradicts the head, is not known from these
    samples: it is left out, and a warning names it.
    """
    if not len(labelled):
        raise ValueError("no samples to fit temperatures to")
    fitted = {
        "level": _fit_temperature(labelled.level_logits, labelled.level, "level"),
        "category": _fit_temperature(labelled.category_logits, labelled.category, "category"),
    }
    return {part: temperature for part, temperature in fitted.items() if temperature is not None}


def _fit_temperature(logits: torch.Tensor, labels: torch.Tensor, part: str) -> float | None:
    """Bisection of log T: the loss is convex in 1/T, with the slope mean(expected logit - the label's logit)."""
    logits = logits.double()
    of_labels = logits.gather(1, labels[:, None])[:, 0]
    low, high = map(math.log, TEMPERATURES[part])
    for _ in range(60):
        middle = (low + high) / 2
        expected = ((logits / math.exp(middle)).softmax(dim=-1) * logits).sum(dim=-1)
        if (expected - of_labels).mean() > 0:
            low = middle
        else:
            high = middle
    lowest, highest = TEMPERATURES[part]
    temperature = math.exp((low + high) / 2)
    if lowest * 1.001 < temperature < highest * 0.999:
        return temperature
    logger.warning(
        "The temperature of the %s is left as it is: it would end at its bound, %g, as %d samples do not tell it. Add "
        "samples, among them ones that the head gets wrong.",
        part,
        min(max(temperature, lowest), highest),
        len(logits),
    )
    return None


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
    config: SafetyConfig,
    target_false_positive_rate: float | None = None,
    target_miss_rate: float | None = None,
    base_policy: SafetyPolicy | dict | None = None,
) -> ThresholdChoice:
    """The threshold of each category on its calibrated probability, for one of two targets in (0, 1).

    Each threshold is set at a sample, and that sample counts on the wrong side: as a fresh one is as likely to be
    beyond the j-th of n as j / (n + 1), the rate on fresh samples is then expected to be the target, and not above it.
    It goes no further than there are samples to win: beyond `LOWEST` or `HIGHEST` only with `MIN_SAMPLES` there.

    Where a category's own samples all lie over all clean ones, any threshold in the gap does the same. It then takes
    the middle of the gap, kept between `LOWEST` and `HIGHEST`. A category is left alone, with the base policy's rule,
    where it has no samples of its own, where there are no clean ones, or where that middle would leave the gap.

    Args:
        labelled: samples to choose with; to check with others is up to the caller (`calibrate` does).
        temperatures: as `fit_temperatures` gives them; what they lack is the base policy's.
        target_false_positive_rate: greatest share of the clean samples (level 0) on which any category is flagged.
            Every category's threshold is the same quantile of its probability on clean samples.
        target_miss_rate: greatest share of the risky samples on which no category is flagged. Every category's is the
            same quantile of its probability on the samples labelled with it.
        base_policy: whose rule holds where nothing is chosen. A category that it switches off gets no threshold, and
            its samples do not count as risky.

    Raises:
        ValueError: not exactly one target, or one out of (0, 1); the policy flags nothing; or too few samples for the
            target.
    """
    kind, target = _check_target(target_false_positive_rate, target_miss_rate)
    policy = SafetyPolicy.create(base_policy, config).override({"temperatures": temperatures}, config)
    names = _categories_to_calibrate(policy, config)
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
    flagged = flagged_categories(policy.override({"thresholds": fixed}, config), labelled, config)[:, columns]
    is_chosen = torch.tensor([name in chosen for name in names])
    elsewhere = (flagged & ~is_chosen).any(dim=1)
    if kind == FALSE_POSITIVE_RATE:
        thresholds = _thresholds_for_false_positives(samples.of(is_chosen), elsewhere, target)
    else:
        is_risky = samples.members.any(dim=1)
        thresholds = _thresholds_for_misses(samples.of(is_chosen), elsewhere, is_risky, target)
    by_name = fixed | dict(zip(chosen, thresholds.tolist()))
    return ThresholdChoice({name: by_name[name] for name in names if name in by_name}, undetermined)


@dataclass(frozen=True)
class _Scores:
    """What thresholds are chosen from.

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
        """The lowest and the highest threshold of each category that enough samples speak for, (k,) each."""
        num_samples = len(self.scores)
        lowest = [_ranked(own, LOWEST, largest=False) for own in self._columns(self.members)]
        highest = [_ranked(clean, HIGHEST, largest=True) for clean in self._columns(self.is_clean[:, None])]
        # A probability below 1 / n cannot be told from n samples.
        return torch.stack(lowest).clamp(min=1 / num_samples), torch.stack(highest).clamp(max=1 - 1 / num_samples)

    def _columns(self, chosen: torch.BoolTensor) -> list[torch.Tensor]:
        chosen = chosen.expand_as(self.scores)
        return [column[is_chosen] for column, is_chosen in zip(self.scores.unbind(1), chosen.unbind(1))]


def _ranked(scores: torch.Tensor, bound: float, largest: bool) -> torch.Tensor:
    """`bound`, or the score beyond it that `MIN_SAMPLES` samples reach."""
    if len(scores) < MIN_SAMPLES:
        return torch.tensor(bound)
    ranked = scores.topk(MIN_SAMPLES, largest=largest).values[-1]
    return ranked.clamp(min=bound) if largest else ranked.clamp(max=bound)


def _undetermined_thresholds(samples: _Scores) -> tuple[dict[str, float], dict[str, str]]:
    """The thresholds of categories that no sample contradicts, and the reasons; some of them have only a reason."""
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


def _check_target(target_false_positive_rate: float | None, target_miss_rate: float | None) -> tuple[str, float]:
    targets = {FALSE_POSITIVE_RATE: target_false_positive_rate, MISS_RATE: target_miss_rate}
    given = {kind: target for kind, target in targets.items() if target is not None}
    if len(given) != 1:
        raise ValueError(
            f"calibration needs one target, target_{FALSE_POSITIVE_RATE} or target_{MISS_RATE}; got {len(given)}"
        )
    ((kind, target),) = given.items()
    if not 0 < target < 1:
        raise ValueError(f"target_{kind} is {target}, expected a share between 0 and 1, as 0.05")
    return kind, float(target)


def _thresholds_for_false_positives(samples: _Scores, elsewhere: torch.BoolTensor, target: float) -> torch.Tensor:
    """(k,) thresholds. `elsewhere`: samples that are flagged as another category, whatever is chosen here."""
    scores, others = samples.scores[samples.is_clean], elsewhere[samples.is_clean]
    num_samples, num_categories = scores.shape
    ranked = scores.sort(dim=0, descending=True).values
    lowest, _ = samples.bounds()

    def thresholds(step: int) -> torch.Tensor:
        """Each category's clean sample of rank step / categories: one category a step goes a rank on."""
        ranks = (step + torch.arange(num_categories)) // num_categories
        return ranked.gather(0, ranks[None])[0].maximum(lowest)

    def num_flagged(step: int) -> int:
        return int(((scores >= thresholds(step)).any(dim=1) | others).sum())

    steps = range((num_samples - 1) * num_categories + 1)
    return _last_allowed(thresholds, num_flagged, steps, num_samples, target, FALSE_POSITIVE_RATE)


def _thresholds_for_misses(
    samples: _Scores, elsewhere: torch.BoolTensor, is_risky: torch.BoolTensor, target: float
) -> torch.Tensor:
    """(k,) thresholds. `elsewhere` as above; `is_risky`: (n,), the samples to flag, those of other categories too."""
    ranked = [own.sort().values for own in samples._columns(samples.members)]
    lowest, highest = samples.bounds()
    scores, others = samples.scores[is_risky], elsewhere[is_risky]
    # One category a step goes a rank on, the one that is then the least far in its own samples.
    moves = sorted((rank / len(own), column) for column, own in enumerate(ranked) for rank in range(1, len(own)))
    moved = torch.tensor([column for _, column in moves], dtype=torch.long)

    def thresholds(step: int) -> torch.Tensor:
        """Just over each category's own sample of its rank."""
        ranks = moved[:step].bincount(minlength=len(ranked)).tolist()
        border = torch.stack([own[rank] for own, rank in zip(ranked, ranks)])
        return torch.nextafter(border, torch.ones(())).minimum(highest).maximum(lowest)

    def num_missed(step: int) -> int:
        return int(((scores < thresholds(step)).all(dim=1) & ~others).sum())

    return _last_allowed(thresholds, num_missed, range(len(moved) + 1), len(scores), target, MISS_RATE)


def _last_allowed(thresholds, num_wrong, steps: range, num_samples: int, target: float, kind: str) -> torch.Tensor:
    """The thresholds of the last step with no more than target * n samples on the wrong side."""
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


# --------------------------------------------------------------------------------------------------
# Calibration
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rate:
    """`count` of `total` samples."""

    count: int
    total: int

    @property
    def share(self) -> float | None:
        """0 to 1; `None` without samples."""
        return self.count / self.total if self.total else None

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of the share."""
        if not self.total:
            return 0.0, 1.0
        share, weight = self.share, Z95**2 / self.total
        centre = (share + weight / 2) / (1 + weight)
        half = math.sqrt(weight * share * (1 - share) + weight**2 / 4) / (1 + weight)
        return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class PolicyFigures:
    """What a policy reaches on labelled samples, as generation applies it.

    Attributes:
        level_error, category_error: ECE of the most probable level's and category's probability, 0 to 1.
        false_positives: clean samples (level 0) on which a category is flagged.
        misses: risky samples, of categories that are on, on which none is flagged.
    """

    level_error: float
    category_error: float
    false_positives: Rate
    misses: Rate


def evaluate_policy(policy: SafetyPolicy, labelled: LabelledLogits, config: SafetyConfig) -> PolicyFigures:
    """The figures of one policy on labelled samples, of which every window is decided."""
    is_flagged = flagged_categories(policy, labelled, config).any(dim=-1)
    is_on = torch.tensor([policy.is_on(name) for name in config.categories])
    clean, risky = labelled.level == 0, (labelled.level > 0) & is_on[labelled.category]
    return PolicyFigures(
        level_error=expected_calibration_error(*confidences(policy, labelled, "level")),
        category_error=expected_calibration_error(*confidences(policy, labelled, "category")),
        false_positives=Rate(int((is_flagged & clean).sum()), int(clean.sum())),
        misses=Rate(int((~is_flagged & risky).sum()), int(risky.sum())),
    )


def flagged_categories(policy: SafetyPolicy, labelled: LabelledLogits, config: SafetyConfig) -> torch.BoolTensor:
    """(n, categories), whether any window of the sample is flagged as the category."""
    level_logits, category_logits, _ = labelled.all_windows()
    return labelled.highest(policy.decide(level_logits, category_logits, config).flagged.float()) > 0


def category_scores(policy: SafetyPolicy, labelled: LabelledLogits) -> torch.Tensor:
    """(n, categories), the calibrated probability of each category at the window where it is the highest."""
    return labelled.highest(policy.probabilities(labelled.all_windows()[1], "category"))


def confidences(policy: SafetyPolicy, labelled: LabelledLogits, part: str) -> tuple[list[float], list[bool]]:
    """The probability of each sample's most probable level or category (`part`), and whether it is the label."""
    confidence, found = policy.probabilities(getattr(labelled, f"{part}_logits"), part).max(dim=-1)
    return confidence.tolist(), (found == getattr(labelled, part)).tolist()


@dataclass(frozen=True)
class CalibrationResult:
    """A calibrated policy, and what it reaches on the samples that were not used to choose it.

    Attributes:
        policy: the base policy with the temperatures and thresholds in it.
        base_policy: the policy before.
        temperatures: of `"level"` and `"category"`; one that the samples do not tell is missing.
        thresholds: category to threshold; those that are off or left alone are missing.
        undetermined: category to the reason why the samples do not determine its threshold (`ThresholdChoice`).
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
    def reached(self) -> Rate:
        """The rate that was aimed at, on the held-out samples."""
        return self._aimed_at(self.after)

    @property
    def is_on_target(self) -> bool:
        """Whether the reached rate is within the sampling error of both parts (95%) of the target. Where the samples
        chosen with stay below the target, as thresholds go no further than there are samples to win, it may, too."""
        chosen_with = self._aimed_at(evaluate_policy(self.policy, self.choose, self.config))
        if not self.reached.total or not chosen_with.total:
            return False
        variance = self.target * (1 - self.target) * (1 / chosen_with.total + 1 / self.reached.total)
        error = Z95 * math.sqrt(variance)
        return min(self.target, chosen_with.share) - error <= self.reached.share <= self.target + error

    @property
    def remarks(self) -> list[str]:
        """What the samples did not determine, one sentence each; empty where they determined everything."""
        remarks = [f"{name}: threshold not determined, {reason}" for name, reason in self.undetermined.items()]
        return remarks + [
            f"temperature of the {part}: not determined, left at {self.policy.temperatures.get(part, 1.0):g}"
            for part in TEMPERATURES
            if part not in self.temperatures
        ]

    def _aimed_at(self, figures: PolicyFigures) -> Rate:
        return figures.false_positives if self.target_kind == FALSE_POSITIVE_RATE else figures.misses

    def figures(self) -> dict:
        """Everything but the samples, as JSON-able data."""
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
    rates = {"false_positives": figures.false_positives, "misses": figures.misses}
    return {
        "level_error": figures.level_error,
        "category_error": figures.category_error,
        **{
            name: {"count": rate.count, "total": rate.total, "share": rate.share, "interval": list(rate.interval)}
            for name, rate in rates.items()
        },
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
) -> CalibrationResult:
    """Fits temperatures and chooses thresholds on one part of the records, and measures both on the other.

    Args:
        model, processor, records, batch_size, progress: as for `collect_verdict_logits`.
        target_false_positive_rate, target_miss_rate: exactly one of them, as for `choose_thresholds`.
        base_policy: set over the checkpoint's own policy, as `generate` does. A category that is off gets no
            threshold. Where a threshold is not determined, its rule stays (`choose_thresholds`).
        seed, holdout_share: as for `split`.

    Raises:
        ValueError: as those functions do, or the base policy is disabled or does not fit the model.
    """
    _check_target(target_false_positive_rate, target_miss_rate)  # before the work
    config = model.config.safety_config
    policy = SafetyPolicy.create(model.kept_policy(), config).override(base_policy, config)
    _categories_to_calibrate(policy, config)
    return calibrate_logits(
        collect_verdict_logits(model, processor, records, batch_size, progress),
        config,
        target_false_positive_rate,
        target_miss_rate,
        policy,
        seed,
        holdout_share,
    )


def calibrate_logits(
    labelled: LabelledLogits,
    config: SafetyConfig,
    target_false_positive_rate: float | None = None,
    target_miss_rate: float | None = None,
    base_policy: SafetyPolicy | dict | None = None,
    seed: int = 0,
    holdout_share: float = 0.5,
) -> CalibrationResult:
    """As `calibrate`, from logits that were collected before."""
    kind, target = _check_target(target_false_positive_rate, target_miss_rate)
    base_policy = SafetyPolicy.create(base_policy, config)
    _categories_to_calibrate(base_policy, config)
    choose, check = split(labelled, holdout_share, seed)
    temperatures = fit_temperatures(choose)
    choice = choose_thresholds(choose, temperatures, config, target_false_positive_rate, target_miss_rate, base_policy)
    policy = base_policy.override({"thresholds": choice.thresholds, "temperatures": temperatures}, config)
    return CalibrationResult(
        policy=policy,
        base_policy=base_policy,
        temperatures=temperatures,
        thresholds=choice.thresholds,
        undetermined=choice.undetermined,
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


def _categories_to_calibrate(policy: SafetyPolicy, config: SafetyConfig) -> list[str]:
    names = [name for name in config.categories if policy.is_on(name)]
    if policy.enabled is False or not names:
        raise ValueError("the base policy flags nothing (disabled, or every category is off): switch something on")
    return names
