"""Verdicts ([`SafetyVerdict`]) and what to do about them ([`SafetyPolicy`]), as plain data.

This file and those that it imports need neither torch nor transformers, so that any runtime can use them;
`safety_decision` does the same on tensors.
"""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, asdict, dataclass, field, fields, is_dataclass
from os import PathLike
from typing import Any, NamedTuple

from .json_files import read_json
from .refusal_texts import REFUSALS


DEFAULT_CATEGORIES = [
    "politics",
    "illegal risk",
    "insults and bullying",
    "fairness",
    "privacy",
    "misleading",
    "safe",
]
DEFAULT_LEVELS = ["safe", "low", "medium", "high"]
SAFE = "safe"
ACTIONS = ("answer", "review", "condition", "refuse")  # rising strictness; an action's id is its index
ANSWER, REVIEW, CONDITION, REFUSE = range(len(ACTIONS))
SETTABLE_ACTIONS = ("answer", "condition", "refuse")
EVERY = "*"  # it stands for every category that a policy does not name
BY_CATEGORY = ("thresholds", "review_thresholds", "actions", "refusals")
RISK_THRESHOLD = 0.5  # over this 1 - p(level is safe) an image is flagged
# A temperature beyond makes all probabilities alike, so that no category reaches its threshold, or turns a risk over.
LEAST_USUAL, MOST_USUAL = 0.2, 5.0
TEMPERATURES = {"level": (0.05, 100.0), "category": (0.05, 100.0)}


class SafetyNames:
    """Names of the categories and levels of risk; [`SafetyConfig`] has those of a model.

    Args:
        categories: names of the risk categories; exactly one is `"safe"`. The default ones if unset.
        levels: names of the risk levels, rising; the first is `"safe"`. The default ones if unset.
    """

    categories: list[str]
    levels: list[str]

    def __init__(self, categories: list[str] | None = None, levels: list[str] | None = None):
        self.categories = list(DEFAULT_CATEGORIES) if categories is None else categories
        self.levels = list(DEFAULT_LEVELS) if levels is None else levels

    @property
    def safe_category(self) -> int:
        """Index of the category `"safe"`."""
        return self.categories.index(SAFE)

    @property
    def num_conditions(self) -> int:
        """Rows of the condition table: one for safe, one for each risky (category, level)."""
        return 1 + (len(self.levels) - 1) * (len(self.categories) - 1)


@dataclass(frozen=True)
class SafetyVerdict:
    """The verdict on one image, under the text of its own sample.

    Attributes:
        sample: row of the batch that the image belongs to.
        category: most probable risky category, by name; `"safe"` where the risk is not over the policy's threshold and
            nothing is flagged.
        level: most probable risky level, by name; `"safe"` likewise.
        risk: 1 - p(level is safe), in [0, 1]. All probabilities are calibrated by the policy's temperatures.
        category_probabilities: name to probability.
        level_probabilities: name to probability.
        condition: `"safe"`, or `"<category>, <level>"` under which the answer was given: that of the sample, which is
            the strictest of its images'.
        action: `"answer"`, `"review"`, `"condition"` or `"refuse"`: what the policy decided on this image.
        flagged_categories: every category over its threshold, the most probable first.
        review_categories: every category in its review band, the most probable first.
    """

    sample: int
    category: str
    level: str
    risk: float
    category_probabilities: dict[str, float]
    level_probabilities: dict[str, float]
    condition: str
    action: str = "answer"
    flagged_categories: tuple[str, ...] = ()
    review_categories: tuple[str, ...] = ()


class Strictness(NamedTuple):
    """Strictness of a decision: by action, then by level, then by risk, as tuples compare.

    `safety_decision.SafetyDecision.strictest` is the same order on tensors.

    Attributes:
        action: index of `ACTIONS`.
        level: index of the level's name; 0 is safe.
        risk: 1 - p(level is safe); infinite where the pixels gave no verdict.
    """

    action: int = 0
    level: int = 0
    risk: float = 0.0

    @classmethod
    def of_verdict(cls, verdict: Mapping[str, Any]) -> "Strictness":
        """Return the strictness of a verdict, given by field: `vars` of a [`SafetyVerdict`], or an audit trail's."""
        level = list(verdict["level_probabilities"]).index(verdict["level"])
        return cls(ACTIONS.index(verdict["action"]), level, verdict["risk"])


