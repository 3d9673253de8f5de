"""The policy as controls of a page, and the controls as a policy's JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from ..modeling.safety_policy import ACTIONS, RISK_THRESHOLD, SAFE, SafetyNames, SafetyPolicy


MAX_TURNS = 8
"""Turns of a conversation on the page: a policy that remembers so many remembers all of them."""


@dataclass(frozen=True)
class Controls:
    """Values of the controls.

    Attributes:
        risk_threshold: the risk over which a picture is flagged, 0 to 1.
        review_threshold: the probability from which every category is reviewed, 0 to 1. 0 leaves the checkpoint's own.
        remembered_turns: how many of the last turns count, 1 to `MAX_TURNS`.
        language: of the fixed refusals.
        actions: risky level to what it leads to in every category.
        switches: risky category to whether it is on.
        has_threshold: risky category to whether a threshold of its own flags it, in place of the risk.
        thresholds: risky category to that threshold, a probability.
    """

    risk_threshold: float
    review_threshold: float
    remembered_turns: int
    language: str
    actions: dict[str, str]
    switches: dict[str, bool]
    has_threshold: dict[str, bool]
    thresholds: dict[str, float]

    @classmethod
    def from_policy(cls, policy: SafetyPolicy, config: SafetyNames) -> "Controls":
        """Return the controls as they stand for a checkpoint's own policy.

        A level shows one action for all categories. Where the policy has several, it is the strictest of them."""
        categories = risky_categories(config)
        thresholds = {name: policy.threshold(name) for name in categories}
        return cls(
            risk_threshold=RISK_THRESHOLD if policy.risk_threshold is None else policy.risk_threshold,
            review_threshold=0.0,
            remembered_turns=min(policy.remembered_turns or MAX_TURNS, MAX_TURNS),
            language=policy.language or "en",
            actions={
                level: max((policy.action(name, level, config) for name in categories), key=ACTIONS.index)
                for level in config.levels[1:]
            },
            switches={name: policy.is_on(name) for name in categories},
            has_threshold={name: value is not None for name, value in thresholds.items()},
            thresholds={name: 0.5 if value is None else value for name, value in thresholds.items()},
        )

    @classmethod
    def from_values(cls, values: Sequence, config: SafetyNames) -> "Controls":
        """Read the values of the controls in the page's order, as [`Controls.values`] gives them."""
        levels, categories = config.levels[1:], risky_categories(config)
        expected = 4 + len(levels) + 3 * len(categories)
        if len(values) != expected:
            raise ValueError(f"The page has {expected} controls, and {len(values)} values came: load it again.")
        risk_threshold, review_threshold, remembered_turns, language, *rest = values
        by_category = rest[len(levels) :]
        return cls(
            risk_threshold=risk_threshold,
            review_threshold=review_threshold,
            remembered_turns=remembered_turns,
            language=language,
            actions=dict(zip(levels, rest)),
            switches=dict(zip(categories, by_category[0::3])),
            has_threshold=dict(zip(categories, by_category[1::3])),
            thresholds=dict(zip(categories, by_category[2::3])),
        )

    def values(self) -> list:
        """Return the values of the controls in the page's order."""
        by_category = zip(self.switches.values(), self.has_threshold.values(), self.thresholds.values())
        first = [self.risk_threshold, self.review_threshold, self.remembered_turns, self.language]
        return [*first, *self.actions.values(), *chain.from_iterable(by_category)]

    def to_policy(self, own: SafetyPolicy, config: SafetyNames) -> dict:
        """Return what the visitor has moved as the JSON that `--policy` takes. It is empty if nothing has been moved.

        Args:
            own: the checkpoint's policy, which the result overrides.

        Raises:
            ValueError: a value that no control can have, or a contradiction between the controls.
        """
        for value in (*self.switches.values(), *self.has_threshold.values()):
            if not isinstance(value, bool):
                raise ValueError(f"A switch is on or off (true or false), got {value!r}.")
        start = Controls.from_policy(own, config)
        simple = ("risk_threshold", "remembered_turns", "language")
        moved = {name: getattr(self, name) for name in simple if getattr(self, name) != getattr(start, name)}
        switched = {name: is_on for name, is_on in self.switches.items() if is_on != own.is_on(name)}
        thresholds = {
            name: self.thresholds[name] if self.has_threshold[name] else None
            for name, is_on in self.switches.items()
            if is_on
        }
        thresholds = {name: value for name, value in thresholds.items() if value != own.threshold(name)}
        if switched:
            moved["categories"] = switched
        if thresholds:
            moved["thresholds"] = thresholds
        if self.review_threshold != 0:
            moved["review_thresholds"] = {"*": self.review_threshold}
        if self.actions != start.actions:
            moved["actions"] = {"*": self.actions}
        # Two policies may contradict each other though each is well-formed. That raises here, on the page.
        own.override(SafetyPolicy.create(moved, config), config)
        return moved


def risky_categories(config: SafetyNames) -> list[str]:
    return [name for name in config.categories if name != SAFE]
