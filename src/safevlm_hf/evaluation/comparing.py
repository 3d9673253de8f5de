"""One system against others that answered the same questions: paired differences, and equal over-refusal."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
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


def compare_with_others(of_benchmark: Sequence[Evaluated]) -> list[Figure]:
    """
    Figures of the last system less those of each other one, `part` says which. Both see the same draws of questions.

    Where another system has no threshold (a base model), and the last one's model has answered with the verdict off,
    `attack_success_rate_less_fixed_at_its_over_refusal` compares them at the other one's over-refusal.
    """
    last, figures = of_benchmark[-1], []
    for other in of_benchmark[:-1]:
        part = f"less {other.result.system.name}"
        for measure in _measures(last, other):
            one, two = measure(last), measure(other)
            if one.items:
                figures.append(replace(one.difference(two, last.result.bootstrap), part=part))
    return figures + list(_at_equal_over_refusal(of_benchmark))


def save_comparison(of_benchmark: Sequence[Evaluated], folder: Path) -> Path:
    """Writes the comparison with the other systems beside the results, as `comparison.json`, and returns its path.

    Args:
        folder: of all benchmarks, as [`evaluate_systems`] takes it.
    """
    result = of_benchmark[-1].result
    content = {
        "system": result.system.name,
        "protocol_hash": result.protocol.hash,
        "figures": [asdict(figure) for figure in compare_with_others(of_benchmark)],
    }
    name = slug(f"{result.protocol.benchmark}/{result.protocol.split}")
    return write_text(folder / name / "comparison.json", json.dumps(content, indent=2) + "\n")


def verdict_off(of_benchmark: Sequence[Evaluated]) -> Evaluated | None:
    """The last system with its verdict switched off, if it took part."""
    model = of_benchmark[-1].result.system.model
    for one in of_benchmark[:-1]:
        system = one.result.system
        if system.model == model and (system.policy or {}).get("enabled") is False:
            return one
    return None


def roc_of_system(of_benchmark: Sequence[Evaluated], judge: str) -> SystemRoc | None:
    """Attack success against over-refusal of the whole system, by the answers without a verdict; `None` where nobody
    answered so, or one of the sides is missing."""
    off, last = verdict_off(of_benchmark), of_benchmark[-1]
    if off is None or judge not in off.judgements or not _has_sides_with_risk(last):
        return None
    return system_roc(last.items, last.answers, _labels(off, judge), judge)


def _measures(last: Evaluated, other: Evaluated) -> Iterator[Callable[[Evaluated], Measurement]]:
    """The metrics that both can be measured by: right answers, and what each judge of both found."""
    is_right = BENCHMARKS[last.result.protocol.benchmark].is_right
    if is_right is not None:
        yield partial(_right, is_right)
    for judge in last.judgements:
        if judge in other.judgements:
            labels = {label for one in (last, other) for label in _labels(one, judge) if label is not None}
            yield from (partial(_judged, metric, judge) for metric in _metrics(labels))


def _metrics(labels: set[str]) -> tuple[Callable, ...]:
    """By what the judge says; a judge that gives scores, or nothing, has none here."""
    if labels and labels <= {*HARM_LABELS}:
        return (attack_success,)
    return (attack_success, over_refusal) if labels and labels <= {*REFUSAL_LABELS} else ()


def _judged(metric: Callable, judge: str, one: Evaluated) -> Measurement:
    return metric(one.items, _labels(one, judge), judge)


def _right(is_right: Callable, one: Evaluated) -> Measurement:
    rows = zip(one.items, one.answers, strict=True)
    hits = [None if answer.text is None else is_right(item, answer.text) for item, answer in rows]
    return share("items_right", one.items, hits)


def _at_equal_over_refusal(of_benchmark: Sequence[Evaluated]) -> Iterator[Figure]:
    off, last = verdict_off(of_benchmark), of_benchmark[-1]
    if off is None or not _has_sides_with_risk(last):
        return
    for other in of_benchmark[:-1]:
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
