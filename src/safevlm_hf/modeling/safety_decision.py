"""Decisions of a policy, on tensors: the order of `Strictness`, decisions from logits, and verdicts by name."""

import math
from dataclasses import dataclass

import torch

from .safety_policy import (
    ACTIONS,
    ANSWER,
    CONDITION,
    DEFAULT_POLICY,
    REVIEW,
    RISK_THRESHOLD,
    SAFE,
    SafetyNames,
    SafetyPolicy,
    SafetyVerdict,
    condition_name,
)


@dataclass(frozen=True)
class SafetyDecision:
    """Decisions of a policy on each image, or on each window of each image.

    Attributes:
        condition_ids: (...), rows of the condition table.
        action_ids: (...), indices of `ACTIONS`.
        level_ids: (...), the level that was decided, 0 where it is answered.
        risks: (...), 1 - p(level is safe); infinite where the pixels gave no verdict.
        flagged: (..., categories), true where a category is over its threshold.
        review: (..., categories), true where a category is in its review band.
    """

    condition_ids: torch.LongTensor
    action_ids: torch.LongTensor
    level_ids: torch.LongTensor
    risks: torch.Tensor
    flagged: torch.BoolTensor
    review: torch.BoolTensor

    def strictest(self, is_candidate: torch.BoolTensor) -> torch.LongTensor:
        """Return the index, along the last dimension, of the strictest decision, as `Strictness` compares.

        Args:
            is_candidate: (..., decisions), which of them count; broadcast with (...), at least one along the last
                dimension.
        """
        # Action and level become one number, in which no level outweighs an action; the risk decides between equals.
        strictness = self.action_ids * (1 + self.level_ids.max()) + self.level_ids
        strictness = torch.where(is_candidate, strictness, -1)
        is_strictest = strictness == strictness.max(dim=-1, keepdim=True).values
        return torch.where(is_strictest, self.risks, -1.0).argmax(dim=-1)

    def strictest_images(self, image_rows: torch.LongTensor, num_samples: int) -> torch.LongTensor:
        """Return the index of each sample's strictest image, (samples,); any index where a sample has no image.

        Args:
            image_rows: (images,), the sample that each image belongs to.
        """
        return self.strictest(image_rows == torch.arange(num_samples, device=image_rows.device)[:, None])


def calibrated_probabilities(policy: SafetyPolicy, logits: torch.Tensor, part: str) -> torch.Tensor:
    """Return calibrated probabilities from logits (..., classes); `part` is `"level"` or `"category"`."""
    # The largest logit becomes 0 first, so that no temperature can make a finite one infinite.
    shifted = logits.float() - logits.float().max(dim=-1, keepdim=True).values
    return (shifted / policy.temperatures.get(part, 1.0)).softmax(dim=-1)


def decide(
    policy: SafetyPolicy, level_logits: torch.Tensor, category_logits: torch.Tensor, config: SafetyNames
) -> SafetyDecision:
    """Return the policy's decisions for logits (..., levels) and (..., categories).

    Tensor operations only: no value of a tensor is read on the host."""
    probabilities = calibrated_probabilities(policy, category_logits, "category")
    risks = calibrated_risks(policy, level_logits)
    risky_level = level_logits[..., 1:].argmax(dim=-1)

    def constant(values, **kwargs):
        # Nothing waits for it: a blocking copy would stall the prefill.
        return torch.tensor(values, **kwargs).to(level_logits.device, non_blocking=True)

    is_on = constant([policy.is_on(name) for name in config.categories])
    thresholds = constant([_or_nan(policy.threshold(name)) for name in config.categories], dtype=torch.float32)
    reviews = constant([_or_nan(policy.review_threshold(name)) for name in config.categories], dtype=torch.float32)
    by_risk = _flag_by_risk(policy, risks, category_logits, is_on, config)
    flagged = torch.where(thresholds.isnan(), by_risk, (probabilities >= thresholds) & is_on)
    review = (probabilities >= reviews) & ~flagged & is_on  # false where the band is not set (NaN)

    table = constant(policy.action_table(config))
    actions = table.t()[risky_level]  # (..., categories), as if each were flagged
    actions = torch.where(flagged, actions, torch.where(review, actions.clamp(max=REVIEW), ANSWER))
    strictest = actions.max(dim=-1, keepdim=True).values
    chosen = torch.where(actions == strictest, probabilities, -1.0).argmax(dim=-1)
    action_ids = strictest[..., 0]
    level_ids = torch.where(action_ids == ANSWER, 0, risky_level + 1)
    condition_ids = torch.where(action_ids == ANSWER, 0, condition_rows(risky_level + 1, chosen, config))

    # Pixels that are not numbers give no verdict: the last row (a highest level) stands for them, and the
    # strictest action that the policy has, whichever category their logits seem to name.
    readable = is_readable(level_logits, category_logits)
    condition_ids = torch.where(readable, condition_ids, config.num_conditions - 1)
    level_ids = torch.where(readable, level_ids, len(config.levels) - 1)
    action_ids = torch.where(readable, action_ids, table.max().clamp(min=CONDITION))
    risks = torch.where(readable, risks, torch.inf)
    if policy.enabled is False:
        nothing = torch.zeros_like(condition_ids)
        return SafetyDecision(nothing, nothing, nothing, risks, flagged & False, review & False)
    return SafetyDecision(condition_ids, action_ids, level_ids, risks, flagged, review)


