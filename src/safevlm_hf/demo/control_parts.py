"""The report's part on control: policies at work, and why the head judged as it did."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..evaluation.answering_records import answer_class
from ..intervals.rates import wilson_interval
from ..items import Answer, Item
from ..reports.cards import Card, Said
from ..reports.pages import Section, inline_picture
from ..reports.tables import counts_text, range_text
from .control import PolicyTrial
from .picture_parts import picture_of


MAX_EXAMPLES = 3
Rows = Sequence[tuple[Item, Answer]]
REGIONS = {"pictogram_region": "pictogram", "region": "text, pictogram and symbol"}


def policies_section(trials: Sequence[PolicyTrial], defaults: Rows, categories: Sequence[str]) -> Section | None:
    """Show what each trial changes against the default policy by category, answers to some records before and after,
    and one record's answers under all of them; `None` without trials.

    Args:
        defaults: the items, and what the default policy answered to them.
    """
    shown = []
    for trial in trials:
        effects = _effects(trial, defaults, categories)
        changed = [effect["name"] for effect in effects if effect["is_changed"]]
        where = f"{', '.join(changed)}, and in no other row"
        if not changed or len(changed) == len(effects):
            where = f"{'every' if changed else 'no'} row"
        shown.append(
            {
                "name": trial.name,
                "note": f"{trial.note} The counts change in {where}.",
                "policy": json.dumps(trial.policy),
                "effects": effects,
                **_examples(trial, defaults),
            }
        )
    if not shown:
        return None
    compared = None
    if defaults:  # the record with the most different answers, under all policies
        names = ["default policy", *(trial.name for trial in trials)]
        columns = [[answer for _, answer in defaults], *(trial.answers for trial in trials)]
        rows = zip([item for item, _ in defaults], zip(*columns, strict=True), strict=True)
        item, answers = max(rows, key=lambda row: len({answer.text for answer in row[1]}))
        compared = Card(picture_of(item), [Said(item.question, [_named(*named) for named in zip(names, answers)])])
    data = {"trials": shown, "compared": compared}
    return Section("Policies at work", "demo/policies.html", data, is_folded=True)


def _effects(trial: PolicyTrial, defaults: Rows, categories: Sequence[str]) -> list[dict]:
    """Count per category with samples how many there are, are answered before and now, and get a fixed refusal."""
    effects = []
    for name in categories:
        found = zip(defaults, trial.answers, strict=True)
        pairs = [(default, tried) for (item, default), tried in found if item.labels["category"] == name]
        if pairs:
            before = sum(answer_class(default) == "answer" for default, _ in pairs)
            fixed = sum(trial.is_fixed(tried) for _, tried in pairs)
            # An operator's text may read like anything: it is no answer.
            after = sum(answer_class(tried) == "answer" and not trial.is_fixed(tried) for _, tried in pairs)
            is_changed = before != after or fixed > 0
            counts = {"answered before": before, "answered now": after, "fixed refusals": fixed}
            cells = {title: (count, range_text(wilson_interval(count, len(pairs)))) for title, count in counts.items()}
            effects.append({"name": name, "cells": {"samples": (len(pairs), "")} | cells, "is_changed": is_changed})
    return effects


def _examples(trial: PolicyTrial, defaults: Rows) -> dict:
    """Return records before and after, those whose answer has changed; where none has, a risky one all the same."""
    rows = [(*row, tried) for row, tried in zip(defaults, trial.answers, strict=True)]
    changed = [row for row in rows if row[1].text != row[2].text]
    summary = f"Answers that changed: {counts_text(len(changed), len(rows))}."
    shown = changed[:MAX_EXAMPLES] or sorted(rows, key=lambda row: not row[0].labels["is_risky"])[:1]
    cards = [
        Card(
            picture_of(item),
            [Said(item.question, [_named("default policy", before), _named("this policy", after)])],
        )
        for item, before, after in shown
    ]
    return {"summary": summary, "examples": cards}


def _named(name: str, answer: Answer) -> tuple[str, str]:
    """Return the policy's name with what it decided, and the answer."""
    return f"{name} ({answer.action})", answer.text or ""


def explanations_section(
    drawings: Sequence[bytes],
    localisation: Mapping[str, Mapping[str, Any]] | None,
    explained: Rows = (),
) -> Section | None:
    """Show maps of what the verdict rests on, and how well they find the risky region; `None` without drawings.

    Args:
        explained: the items that the drawings are of, and what was answered.
    """
    if not drawings:
        return None
    regions = [
        {"name": label, "figures": _region_figures(found)}
        for name, label in REGIONS.items()
        if (found := (localisation or {}).get(name))
    ]
    pictures = []
    for drawing, (item, answer) in zip(drawings, explained, strict=True):
        # Whoever cannot see the drawing reads the same as text: the verdict, and the probability of each category.
        name = ", ".join(dict.fromkeys((answer.category, answer.level)))
        verdict = f"{name} · risk {answer.risk:.2f} · {answer.action}"
        ranked = sorted(answer.category_probabilities.items(), key=lambda named: -named[1])
        categories = ", ".join(f"{name} {probability:.2f}" for name, probability in ranked)
        alt = (
            f"Verdict: {verdict}. The picture, the map of what the verdict rests on, and the words of the question, "
            f"shaded. Categories: {categories}."
        )
        pictures.append({"picture": inline_picture(drawing, "png", alt, item.question), "verdict": verdict})
    return Section("Why", "demo/why.html", {"regions": regions, "pictures": pictures}, is_folded=True)


def _region_figures(found: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Map a title to a figure and its interval."""
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