def strictest_verdict(verdicts: Sequence[SafetyVerdict]) -> SafetyVerdict | None:
    """Return the verdict that decides about a sample, by its [`Strictness`]; `None` if there is none."""
    return max(verdicts, key=lambda verdict: Strictness.of_verdict(vars(verdict)), default=None)


@dataclass(frozen=True)
class SafetyPolicy:
    r"""The settings by which the head's logits become a decision per image (`safety_decision.decide`): the row of the
    condition table, and the action.

    It is data: kept as a dict in `generation_config.json`, passed to one call as `generate(..., safety_policy=...)`,
    and needs no retraining (paper, section 3.3: control). What is not set leaves the default: every category is on,
    an image is flagged where its risk is over 0.5, and a risk is answered under its condition. A name of `"*"` stands
    for every category that the policy does not name.

    Args:
        enabled: `False` answers every image under the safe condition.
        categories: category to `False` (off: never flagged) or `True`.
        risk_threshold: in [0, 1]; an image is flagged where its risk, 1 - p(level is safe), is over it. The flagged
            category is the most probable risky one that is on. Of the risk, categories that are switched off take
            their share away. 0.5 if unset.
        thresholds: category to the calibrated probability from which it is flagged, in [0, 1], in place of the risk.
            `None`: the risk decides. A flagged category is treated at its most probable risky level.
        review_thresholds: category to the probability from which it is reported and conditioned, though not flagged
            (but never stricter than its action: what would be answered over the threshold is answered here, too);
            below its threshold. `None`: no review band.
        actions: category to level to `"answer"`, `"condition"` or `"refuse"`, what a flagged category leads to. They
            may not fall as the level rises; a level that is not set is at least as strict as the one below.
        refusals: category to the fixed text of a refusal, in place of ours.
        language: of our own texts: `"en"` (default), `"de"`, `"es"`, `"fr"` or `"zh"`.
        remembered_turns: how many of the last turns of the users are the question, at least 1; all if unset. A prompt
            that does not say where turns begin is remembered whole.
        temperatures: `"level"` and `"category"` to the temperature of the head's logits (`safevlm calibrate`).
        config ([`SafetyNames`], *optional*): whose names are valid; the default categories and levels if unset. It is
            not kept: a model with a taxonomy of its own checks a policy against that when it is used.

    A sample with several images, or a conversation with earlier ones, is decided by its strictest image: it has one
    condition, in the blocks of all of them.

    Example:

    ```python
    >>> policy = SafetyPolicy(thresholds={"*": 0.5, "privacy": 0.8}, actions={"*": {"high": "refuse"}})
    >>> policy.override({"categories": {"politics": False}}).to_dict()["categories"]
    {'politics': False}
    ```
    """

    enabled: bool | None = None
    categories: dict[str, bool] = field(default_factory=dict)
    risk_threshold: float | None = None
    thresholds: dict[str, float | None] = field(default_factory=dict)
    review_thresholds: dict[str, float | None] = field(default_factory=dict)
    actions: dict[str, dict[str, str]] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    language: str | None = None
    remembered_turns: int | None = None
    temperatures: dict[str, float] = field(default_factory=dict)
    config: InitVar[SafetyNames | None] = None

    def __post_init__(self, config: SafetyNames | None):
        _expect(self.enabled is None or isinstance(self.enabled, bool), "enabled", "true or false", self.enabled)
        _expect(_is_threshold(self.risk_threshold), "risk_threshold", "a probability in [0, 1]", self.risk_threshold)
        if self.risk_threshold is not None:
            object.__setattr__(self, "risk_threshold", float(self.risk_threshold))
        is_count = self.remembered_turns is None or (_is_number(self.remembered_turns) and self.remembered_turns >= 1)
        is_count = is_count and isinstance(self.remembered_turns, int | None)
        _expect(is_count, "remembered_turns", "a whole number of at least 1", self.remembered_turns)
        known = self.language is None or (isinstance(self.language, str) and self.language in REFUSALS)
        _expect(known, "language", f"one of {list(REFUSALS)}", self.language)
        for name, is_valid, expected in (
            ("categories", lambda value: isinstance(value, bool), "true or false"),
            ("thresholds", _is_threshold, "a probability in [0, 1], or null"),
            ("review_thresholds", _is_threshold, "a probability in [0, 1], or null"),
            ("actions", _are_actions, f"a map from level to one of {list(SETTABLE_ACTIONS)}"),
            ("refusals", lambda value: isinstance(value, str) and bool(value.strip()), "a text"),
            ("temperatures", _is_number, "a number"),
        ):
            self._check_map(name, is_valid, expected)
        for name, value in self.temperatures.items():
            low, high = TEMPERATURES.get(name, (0, 0))
            valid = f"'level' and 'category' to numbers in {TEMPERATURES['level']}"
            _expect(low <= value <= high and name in TEMPERATURES, "temperatures", valid, {name: value})
        self._check_contradictions()
        self.check(SafetyNames() if config is None else config)

    def _check_map(self, name: str, is_valid, expected: str):
        values = getattr(self, name)
        if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
            raise ValueError(f"`{name}` of a safety policy must map names to values, got {values!r}.")
        for key, value in values.items():
            _expect(is_valid(value), f"{name}[{key!r}]", expected, value)
        # Nobody changes a policy by changing a dict that it was made from; and 1 is 1.0, in the digest, too.
        copied = {key: float(value) if _is_number(value) else value for key, value in values.items()}
        copied = {key: dict(value) if isinstance(value, dict) else value for key, value in copied.items()}
        object.__setattr__(self, name, copied)

    def _check_contradictions(self):
        named = set(self.thresholds) | set(self.review_thresholds)
        for name in sorted(named):
            threshold, review = _of(self.thresholds, name), _of(self.review_thresholds, name)
            if threshold is not None and review is not None and review >= threshold:
                raise ValueError(
                    f"Contradiction in the safety policy: the review band of {name!r} begins at {review}, at or over "
                    f"its threshold of {threshold}. It must begin below."
                )
        for part in BY_CATEGORY:
            for name in sorted(name for name in getattr(self, part) if _is_off(self.categories, name)):
                raise ValueError(
                    f"Contradiction in the safety policy: {name!r} is off in `categories` and has an entry in "
                    f"`{part}`. Leave one out, or set it to true in `categories`."
                )

    @classmethod
    def create(cls, policy: "SafetyPolicy | dict | None", config: SafetyNames | None = None) -> "SafetyPolicy":
        """Make a policy of a policy, its dict or nothing (the default); `config` as in the constructor.

        Raises `ValueError` where it is malformed, contradicts itself, or names what `config` does not have."""
        if policy is None:
            return cls(config=config)
        # It is known by name, not by class: the package's and a checkpoint's own copy of this file may meet in one
        # process.
        if is_dataclass(policy) and type(policy).__name__ == cls.__name__:
            policy = asdict(policy)
        if isinstance(policy, str | PathLike):
            raise ValueError(
                f"A safety policy must be a SafetyPolicy or a dict, got {type(policy).__name__} "
                f"{str(policy)[:100]!r}. A file is read by `SafetyPolicy.from_file(path, model.config.safety_config)`."
            )
        if not isinstance(policy, dict):
            raise ValueError(f"A safety policy must be a SafetyPolicy or a dict, got {type(policy).__name__}.")
        valid = [one.name for one in fields(cls)]
        unknown = sorted(map(str, set(policy) - set(valid)))
        if unknown:
            raise ValueError(f"Unknown keys in the safety policy: {unknown}. Valid keys: {valid}.")
        given = {name: value for name, value in policy.items() if value is not None}
        return cls(**given, config=config)

    @classmethod
    def from_file(cls, path, config: SafetyNames | None = None) -> "SafetyPolicy":
        """Return the policy in a JSON file. Raises `ValueError` with the file's name and the reason, a key that comes
        twice among them."""
        policy = read_json(path)
        try:
            return cls.create(policy, config)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def override(self, other: "SafetyPolicy | dict | None", config: SafetyNames | None = None) -> "SafetyPolicy":
        """Return this policy with what `other` sets in place of its own, name by name: a deployment's over a
        checkpoint's.

        What `other` sets for `"*"` holds for every category that it does not name, also where this policy does."""
        other = SafetyPolicy.create(other, config)
        values: dict[str, Any] = {}
        for name, own in asdict(self).items():
            given = getattr(other, name)
            if name == "actions":
                values[name] = _override_actions(own, given)
            elif isinstance(own, dict):
                values[name] = {**({} if EVERY in given else own), **given}
            else:
                values[name] = own if given is None else given
        # Switched off, a category leaves its other entries behind.
        for part in BY_CATEGORY:
            values[part] = {
                name: value
                for name, value in values[part].items()
                if not _is_off(other.categories, name) or name in getattr(other, part)
            }
        return SafetyPolicy(**values, config=config)

    def to_dict(self) -> dict:
        """Return the policy as JSON-able data, for `generation_config.safety_policy`. What is not set is left out."""
        return {name: value for name, value in asdict(self).items() if value is not None and value != {}}

    def lax_settings(self) -> list[str]:
        """Name the settings that make a verdict do less than the default policy, as words for a warning."""
        found = ["enabled: false"] if self.enabled is False else []
        found += [f"{name} is switched off" for name, is_on in self.categories.items() if not is_on]
        if self.risk_threshold is not None and self.risk_threshold > RISK_THRESHOLD:
            found.append(f"risk_threshold: {self.risk_threshold:g}")
        for name, threshold in self.thresholds.items():
            if threshold is not None and threshold > RISK_THRESHOLD:
                found.append(f"threshold of {name}: {threshold:g}")
        for part, temperature in self.temperatures.items():
            if not LEAST_USUAL <= temperature <= MOST_USUAL:
                found.append(f"temperature of the {part}: {temperature:g}")
        for name, actions in self.actions.items():
            found += [f"{name}, {level}: answer" for level, action in actions.items() if action == ACTIONS[ANSWER]]
        return found + ([] if self.remembered_turns is None else [f"remembered_turns: {self.remembered_turns}"])

    def digest(self) -> str:
        """Return the SHA-256 of the policy, in hex: two policies with equal settings share it."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def check(self, config: SafetyNames):
        """Raise `ValueError` when the policy names a category or level that `config` does not have, or is stricter on
        a lower level than on a higher one."""
        valid = [name for name in config.categories if name != SAFE]
        for part in ("categories", *BY_CATEGORY):
            unknown = sorted(set(getattr(self, part)) - {*valid, EVERY})
            if unknown:
                raise ValueError(
                    f"`{part}` of the safety policy names unknown categories {unknown}. Valid names: {valid}, or "
                    f"'{EVERY}' for every other. (A model's own: `config=model.config.safety_config`.)"
                )
        levels = config.levels[1:]
        for name, by_level in self.actions.items():
            unknown = sorted(set(by_level) - set(levels))
            if unknown:
                raise ValueError(
                    f"`actions[{name!r}]` of the safety policy names unknown levels {unknown}. Valid names: {levels}."
                )
            strictness = [ACTIONS.index(self.action(name, level, config)) for level in levels]
            if strictness != sorted(strictness):
                found = {level: self.action(name, level, config) for level in levels}
                raise ValueError(
                    f"Contradiction in the safety policy: the actions of {name!r} fall as the level rises, {found}."
                )

    def action(self, category: str, level: str, config: SafetyNames) -> str:
        """Return what a flagged `category` at a risky `level` leads to, all by name. A level that is not set is
        answered under its condition, or as strictly as the level below it."""
        given = {**self.actions.get(EVERY, {}), **self.actions.get(category, {})}
        strictness = CONDITION
        for name in config.levels[1 : config.levels.index(level) + 1]:
            strictness = ACTIONS.index(given[name]) if name in given else max(strictness, CONDITION)
        return ACTIONS[strictness]

    def threshold(self, category: str) -> float | None:
        """Return the probability from which a category, by name, is flagged; `None`: the risk decides."""
        return _of(self.thresholds, category)

    def review_threshold(self, category: str) -> float | None:
        """Return the probability from which a category, by name, is reviewed; `None`: it has no review band."""
        return _of(self.review_thresholds, category)

    def is_on(self, category: str) -> bool:
        """Tell whether the category, by name, can be flagged."""
        return category != SAFE and _of(self.categories, category) is not False

    def refuses(self, config: SafetyNames) -> bool:
        """Tell whether the policy can lead to a refusal at all."""
        return self.enabled is not False and any(REFUSE in row for row in self.action_table(config))

    def refusal(self, category: str | None) -> str:
        """Return the fixed text of a refusal for a category by name; `None` where an image cannot be read."""
        if category is not None and _of(self.refusals, category) is not None:
            return _of(self.refusals, category)
        ours = REFUSALS[self.language or "en"]
        return self.refusals.get(EVERY, ours[EVERY]) if category is None else ours.get(category, ours[EVERY])

    def action_table(self, config: SafetyNames) -> list[list[int]]:
        """Return action ids, (categories, levels - 1); a category that is off is answered."""
        return [
            [
                ACTIONS.index(self.action(name, level, config)) if self.is_on(name) else ANSWER
                for level in config.levels[1:]
            ]
            for name in config.categories
        ]


def _expect(is_valid: bool, name: str, expected: str, got):
    if not is_valid:
        raise ValueError(f"`{name}` of a safety policy must be {expected}, got {got!r}.")


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_threshold(value) -> bool:
    return value is None or (_is_number(value) and 0 <= value <= 1)


def _are_actions(value) -> bool:
    return isinstance(value, dict) and all(
        isinstance(level, str) and isinstance(action, str) and action in SETTABLE_ACTIONS
        for level, action in value.items()
    )


def _of(values: dict, category: str):
    """Return the entry of a category, or that of every other one."""
    return values[category] if category in values else values.get(EVERY)


def _is_off(categories: dict[str, bool], name: str) -> bool:
    """Tell whether nothing that `name` stands for can be flagged."""
    return _of(categories, name) is False and not (name == EVERY and any(categories.values()))


def _override_actions(own: dict[str, dict], given: dict[str, dict]) -> dict[str, dict]:
    # A level that is given for every category holds for all of them: what was set before for one of them is dropped.
    general = given.get(EVERY, {})
    kept = {
        name: {level: action for level, action in by_level.items() if level not in general}
        for name, by_level in own.items()
    }
    return {
        name: {**kept.get(name, {}), **given.get(name, {})}
        for name in (kept | given)
        if kept.get(name) or name in given
    }


def condition_name(row: int, config: SafetyNames) -> str:
    """Return the name of a row of the condition table: `"safe"` or `"<category>, <level>"`."""
    if row == 0:
        return SAFE
    category, level = _split_row(row, config)
    return f"{category}, {level}"


def _split_row(row: int, config: SafetyNames) -> tuple[str, str]:
    category, level = divmod(row - 1, len(config.levels) - 1)
    risky = [name for index, name in enumerate(config.categories) if index != config.safe_category]
    return risky[category], config.levels[level + 1]


def condition_category(row: int, config: SafetyNames) -> str:
    """Return the category, by name, of a row of the condition table."""
    return SAFE if row == 0 else _split_row(row, config)[0]


def condition_text(row: int, config: SafetyNames) -> str:
    """Return the prompt that a row of the condition table starts from (paper, section 3.3: the hint text)."""
    level = 0 if row == 0 else (row - 1) % (len(config.levels) - 1) + 1
    if level == 0:
        return "Risk: none. Answer the question."
    highest = len(config.levels) - 1
    advice = "Decline, say why, offer help." if level == highest else "Answer with care, or decline and say why."
    return f"Risk: {condition_name(row, config)}. {advice}"


DEFAULT_POLICY = SafetyPolicy()  # built here: full-graph compilation cannot build one in forward