def calibrated_risks(policy: SafetyPolicy, level_logits: torch.Tensor) -> torch.Tensor:
    """Return 1 - p(level is safe), calibrated, for logits (..., levels); small ones are exact, too."""
    return calibrated_probabilities(policy, level_logits, "level")[..., 1:].sum(dim=-1)


def _flag_by_risk(
    policy: SafetyPolicy,
    risks: torch.Tensor,
    category_logits: torch.Tensor,
    is_on: torch.BoolTensor,
    config: SafetyNames,
) -> torch.BoolTensor:
    """Return, where the risk decides, the most probable risky category that is on, (..., categories).

    What is switched off takes its share of the risk with it: otherwise its images would be flagged all the same,
    as whichever other category happens to come next."""
    columns = torch.arange(len(config.categories), device=is_on.device)
    shares = calibrated_probabilities(
        policy, category_logits.masked_fill(columns == config.safe_category, -torch.inf), "category"
    )
    is_off = ~is_on & (columns != config.safe_category)
    risks = risks * (1 - (shares * is_off).sum(dim=-1))
    most_probable = category_logits.masked_fill(~is_on, -torch.inf).argmax(dim=-1, keepdim=True) == columns
    threshold = RISK_THRESHOLD if policy.risk_threshold is None else policy.risk_threshold
    return most_probable & (risks > threshold)[..., None] & is_on


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def is_readable(level_logits: torch.Tensor, category_logits: torch.Tensor) -> torch.BoolTensor:
    """Return whether each image, or window, gave a verdict at all, (...)."""
    return torch.isfinite(level_logits).all(dim=-1) & torch.isfinite(category_logits).all(dim=-1)


def condition_rows(levels: torch.Tensor, categories: torch.Tensor, config: SafetyNames) -> torch.LongTensor:
    """Return rows of the condition table, 0 where the level or the category is safe. Shapes are kept."""
    risky_category = categories - (categories > config.safe_category).long()
    rows = 1 + risky_category * (len(config.levels) - 1) + (levels - 1)
    return torch.where((levels == 0) | (categories == config.safe_category), 0, rows)


def verdicts_from_logits(
    level_logits: torch.Tensor,
    category_logits: torch.Tensor,
    samples: list[int],
    config: SafetyNames,
    policy: SafetyPolicy | dict | None = None,
    condition_ids: list[int] | None = None,
) -> list[SafetyVerdict]:
    """Return one [`SafetyVerdict`] per image, from logits (images, levels) and (images, categories).

    The policy decides again what it decided then; `condition_ids`, where given, are those that were applied."""
    policy = SafetyPolicy.create(policy, config)
    decision = decide(policy, level_logits, category_logits, config)
    condition_ids = decision.condition_ids.tolist() if condition_ids is None else condition_ids
    # This follows the policy: what cannot be read is reported at the highest level, never as safe.
    unreadable = ~is_readable(level_logits, category_logits)
    last_risky = max(index for index in range(len(config.categories)) if index != config.safe_category)
    probabilities = {}
    for part, logits, column in (
        ("level", level_logits, len(config.levels) - 1),
        ("category", category_logits, last_risky),
    ):
        certain = (torch.arange(logits.shape[-1], device=logits.device) == column).float()
        calibrated = calibrated_probabilities(policy, logits, part)
        probabilities[part] = torch.where(unreadable[:, None], certain, calibrated).tolist()
    verdicts = []
    threshold = RISK_THRESHOLD if policy.risk_threshold is None else policy.risk_threshold
    for image, (sample, row) in enumerate(zip(samples, condition_ids)):
        by_level = dict(zip(config.levels, probabilities["level"][image]))
        by_category = dict(zip(config.categories, probabilities["category"][image]))
        risk = sum(probabilities["level"][image][1:])
        is_risky = risk > threshold or bool(decision.flagged[image].any())
        verdicts.append(
            SafetyVerdict(
                sample=sample,
                category=_most_probable(by_category) if is_risky else SAFE,
                level=_most_probable(by_level) if is_risky else SAFE,
                risk=min(risk, 1.0),
                category_probabilities=by_category,
                level_probabilities=by_level,
                condition=condition_name(row, config),
                action=ACTIONS[int(decision.action_ids[image])],
                flagged_categories=_names(decision.flagged[image], by_category),
                review_categories=_names(decision.review[image], by_category),
            )
        )
    return verdicts


def _most_probable(probabilities: dict[str, float]) -> str:
    """Return the most probable name that is not safe."""
    return max((name for name in probabilities if name != SAFE), key=probabilities.get)


def predicted_ids(
    level_logits: torch.Tensor, category_logits: torch.Tensor, config: SafetyNames
) -> tuple[torch.LongTensor, torch.LongTensor]:
    """Return level and category, both (images,), of verdicts under the default policy: safe in both where the risk is
    not over its threshold, otherwise the most probable risky ones."""
    is_risky = calibrated_risks(DEFAULT_POLICY, level_logits) > RISK_THRESHOLD
    columns = torch.arange(category_logits.shape[-1], device=category_logits.device)
    category = category_logits.masked_fill(columns == config.safe_category, -torch.inf).argmax(dim=-1)
    level = level_logits[..., 1:].argmax(dim=-1) + 1
    return torch.where(is_risky, level, 0), torch.where(is_risky, category, config.safe_category)


def _names(chosen: torch.BoolTensor, probabilities: dict[str, float]) -> tuple[str, ...]:
    names = [name for name, is_chosen in zip(probabilities, chosen.tolist()) if is_chosen]
    return tuple(sorted(names, key=probabilities.get, reverse=True))
