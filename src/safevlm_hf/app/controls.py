"""The policy as the controls of a page, and what moving them means as a policy's JSON."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..modeling.configuration_safety import SAFE, SafetyConfig
from ..modeling.safety_policy import ACTIONS, RISK_THRESHOLD, SafetyPolicy


BY_RISK, OWN_THRESHOLD, OFF = "by the risk", "own threshold", "off"
MODES = (BY_RISK, OWN_THRESHOLD, OFF)
MAX_TURNS = 8
"""Turns of a conversation on the page: a policy that remembers so many remembers all of them."""


@dataclass(frozen=True)
class Controls:
    """What the controls show.

    Attributes:
        risk_threshold: the risk over which a picture is flagged, 0 to 1.
        review_threshold: the probability from which every category is reviewed, 0 to 1. 0 leaves the checkpoint's own.
        remembered_turns: how many of the last turns count, 1 to `MAX_TURNS`.
        language: of the fixed refusals.
        actions: risky level to what it leads to in every category.
        modes: risky category to one of `MODES`.
        thresholds: risky category to the probability from which it is flagged, where its mode is `OWN_THRESHOLD`.
    """

    risk_threshold: float
    review_threshold: float
    remembered_turns: int
    language: str
    actions: dict[str, str]
    modes: dict[str, str]
    thresholds: dict[str, float]

    @classmethod
    def of_policy(cls, policy: SafetyPolicy, config: SafetyConfig) -> "Controls":
        """How the controls stand for a checkpoint's own policy.

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
            modes={name: _mode(policy, name) for name in categories},
            thresholds={name: 0.5 if value is None else value for name, value in thresholds.items()},
        )

    @classmethod
    def from_values(cls, values: Sequence, config: SafetyConfig) -> "Controls":
        """From the values of the controls in the page's order, as [`Controls.values`] gives them."""
        levels, categories = config.levels[1:], risky_categories(config)
        expected = 4 + len(levels) + 2 * len(categories)
        if len(values) != expected:
            raise ValueError(f"The page has {expected} controls, and {len(values)} values came: load it again.")
        rest = list(values[4:])
        actions, rest = rest[: len(levels)], rest[len(levels) :]
        modes, thresholds = rest[::2], rest[1::2]
        return cls(
            *values[:4],
            actions=dict(zip(levels, actions)),
            modes=dict(zip(categories, modes)),
            thresholds=dict(zip(categories, thresholds)),
        )

    def values(self) -> list:
        """The values of the controls in the page's order."""
        by_category = [value for name in self.modes for value in (self.modes[name], self.thresholds[name])]
        first = [self.risk_threshold, self.review_threshold, self.remembered_turns, self.language]
        return [*first, *self.actions.values(), *by_category]

    def to_policy(self, own: SafetyPolicy, config: SafetyConfig) -> dict:
        """What the visitor has moved, as the JSON that `--policy` takes: empty where nothing has been moved.

        Args:
            own: the checkpoint's policy, which the result overrides.

        Raises:
            ValueError: a value that no control can have, or a contradiction between the controls.
        """
        unknown = sorted({str(mode) for mode in self.modes.values()} - set(MODES))
        if unknown:
            raise ValueError(f"A category has one of the modes {', '.join(MODES)}, got {', '.join(unknown)}.")
        start = Controls.of_policy(own, config)
        simple = ("risk_threshold", "remembered_turns", "language")
        moved = {name: getattr(self, name) for name in simple if getattr(self, name) != getattr(start, name)}
        switched = {name: mode != OFF for name, mode in self.modes.items() if (mode != OFF) != own.is_on(name)}
        thresholds = {
            name: self.thresholds[name] if mode == OWN_THRESHOLD else None
            for name, mode in self.modes.items()
            if mode != OFF
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
        own.override(SafetyPolicy.create(moved, config), config)  # raises where the two contradict each other
        return moved


def risky_categories(config: SafetyConfig) -> list[str]:
    return [name for name in config.categories if name != SAFE]


def _mode(policy: SafetyPolicy, category: str) -> str:
    if not policy.is_on(category):
        return OFF
    return BY_RISK if policy.threshold(category) is None else OWN_THRESHOLD
