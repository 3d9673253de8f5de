"""Replay of an audit trail: the actions that another policy would have taken."""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from tqdm.auto import tqdm

from ..modeling.configuration_safety import SAFE, SafetyConfig
from ..modeling.safety_audit import UNREADABLE, deciding_category, decode_logits
from ..modeling.safety_decision import calibrated_probabilities, decide, is_readable
from ..modeling.safety_policy import ACTIONS, SafetyNames, SafetyPolicy, Strictness, condition_category
from ..strict_data import expect, is_count, is_number, is_optional_text, is_text


MAX_LINES, MAX_WINDOWS = 8192, 2**18  # so many are decided at once: fast, in some ten megabytes


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
        cut_off: 1 where the last line is unfinished, as a crash, or a copy of a trail at work, leaves it.
        unreadable: other lines that are no JSON.
        changed: a dict per sample that the other policy treats differently: `line` (its number), `id`, `request_id`,
            `from`, `to`, `category`, and `at_least`, whether `to` is a lower bound.
    """

    counts: Counter = field(default_factory=Counter)
    at_least: Counter = field(default_factory=Counter)
    recalibrated: int = 0
    assessed: int = 0
    without_logits: int = 0
    cut_off: int = 0
    unreadable: int = 0
    changed: list[dict] = field(default_factory=list)

    @property
    def samples(self) -> int:
        return self.counts.total()

    def add(self, sample: ReplayedSample, line: "JudgedLine"):
        key = (sample.category, sample.before, sample.after)
        self.counts[key] += 1
        self.at_least[key] += not sample.is_exact
        self.recalibrated += sample.is_recalibrated
        self.assessed += sample.is_assessed
        if sample.before != sample.after:
            action = {"from": sample.before, "to": sample.after, "category": sample.category}
            self.changed.append({**line.ids, **action, "at_least": not sample.is_exact})

    def by_actions(self) -> Counter:
        """Count samples by action before and action after."""
        totals: Counter[tuple[str, str]] = Counter()
        for (_, before, after), number in self.counts.items():
            totals[before, after] += number
        return totals

    def changes(self) -> list[tuple[str, str, str, int, int]]:
        """Return category, action before, action after, samples, and for how many of them `after` is a lower bound;
        the most frequent first."""
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
            "unreadable": self.unreadable,
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
            taxonomy does not have; the number of the line is named. And for a trail without any sample.
    """
    replay, report = PolicyReplay(policy), ReplayReport()
    for batch in _batches(_judged_lines(path, replay, report)):
        for line, sample in zip(batch, replay.decide_all(batch), strict=True):
            report.add(sample, line)
    if not report.samples + report.without_logits:
        raise ValueError(f"{path} holds no sample: expected JSON lines of `--audit`.")
    return report


# --------------------------------------------------------------------------------------------------
# Reading
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JudgedVerdict:
    """Verdict of a line on one picture: logits (windows, levels + categories), the probabilities that were written
    down, and whether the windows are all that its question has."""

    taxonomy: "Taxonomy"
    logits: torch.Tensor
    probabilities: list[float]
    has_all_windows: bool


@dataclass(frozen=True)
class JudgedLine:
    """A line of an audit trail: its number and ids, what was decided then and on which category, and its pictures."""

    ids: dict
    before: str
    category: str
    is_assessed: bool
    verdicts: list[JudgedVerdict]


def _judged_lines(path: str | os.PathLike, replay: "PolicyReplay", report: ReplayReport) -> Iterator[JudgedLine]:
    """Yield the lines that can be replayed; the report counts the others."""
    for number, line in _json_lines(path, report):
        try:
            expect(isinstance(line, dict), "it", "an object, as `--audit` writes it", line)
            verdicts = _get(line, "verdicts", lambda value: isinstance(value, list), "a list of verdicts")
            for verdict in verdicts:
                expect(isinstance(verdict, dict), "a verdict", "an object", verdict)
            if any("logits" not in verdict for verdict in verdicts):
                report.without_logits += 1
            else:
                yield replay.read(line, number)
        except (ValueError, StrictDataclassError) as error:
            raise ValueError(f"{path}, line {number}: {error}") from None


def _batches(lines: Iterable[JudgedLine]) -> Iterator[list[JudgedLine]]:
    batch: list[JudgedLine] = []
    num_windows = 0
    for line in lines:
        batch.append(line)
        num_windows += sum(len(verdict.logits) for verdict in line.verdicts)
        if len(batch) >= MAX_LINES or num_windows >= MAX_WINDOWS:
            yield batch
            batch, num_windows = [], 0
    if batch:
        yield batch


