"""The head's logits on labelled samples, in two halves: one to choose with, one to check on."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from ..asking import ask_records, assess_records
from ..data.records import JOIN_MARK
from ..modeling.safety_decision import decide, is_readable
from ..modeling.safety_policy import SafetyPolicy


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledLogits:
    """Logits of the safety head on n samples, and their true labels.

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
        """Return the samples of these rows, in this order."""
        index = torch.as_tensor(rows, dtype=torch.long)
        return LabelledLogits(
            level_logits=self.level_logits[index],
            category_logits=self.category_logits[index],
            level=self.level[index],
            category=self.category[index],
            groups=tuple(self.groups[row] for row in index.tolist()),
            windows=None if self.windows is None else tuple(self.windows[row] for row in index.tolist()),
        )

    def all_windows(self) -> tuple[torch.Tensor, torch.Tensor, torch.LongTensor]:
        """Return level logits, category logits, and the row of the sample, of every window of all samples."""
        if self.windows is None:
            return self.level_logits, self.category_logits, torch.arange(len(self))
        counts = torch.tensor([len(window) for window in self.windows])
        logits = torch.cat(self.windows)
        levels, categories = logits.split([self.level_logits.shape[1], self.category_logits.shape[1]], dim=-1)
        return levels, categories, torch.arange(len(self)).repeat_interleave(counts)

    def highest(self, values: torch.Tensor) -> torch.Tensor:
        """Reduce (windows of all samples, columns) to the highest value per sample and column, (n, columns)."""
        rows = self.all_windows()[2][:, None].expand_as(values)
        return values.new_zeros(len(self), values.shape[1]).scatter_reduce(0, rows, values, "amax", include_self=False)


def collect_verdict_logits(
    model, processor, records: Sequence[dict], batch_size: int = 32, progress: bool = True
) -> LabelledLogits:
    """Collect the head's logits on the last question of each record, in the records' order; no language model is run.

    Args:
        model, processor: a safe model's.
        records: as `load_records` gives them. Of several images the strictest counts, as the model's policy decides.
            Records without an image or without labels, or with an image that gives no verdict, are left out, and named
            in a warning.

    Raises:
        ValueError: the model has no safety head, the labels are not its own, or no record is left.
    """
    if not hasattr(model, "assess"):
        raise ValueError(f"calibration needs a model with a safety head, got {type(model).__name__}")
    records = list(records)
    left_out = {index: reason for index, one in enumerate(records) if (reason := _unusable(one, model))}
    used = [index for index in range(len(records)) if index not in left_out]
    assess = partial(_assess, model, processor)
    logits = ask_records(assess, model, [records[index] for index in used], batch_size, "assessing", progress)
    for index, (level_logits, category_logits, _) in zip(used, logits):
        if not is_readable(level_logits[None], category_logits[None]):
            left_out[index] = "no verdict (pixels that are not numbers)"
    if left_out:
        # Each is named: figures on fewer samples than the user thinks would mislead.
        sources = ((index, records[index].get("source", f"record {index}")) for index in sorted(left_out))
        named = "\n".join(f"- {source}: {left_out[index]}" for index, source in sources)
        logger.warning("Calibration leaves out %d of %d records:\n%s", len(left_out), len(records), named)
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
        groups=_groups([record["images"] for record, _ in kept]),
        windows=tuple(found[2] for _, found in kept),
    )


def _groups(images: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Name each sample, equally those that share a picture, directly or through others."""
    parent: dict[str, str] = {}

    # A union-find: each picture points towards the one that names its group, and paths are halved on the way.
    def root(picture: str) -> str:
        parent.setdefault(picture, picture)
        while parent[picture] != picture:
            parent[picture] = picture = parent[parent[picture]]
        return picture

    pictures = [[path for reference in references for path in reference.split(JOIN_MARK)] for references in images]
    for first, *others in pictures:
        for other in others:
            parent[root(other)] = root(first)
    return tuple(root(first) for first, *_ in pictures)


def _unusable(record: dict, model) -> str | None:
    """Return the reason why a record cannot be used, if there is one."""
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


@torch.inference_mode()
def _assess(model, processor, records: list[dict]) -> list[tuple]:
    """Return, per record, (levels,) and (categories,) logits of its strictest image under the policy that was applied,
    and the logits of all windows of all of its images."""
    outputs, config = assess_records(model, processor, records), model.config.safety_config
    policy = SafetyPolicy.create(outputs.safety_policy, config)
    decision = decide(policy, outputs.safety_level_logits, outputs.safety_category_logits, config)
    strictest = decision.strictest_images(outputs.safety_image_rows, len(records)).tolist()
    levels, categories = outputs.safety_level_logits.cpu(), outputs.safety_category_logits.cpu()
    rows, windows, is_window = (
        part.cpu() for part in (outputs.safety_image_rows, outputs.safety_window_logits, outputs.safety_is_window)
    )
    return [
        (levels[image], categories[image], windows[(rows == row)[:, None] & is_window])
        for row, image in enumerate(strictest)
    ]


def split(
    labelled: LabelledLogits, holdout_share: float = 0.5, seed: int = 0
) -> tuple[LabelledLogits, LabelledLogits]:
    """Split samples into those to choose with and those to check with; a group is in one of them only.

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
