"""What another policy would have done with the samples of an audit trail."""

import os
from collections import Counter
from dataclasses import dataclass, field

import torch
from huggingface_hub.errors import StrictDataclassError

from .modeling.configuration_safety import SAFE, SafetyConfig
from .modeling.safety_audit import UNREADABLE, deciding_category, decode_logits, iter_audit
from .modeling.safety_policy import ACTIONS, SafetyPolicy, condition_category, is_readable


@dataclass(frozen=True)
class ReplayedSample:
    """One sample under another policy.

    Attributes:
        before: what the policy of the time decided, an action.
        after: what the other policy decides.
        category: that of the stricter of the two.
        is_exact: whether the line holds every window of the question, or no action of the policy is stricter than
            `after`. Otherwise `after` is the least that the policy would do.
        is_recalibrated: whether the line was written under other temperatures than the policy's.
        is_assessed: whether it was judged without an answer: a moderation, or a call of `assess`.
    """

    before: str
    after: str
    category: str
    is_exact: bool
    is_recalibrated: bool
    is_assessed: bool


@dataclass
class ReplayReport:
    """Counts over an audit trail.

    Attributes:
        counts: samples by category, action before and action after.
        at_least: those of `counts` whose action after is a lower bound.
        recalibrated: samples that were judged under other temperatures.
        assessed: samples that had no answer, moderations among them: their action is what an answer would have met.
        without_logits: samples whose line holds no logits, as older versions wrote them; they are in no other count.
        cut_off: lines that a crash cut off.
    """

    counts: Counter = field(default_factory=Counter)
    at_least: Counter = field(default_factory=Counter)
    recalibrated: int = 0
    assessed: int = 0
    without_logits: int = 0
    cut_off: int = 0

    @property
    def samples(self) -> int:
        return self.counts.total()

    def add(self, sample: ReplayedSample):
        key = (sample.category, sample.before, sample.after)
        self.counts[key] += 1
        self.at_least[key] += not sample.is_exact
        self.recalibrated += sample.is_recalibrated
        self.assessed += sample.is_assessed

    def by_actions(self) -> Counter:
        """Samples by action before and action after."""
        totals = Counter()
        for (_, before, after), number in self.counts.items():
            totals[before, after] += number
        return totals

    def changes(self) -> list[tuple[str, str, str, int, int]]:
        """Category, action before, action after, samples, and for how many of them `after` is a lower bound; the most
        frequent first."""
        changed = {key: number for key, number in self.counts.items() if key[1] != key[2]}
        return [
            (*key, number, self.at_least[key]) for key, number in sorted(changed.items(), key=lambda x: (-x[1], x))
        ]

    def to_dict(self) -> dict:
        names = ("category", "from", "to", "samples", "at_least")
        return {
            "samples": self.samples,
            "at_least": self.at_least.total(),
            "recalibrated": self.recalibrated,
            "assessed": self.assessed,
            "without_logits": self.without_logits,
            "cut_off": self.cut_off,
            "actions": [
                {"from": before, "to": after, "samples": number}
                for (before, after), number in sorted(self.by_actions().items())
            ],
            "changes": [dict(zip(names, change)) for change in self.changes()],
        }


def replay_audit(path: str | os.PathLike, policy: SafetyPolicy | dict | None) -> ReplayReport:
    """
    Decide every sample of an audit trail again.

    The logits of a line are those of the head, bit for bit, so temperatures may change, too. `remembered_turns` is not
    replayed: a line holds what was judged, and no turn that was left out.

    Args:
        path: of the audit trail.
        policy: whole, as `generate` would apply it.

    Raises:
        `ValueError`: for a line that `generate` cannot have written, and for a policy that names what the line's
            taxonomy does not have. The number of the line is named.
    """
    replay, report = PolicyReplay(policy), ReplayReport()
    for number, line in iter_audit(path):
        if line is None:
            report.cut_off += 1
            continue
        try:
            if any("logits" not in verdict for verdict in line["verdicts"]):
                report.without_logits += 1
            else:
                report.add(replay.decide(line))
        except (KeyError, TypeError, AttributeError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"{path}, line {number}, is no line of an audit trail: {reason}.") from None
        except (ValueError, StrictDataclassError) as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    return report