def _json_lines(path: str | os.PathLike, report: ReplayReport) -> Iterator[tuple[int, Any]]:
    size = os.path.getsize(path) or None  # a pipe has no known size
    bar = tqdm(desc="replaying", total=size, unit="B", unit_scale=True, disable=None, leave=False)
    with open(path, "rb") as file, bar:
        for number, text in enumerate(file, start=1):
            bar.update(len(text))
            try:
                yield number, json.loads(text.decode(errors="replace"))
            except (ValueError, RecursionError):
                # Only a last line lacks its end: a crash cuts it off, or a trail that is still written.
                is_finished = text.endswith(b"\n")
                report.unreadable += is_finished and bool(text.strip())
                report.cut_off += not is_finished and bool(text.strip())


# --------------------------------------------------------------------------------------------------
# Deciding
# --------------------------------------------------------------------------------------------------


class PolicyReplay:
    """One policy, for lines of any taxonomy that it fits.

    Args:
        policy: as for [`replay_audit`].
    """

    def __init__(self, policy: SafetyPolicy | dict | None):
        self.settings = policy.to_dict() if isinstance(policy, SafetyPolicy) else policy
        self._by_names: dict[tuple, Taxonomy] = {}

    def decide(self, line: dict) -> ReplayedSample:
        """Decide the sample of a line, under the policy."""
        return self.decide_all([self.read(line)])[0]

    def read(self, line: dict, number: int = 1) -> JudgedLine:
        """Read a line with logits, and check it. Raises `ValueError` for what `generate` cannot have written."""
        action = _action(line)
        before = _action(line, "shadow_action") if "shadow_action" in line else action
        verdicts = [self._read_verdict(verdict) for verdict in line["verdicts"]]
        ids = {"line": number, "id": line.get("id"), "request_id": line.get("request_id")}
        return JudgedLine(ids, before, _category_before(line["verdicts"]), line.get("call") == "assess", verdicts)

    def decide_all(self, lines: Sequence[JudgedLine]) -> list[ReplayedSample]:
        """Decide the samples of lines, in their order. Pictures with equally many windows are decided at once."""
        verdicts = [verdict for line in lines for verdict in line.verdicts]
        groups = defaultdict(list)
        for index, verdict in enumerate(verdicts):
            groups[id(verdict.taxonomy), len(verdict.logits)].append(index)
        found: dict[int, Decided] = {}
        for group in groups.values():
            members = [verdicts[index] for index in group]
            found.update(zip(group, members[0].taxonomy.decide(members), strict=True))
        decided = (found[index] for index in range(len(verdicts)))
        return [_sample(line, list(islice(decided, len(line.verdicts)))) for line in lines]

    def _read_verdict(self, verdict: dict) -> JudgedVerdict:
        by_level, by_category = (_probabilities(verdict, part) for part in ("level", "category"))
        names = tuple(by_level), tuple(by_category)
        if names not in self._by_names:
            self._by_names[names] = Taxonomy.create(*names, self.settings)
        _check_decision(verdict, names[0])
        logits = decode_logits(_get(verdict, "logits", is_text, "base64"), len(by_level) + len(by_category))
        num_windows = _get(verdict, "num_windows", is_count, "a whole number")
        probabilities = [*by_level.values(), *by_category.values()]
        return JudgedVerdict(self._by_names[names], logits, probabilities, len(logits) == num_windows)


@dataclass(frozen=True)
class Decided:
    """Decision of a policy on a picture: the strictness and the category of its strictest window. And whether the
    picture was judged under other temperatures."""

    strictness: Strictness
    category: str
    is_recalibrated: bool


