"""The report's part on control: policies at work, and why the head judged as it did."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..evaluation.answering import Prediction
from ..intervals.rates import wilson_interval
from ..reports.cards import Card, Said
from ..reports.pages import Section, inline_picture
from ..reports.tables import counts_text, range_text
from .control import PolicyTrial
from .picture_parts import picture_of


MAX_EXAMPLES = 3
REGIONS = {"pictogram_region": "pictogram", "region": "text, pictogram and symbol"}


def policies_section(
    trials: Sequence[PolicyTrial], defaults: Sequence[Prediction], categories: Sequence[str]
) -> Section | None:
    """What each trial changes against the default policy by category, answers to some records before and after, and
    one record's answers under all of them; `None` without trials.

    Args:
        defaults: what the default policy answered to the same records.
    """
    shown = []
    for trial in trials:
        effects = _effects(trial, defaults, categories)
        shown.append(
            {
                "name": trial.name,
                "note": f"{trial.note} {_changes(effects)}",
                "policy": json.dumps(trial.policy),
                "effects": effects,
                **_examples(trial, defaults),
            }
        )
    if not shown:
        return None
    data = {"trials": shown, "compared": _compared(trials, defaults)}
    return Section("Policies at work", "report/policies.html", data, is_folded=True)


def _effects(trial: PolicyTrial, defaults: Sequence[Prediction], categories: Sequence[str]) -> list[dict]:
    """Per category with samples: how many there are, are answered before and now, and get a fixed refusal."""
    effects = []
    for category, name in enumerate(categories):
        pairs = [(a, b) for a, b in zip(defaults, trial.predictions, strict=True) if a.category == category]
        if pairs:
            before = sum(default.answer_class == "answer" for default, _ in pairs)
            fixed = sum(trial.is_fixed(tried) for _, tried in pairs)
            # An operator's text may read like anything: it is no answer.
            after = sum(tried.answer_class == "answer" and not trial.is_fixed(tried) for _, tried in pairs)
            is_changed = before != after or fixed > 0
            counts = {"answered before": before, "answered now": after, "fixed refusals": fixed}
            cells = {title: (count, range_text(wilson_interval(count, len(pairs)))) for title, count in counts.items()}
            effects.append({"name": name, "cells": {"samples": (len(pairs), "")} | cells, "is_changed": is_changed})
    return effects


def _changes(effects: list[dict]) -> str:
    """Say in which rows of the table anything changes."""
    changed = [effect["name"] for effect in effects if effect["is_changed"]]
    if not changed or len(changed) == len(effects):
        return f"The counts change in {'every' if changed else 'no'} row."
    return f"The counts change in {', '.join(changed)}, and in no other row."


def _examples(trial: PolicyTrial, defaults: Sequence[Prediction]) -> dict:
    """Records before and after, those whose answer has changed; where none has, a risky one all the same."""
    pairs = list(zip(defaults, trial.predictions, strict=True))
    changed = [pair for pair in pairs if pair[0].answer != pair[1].answer]
    summary = f"Answers that changed: {counts_text(len(changed), len(pairs))}."
    shown = changed[:MAX_EXAMPLES] or sorted(pairs, key=lambda pair: pair[0].level <= 0)[:1]
    cards = [
        Card(
            picture_of(before),
            [Said(before.question, [_named("default policy", before), _named("this policy", after)])],
        )
        for before, after in shown
    ]
    return {"summary": summary, "examples": cards}


def _compared(trials: Sequence[PolicyTrial], defaults: Sequence[Prediction]) -> Card | None:
    """The record with the most different answers under the policies, with all of them; `None` without records."""
    columns = {"default policy": defaults, **{trial.name: trial.predictions for trial in trials}}
    rows = [dict(zip(columns, row)) for row in zip(*columns.values(), strict=True)]
    if not rows:
        return None
    row = max(rows, key=lambda row: len({one.answer for one in row.values()}))
    first = row["default policy"]
    return Card(picture_of(first), [Said(first.question, [_named(name, one) for name, one in row.items()])])


def _named(name: str, one: Prediction) -> tuple[str, str]:
    """Under which policy, what it decided, and the answer."""
    return f"{name} ({one.verdict.action})", one.answer


def explanations_section(
    drawings: Sequence[bytes],
    localisation: Mapping[str, Mapping[str, Any]] | None,
    explained: Sequence[Prediction] = (),
) -> Section | None:
    """Maps of what the verdict rests on, and how well they find the risky region; `None` without drawings.

    Args:
        explained: which records the drawings are of.
    """
    if not drawings:
        return None
    regions = [
        {"name": label, "figures": _region_figures(found)}
        for name, label in REGIONS.items()
        if (found := (localisation or {}).get(name))
    ]
    pictures = [_explained(drawing, one) for drawing, one in zip(drawings, explained, strict=True)]
    return Section("Why", "report/why.html", {"regions": regions, "pictures": pictures}, is_folded=True)


def _region_figures(found: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Title to a figure and its interval."""
    titles = {
        "share of the area": ("area_share", 3),
        "share of the map": ("mass", 3),
        "ratio": ("mass_ratio", 2),
        "random map": ("random_ratio", 2),
        "best possible": ("best_ratio", 2),
    }
    intervals = {**found.get("intervals", {}), **({"mass_ratio": found["interval"]} if "interval" in found else {})}
    cells = {
        title: (f"{found[name]:.{digits}f}", range_text(intervals[name]) if name in intervals else "")
        for title, (name, digits) in titles.items()
    }
    return {"samples": (str(found["num_samples"]), ""), **cells}


def _explained(drawing: bytes, one: Prediction) -> dict[str, Any]:
    """The drawing, and what it says as text: the question, the verdict, and the probability of each category."""
    verdict = one.verdict
    name = ", ".join(dict.fromkeys((verdict.category, verdict.level)))
    said = f"{name} · risk {verdict.risk:.2f} · {verdict.action}"
    ranked = sorted(verdict.category_probabilities.items(), key=lambda item: -item[1])
    categories = ", ".join(f"{name} {probability:.2f}" for name, probability in ranked)
    alt = (
        f"Verdict: {said}. The picture, the map of what the verdict rests on, and the words of the question, shaded. "
    )
    return {
        "picture": inline_picture(drawing, "png", f"{alt}Categories: {categories}.", one.question),
        "verdict": said,
    }