class PolicyReplay:
    """One policy, for lines of any taxonomy that it fits.

    Args:
        policy: as for [`replay_audit`].
    """

    def __init__(self, policy: SafetyPolicy | dict | None):
        self.settings = policy.to_dict() if isinstance(policy, SafetyPolicy) else policy
        self._by_names: dict[tuple, tuple[SafetyConfig, SafetyPolicy, int]] = {}

    def decide(self, line: dict) -> ReplayedSample:
        """The sample of a line, under the policy."""
        before = line.get("shadow_action", line["action"])
        if before not in ACTIONS:
            raise ValueError(f"`action` must be one of {list(ACTIONS)}, got {before!r}.")
        strictest, category = (0, 0, 0.0), SAFE
        has_all_windows, most, is_recalibrated = True, 0, False
        for verdict in line["verdicts"]:
            config, policy, most = self._taxonomy(verdict)
            logits = _read_logits(verdict, config)
            strictness, of_image = _strictest_window(policy, config, *logits)
            if strictness > strictest:
                strictest, category = strictness, of_image
            has_all_windows &= len(logits[0]) == verdict["num_windows"]
            is_recalibrated |= _is_recalibrated(verdict, policy, *logits)
        after = strictest[0]
        if after == 0 or after < ACTIONS.index(before):
            category = _category_before(line["verdicts"])
        is_exact, is_assessed = has_all_windows or after >= most, line.get("call") == "assess"
        return ReplayedSample(before, ACTIONS[after], category, is_exact, is_recalibrated, is_assessed)

    def _taxonomy(self, verdict: dict) -> tuple[SafetyConfig, SafetyPolicy, int]:
        """Names, policy, and its strictest action as an index of `ACTIONS`."""
        names = tuple(verdict["level_probabilities"]), tuple(verdict["category_probabilities"])
        if names not in self._by_names:
            config = SafetyConfig(levels=list(names[0]), categories=list(names[1]))
            try:
                policy = SafetyPolicy.create(self.settings, config)
            except ValueError as error:
                raise ValueError(f"the policy does not fit what was judged: {error}") from None
            self._by_names[names] = config, policy, _strictest_action(policy, config)
        return self._by_names[names]


def _strictest_action(policy: SafetyPolicy, config: SafetyConfig) -> int:
    if policy.enabled is False:
        return ACTIONS.index("answer")
    of_all = [policy.action(name, config.levels[-1], config) for name in config.categories if policy.is_on(name)]
    return max(map(ACTIONS.index, of_all), default=0)


def _read_logits(verdict: dict, config: SafetyConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (windows, levels) and (windows, categories)."""
    sizes = [len(config.levels), len(config.categories)]
    return decode_logits(verdict["logits"], sum(sizes)).split(sizes, dim=-1)


def _strictest_window(
    policy: SafetyPolicy, config: SafetyConfig, level_logits: torch.Tensor, category_logits: torch.Tensor
) -> tuple[tuple[int, int, float], str]:
    """Action, level and risk of the strictest window, and its category."""
    decision = policy.decide(level_logits, category_logits, config)
    index = int(decision.strictest(torch.ones(len(level_logits), dtype=torch.bool)))
    is_read = bool(is_readable(level_logits[index], category_logits[index]))
    category = condition_category(int(decision.condition_ids[index]), config) if is_read else UNREADABLE
    action, level = int(decision.action_ids[index]), int(decision.level_ids[index])
    return (action, level, float(decision.risks[index])), category


def _is_recalibrated(
    verdict: dict, policy: SafetyPolicy, level_logits: torch.Tensor, category_logits: torch.Tensor
) -> bool:
    """Whether the policy gives no window the probabilities that were written down, rounded to six digits."""
    if not is_readable(level_logits, category_logits).all():
        return False
    found = [policy.probabilities(level_logits, "level"), policy.probabilities(category_logits, "category")]
    written = [*verdict["level_probabilities"].values(), *verdict["category_probabilities"].values()]
    distance = (torch.cat(found, dim=-1) - torch.tensor(written)).abs().amax(dim=-1)
    return not bool((distance < 1e-4).any())


def _category_before(verdicts: list[dict]) -> str:
    if not verdicts:
        return SAFE
    return deciding_category(max(verdicts, key=_strictness))


def _strictness(verdict: dict) -> tuple[int, int, float]:
    level = list(verdict["level_probabilities"]).index(verdict["level"])
    return ACTIONS.index(verdict["action"]), level, verdict["risk"]


__all__ = ["PolicyReplay", "ReplayReport", "ReplayedSample", "replay_audit"]
