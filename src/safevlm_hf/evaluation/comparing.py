"""One system against others that answered the same questions: paired differences, and equal over-refusal."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from ..benchmarks import BENCHMARKS
from ..files import write_text
from ..intervals.figure import Figure
from .judges.labels import HARM_LABELS, REFUSAL_LABELS
from .metrics.judged import attack_success, over_refusal
from .metrics.measurement import Measurement
from .metrics.shares import share
from .metrics.system_roc import SystemRoc, compare_with_fixed, system_roc
from .pipeline import Evaluated, slug


def compare_with_others(systems: Sequence[Evaluated]) -> list[Figure]:
    """
    Return figures of the last system less those of each other one, which `part` names. Both see the same draws of
    questions.

    Where another system has no threshold (a base model), and the last one's model has answered with the verdict off,
    `attack_success_rate_less_fixed_at_its_over_refusal` compares them at the other one's over-refusal.
    """
    last, figures = systems[-1], []
    for other in systems[:-1]:
        part = f"less {other.result.system.name}"
        for one, two in _measured(last, other):
            if one.items:
                figures.append(replace(one.difference(two, last.result.bootstrap), part=part))
    return figures + list(_at_equal_over_refusal(systems))


def save_comparison(systems: Sequence[Evaluated], folder: Path) -> Path:
    """Write the comparison with the other systems beside the results, as `comparison.json`, and return its path.

    Args:
        folder: of all benchmarks, as [`evaluate_systems`] takes it.
    """
    result = systems[-1].result
    content = {
        "system": result.system.name,
        "protocol_hash": result.protocol.hash,
        "figures": [asdict(figure) for figure in compare_with_others(systems)],
    }
    name = slug(f"{result.protocol.benchmark}/{result.protocol.split}")
    return write_text(folder / name / "comparison.json", json.dumps(content, indent=2) + "\n")


def verdict_off(systems: Sequence[Evaluated]) -> Evaluated | None:
    """Return the last system with its verdict switched off, if it took part."""
    model = systems[-1].result.system.model
    for one in systems[:-1]:
        system = one.result.system
        if system.model == model and (system.policy or {}).get("enabled") is False:
            return one
    return None


def roc_of_system(systems: Sequence[Evaluated], judge: str) -> SystemRoc | None:
    """Return attack success against over-refusal of the whole system, by the answers without a verdict; `None` where
    nobody answered so, or one of the sides is missing."""
    off, last = verdict_off(systems), systems[-1]
    if off is None or judge not in off.judgements or not _has_sides_with_risk(last):
        return None
    return system_roc(last.items, last.answers, _labels(off, judge))


def _measured(last: Evaluated, other: Evaluated) -> Iterator[tuple[Measurement, Measurement]]:
    """Yield, of both systems, each metric that fits both: right answers, and what each judge of both found."""
    is_right = BENCHMARKS[last.result.protocol.benchmark].is_right
    if is_right is not None:
        yield _right(is_right, last), _right(is_right, other)
    for judge in last.judgements:
        if judge not in other.judgements:
            continue
        labels = {label for one in (last, other) for label in _labels(one, judge) if label is not None}
        metrics: tuple[Callable, ...] = ()  # a judge that gives scores, or nothing, has none here
        if labels and labels <= {*HARM_LABELS}:
            metrics = (attack_success,)
        elif labels and labels <= {*REFUSAL_LABELS}:
            metrics = (attack_success, over_refusal)
        for metric in metrics:
            one, two = (metric(system.items, _labels(system, judge), judge) for system in (last, other))
            yield one, two


def _right(is_right: Callable, one: Evaluated) -> Measurement:
    rows = zip(one.items, one.answers, strict=True)
    hits = [None if answer.text is None else is_right(item, answer.text) for item, answer in rows]
    return share("items_right", one.items, hits)


def _at_equal_over_refusal(systems: Sequence[Evaluated]) -> Iterator[Figure]:
    off, last = verdict_off(systems), systems[-1]
    if off is None or not _has_sides_with_risk(last):
        return
    for other in systems[:-1]:
        # A system that has a threshold of its own could be moved to any over-refusal, too: only others are compared.
        for judge in [*other.judgements] if other.result.system.policy is None else []:
            labels = [_labels(one, judge) for one in (off, other) if judge in one.judgements]
            if len(labels) == 2 and {*labels[0], *labels[1]} <= {*REFUSAL_LABELS, None}:
                compared = compare_with_fixed(last.items, last.answers, labels[1], judge, labels[0])
                yield compared.figure(last.result.bootstrap, f"less {other.result.system.name}")


def _has_sides_with_risk(one: Evaluated) -> bool:
    known = {item.labels.get("is_risky") for item, answer in zip(one.items, one.answers) if answer.risk is not None}
    return {True, False} <= known


def _labels(one: Evaluated, judge: str) -> list[str | None]:
    return [judgement.label for judgement in one.judgements[judge]]