@dataclass(frozen=True)
class Taxonomy:
    """Names of levels and categories, the policy for them, and its strictest action as an index of `ACTIONS`."""

    config: SafetyNames
    policy: SafetyPolicy
    strictest_action: int

    @classmethod
    def create(cls, levels: Sequence[str], categories: Sequence[str], settings: dict | None) -> "Taxonomy":
        config = SafetyConfig(levels=list(levels), categories=list(categories))
        try:
            policy = SafetyPolicy.create(settings, config)
        except ValueError as error:
            raise ValueError(f"the policy does not fit what was judged: {error}") from None
        actions = [policy.action(name, levels[-1], config) for name in categories if policy.is_on(name)]
        strictest = max(map(ACTIONS.index, actions), default=0)
        return cls(config, policy, ACTIONS.index("answer") if policy.enabled is False else strictest)

    def decide(self, verdicts: Sequence[JudgedVerdict]) -> list[Decided]:
        """Decide pictures with equally many windows."""
        logits = torch.stack([verdict.logits for verdict in verdicts])  # (pictures, windows, levels + categories)
        levels, categories = logits.split([len(self.config.levels), len(self.config.categories)], dim=-1)
        decision, is_read = decide(self.policy, levels, categories, self.config), is_readable(levels, categories)
        pictures, windows = torch.arange(len(logits)), decision.strictest(torch.ones_like(is_read))
        columns = (decision.action_ids, decision.level_ids, decision.risks, decision.condition_ids, is_read)
        strictest = zip(*(column[pictures, windows].tolist() for column in columns), strict=True)
        recalibrated = self._are_recalibrated(verdicts, levels, categories)
        return [
            Decided(Strictness(*one), condition_category(row, self.config) if readable else UNREADABLE, is_new)
            for (*one, row, readable), is_new in zip(strictest, recalibrated, strict=True)
        ]

    def _are_recalibrated(
        self, verdicts: Sequence[JudgedVerdict], level_logits: torch.Tensor, category_logits: torch.Tensor
    ) -> list[bool]:
        """Tell whether the policy gives no window the probabilities that were written down, to six digits."""
        parts = (("level", level_logits), ("category", category_logits))
        found = torch.cat([calibrated_probabilities(self.policy, logits, part) for part, logits in parts], dim=-1)
        written = torch.tensor([verdict.probabilities for verdict in verdicts])[:, None]
        is_same = ((found - written).abs().amax(dim=-1) < 1e-4).any(dim=-1)
        return (is_readable(level_logits, category_logits).all(dim=-1) & ~is_same).tolist()


def _sample(line: JudgedLine, decided: Sequence[Decided]) -> ReplayedSample:
    strictest = max(decided, key=lambda one: one.strictness, default=Decided(Strictness(), SAFE, False))
    after = strictest.strictness.action
    # The report names the category of the stricter action: with a softer one, that which was decided on then.
    is_softer = after == 0 or after < ACTIONS.index(line.before)
    # A window that the line left out could only make the action stricter, if the policy has a stricter one.
    most = max((verdict.taxonomy.strictest_action for verdict in line.verdicts), default=0)
    return ReplayedSample(
        before=line.before,
        after=ACTIONS[after],
        category=line.category if is_softer else strictest.category,
        is_exact=after >= most or all(verdict.has_all_windows for verdict in line.verdicts),
        is_recalibrated=any(one.is_recalibrated for one in decided),
        is_assessed=line.is_assessed,
    )


def _category_before(verdicts: list[dict]) -> str:
    if not verdicts:
        return SAFE
    return deciding_category(max(verdicts, key=Strictness.of_verdict))


# --------------------------------------------------------------------------------------------------
# Checks
# --------------------------------------------------------------------------------------------------


def _get(fields: dict, name: str, is_valid: Callable[[Any], bool], expected: str):
    """Return a field that has to be there and valid. Its name and value are in the error."""
    if name not in fields:
        raise ValueError(f"it has no `{name}`, expected a line of an audit trail")
    expect(is_valid(fields[name]), f"`{name}`", expected, fields[name])
    return fields[name]


def _action(fields: dict, name: str = "action") -> str:
    return _get(fields, name, lambda value: value in ACTIONS, f"one of {', '.join(ACTIONS)}")


def _probabilities(verdict: dict, part: str) -> dict[str, float]:
    def is_valid(value) -> bool:
        return isinstance(value, dict) and bool(value) and all(map(is_number, value.values()))

    return _get(verdict, f"{part}_probabilities", is_valid, f"probabilities by {part}")


def _check_decision(verdict: dict, levels: Sequence[str]):
    """Check what was decided on a picture then."""
    _action(verdict)
    _get(verdict, "level", lambda value: value in levels, f"one of {', '.join(levels)}")
    _get(verdict, "risk", is_number, "a number")
    _get(verdict, "category", is_text, "a category")
    for name in ("flagged_categories", "review_categories"):
        _get(verdict, name, lambda value: isinstance(value, list) and all(map(is_text, value)), "a list of categories")
    expect(is_optional_text(verdict.get("decided")), "`decided`", "a category", verdict.get("decided"))
