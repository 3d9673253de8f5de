"""What was seen ([`SafetyVerdict`]) and what to do about it ([`SafetyPolicy`])."""

from dataclasses import asdict, dataclass

import torch

from .configuration_safe_llava import SAFE, SafetyConfig


@dataclass(frozen=True)
class SafetyVerdict:
    """The verdict on one image, under the text of its own sample.

    Attributes:
        sample: row of the batch that the image belongs to.
        category: most probable category, by name.
        level: most probable level, by name.
        risk: 1 - p(level is safe), in [0, 1].
        category_probabilities: name to probability.
        level_probabilities: name to probability.
        condition: `"safe"`, or `"<category>, <level>"` under which the answer was given.
    """

    sample: int
    category: str
    level: str
    risk: float
    category_probabilities: dict[str, float]
    level_probabilities: dict[str, float]
    condition: str


@dataclass(frozen=True)
class SafetyPolicy:
    """From the head's logits to a decision an image: the row of the condition table.

    It is data: kept as a dict in `generation_config.json`, passed to one call as `generate(..., safety_policy=...)`,
    and needs no retraining (paper, section 3.3: control).

    Args:
        enabled: `False` answers every image under the safe condition.
        disabled_categories: categories, by name, whose images are answered under the safe condition.
    """

    enabled: bool = True
    disabled_categories: tuple[str, ...] = ()

    def __post_init__(self):
        if not isinstance(self.enabled, bool):
            raise ValueError(f"`enabled` of a safety policy must be true or false, got {self.enabled!r}.")
        names = self.disabled_categories
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"`disabled_categories` of a safety policy must be a list of names, got {names!r}.")
        object.__setattr__(self, "disabled_categories", tuple(names))

    @classmethod
    def create(cls, policy: "SafetyPolicy | dict | None") -> "SafetyPolicy":
        """A policy from a policy, its dict or nothing (the default: argmax, every category on)."""
        if policy is None:
            return cls()
        # By name, not by class: the package's and a checkpoint's own copy of this file may meet in one process.
        if type(policy).__name__ == cls.__name__:
            policy = asdict(policy)
        if not isinstance(policy, dict):
            raise ValueError(f"A safety policy must be a SafetyPolicy or a dict, got {type(policy).__name__}.")
        unknown = sorted(set(policy) - set(cls.__dataclass_fields__))
        if unknown:
            raise ValueError(
                f"Unknown keys in the safety policy: {unknown}. Valid keys: {list(cls.__dataclass_fields__)}."
            )
        return cls(**policy)

    def to_dict(self) -> dict:
        """The policy as JSON-able data, for `generation_config.safety_policy`."""
        return {"enabled": self.enabled, "disabled_categories": list(self.disabled_categories)}

    def check(self, config: SafetyConfig):
        """Raise `ValueError` when the policy names a category that `config` does not have."""
        valid = [name for name in config.categories if name != SAFE]
        unknown = [name for name in self.disabled_categories if name not in valid]
        if unknown:
            raise ValueError(f"The safety policy disables unknown categories {unknown}. Valid names: {valid}.")

    def condition_ids(
        self, level_logits: torch.Tensor, category_logits: torch.Tensor, config: SafetyConfig
    ) -> torch.LongTensor:
        """Rows of the condition table, (images,), from logits (images, levels) and (images, categories).

        Tensor operations only: no value of a tensor is read on the host."""
        category = category_logits.argmax(dim=-1)
        rows = condition_rows(level_logits.argmax(dim=-1), category, config)
        for name in self.disabled_categories:
            rows = torch.where(category == config.categories.index(name), 0, rows)
        # Pixels that are not numbers give no verdict: the last row (a highest level) stands for them, whichever
        # category their logits seem to name.
        readable = torch.isfinite(level_logits).all(dim=-1) & torch.isfinite(category_logits).all(dim=-1)
        rows = torch.where(readable, rows, config.num_conditions - 1)
        return rows if self.enabled else torch.zeros_like(rows)


def condition_rows(levels: torch.Tensor, categories: torch.Tensor, config: SafetyConfig) -> torch.LongTensor:
    """Rows of the condition table, 0 where the level or the category is safe. Shapes are kept."""
    risky_category = categories - (categories > config.safe_category).long()
    rows = 1 + risky_category * (len(config.levels) - 1) + (levels - 1)
    return torch.where((levels == 0) | (categories == config.safe_category), 0, rows)


def condition_name(row: int, config: SafetyConfig) -> str:
    """Name of a row of the condition table: `"safe"` or `"<category>, <level>"`."""
    if row == 0:
        return SAFE
    category, level = divmod(row - 1, len(config.levels) - 1)
    risky = [name for index, name in enumerate(config.categories) if index != config.safe_category]
    return f"{risky[category]}, {config.levels[level + 1]}"


def condition_text(row: int, config: SafetyConfig) -> str:
    """The prompt that a row of the condition table starts from (paper, section 3.3: the hint text)."""
    level = 0 if row == 0 else (row - 1) % (len(config.levels) - 1) + 1
    if level == 0:
        return "Risk: none. Answer the question."
    highest = len(config.levels) - 1
    advice = "Decline, say why, offer help." if level == highest else "Answer with care, or decline and say why."
    return f"Risk: {condition_name(row, config)}. {advice}"


def verdicts_from_logits(
    level_logits: torch.Tensor,
    category_logits: torch.Tensor,
    samples: list[int],
    condition_ids: list[int] | None,
    config: SafetyConfig,
) -> list[SafetyVerdict]:
    """One [`SafetyVerdict`] an image, from logits (images, levels) and (images, categories).

    Without `condition_ids` the condition is the default policy's."""
    if condition_ids is None:
        condition_ids = SafetyPolicy().condition_ids(level_logits, category_logits, config).tolist()
    level_logits, category_logits = level_logits.float().clone(), category_logits.float().clone()
    # As the policy: what cannot be read is reported at the highest level, never as safe.
    unreadable = ~(level_logits.isfinite().all(dim=-1) & category_logits.isfinite().all(dim=-1))
    last_risky = max(index for index in range(len(config.categories)) if index != config.safe_category)
    for logits, column in ((level_logits, len(config.levels) - 1), (category_logits, last_risky)):
        logits[unreadable] = 0.0
        logits[unreadable, column] = 100.0
    level_probabilities = level_logits.float().softmax(dim=-1).tolist()
    category_probabilities = category_logits.float().softmax(dim=-1).tolist()
    verdicts = []
    for sample, row, by_level, by_category in zip(samples, condition_ids, level_probabilities, category_probabilities):
        by_level = dict(zip(config.levels, by_level))
        by_category = dict(zip(config.categories, by_category))
        verdicts.append(
            SafetyVerdict(
                sample=sample,
                category=max(by_category, key=by_category.get),
                level=max(by_level, key=by_level.get),
                risk=1 - by_level[config.levels[0]],
                category_probabilities=by_category,
                level_probabilities=by_level,
                condition=condition_name(row, config),
            )
        )
    return verdicts


__all__ = [
    "SafetyPolicy",
    "SafetyVerdict",
    "condition_rows",
    "condition_name",
    "condition_text",
    "verdicts_from_logits",
]
