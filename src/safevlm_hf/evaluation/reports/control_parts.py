"""The report's part on control: policies at work, and why the head judged as it did."""

import json
from collections.abc import Mapping, Sequence

from safevlm_hf.evaluation.answering import Prediction
from safevlm_hf.evaluation.held_out.control import PolicyTrial
from safevlm_hf.evaluation.reports.pages import Section, inline_picture
from safevlm_hf.evaluation.reports.picture_parts import Card, Said, picture_of


MAX_EXAMPLES = 3
REGIONS = {"pictogram_region": "pictogram", "region": "text, pictogram and symbol"}


def policies_section(
    trials: Sequence[PolicyTrial], defaults: Sequence[Prediction], categories: Sequence[str]
) -> Section | None:
    """What each trial changes against the default policy, by category, with examples; `None` without trials.

    Args:
        defaults: what the default policy answered to the same records.
    """
    shown = [
        {
            "name": trial.name,
            "note": trial.note,
            "policy": json.dumps(trial.policy),
            "effects": _effects(trial, defaults, categories),
            "examples": _examples(trial, defaults),
        }
        for trial in trials
    ]
    return Section("Policies at work", "report/policies.html", {"trials": shown}) if shown else None


def _effects(trial: PolicyTrial, defaults: Sequence[Prediction], categories: Sequence[str]) -> list[dict]:
    """Per category with samples: how many there are, are answered before and now, and get a fixed refusal."""
    effects = []
    for category, name in enumerate(categories):
        pairs = [(a, b) for a, b in zip(defaults, trial.predictions, strict=True) if a.category == category]
        if pairs:
            before = sum(default.answer_class == "answer" for default, _ in pairs)
            after = sum(tried.answer_class == "answer" for _, tried in pairs)
            fixed = sum(trial.is_fixed(tried) for _, tried in pairs)
            is_changed = before != after or fixed > 0
            effects.append({"name": name, "counts": (len(pairs), before, after, fixed), "is_changed": is_changed})
    return effects


def _examples(trial: PolicyTrial, defaults: Sequence[Prediction]) -> list[Card]:
    changed = [(a, b) for a, b in zip(defaults, trial.predictions, strict=True) if a.answer != b.answer]
    cards = []
    for default, tried in changed[:MAX_EXAMPLES]:
        answers = [("default policy", default.answer), (f"this policy ({tried.verdict.action})", tried.answer)]
        cards.append(Card(picture_of(default), [Said(default.question, answers)]))
    return cards


def explanations_section(
    drawings: Sequence[bytes], localisation: Mapping[str, Mapping[str, float]] | None
) -> Section | None:
    """Maps of what the verdict rests on, and how well they find the risky region; `None` without drawings."""
    if not drawings:
        return None
    regions = [
        {
            "name": label,
            "num_samples": found["num_samples"],
            "shares": [f"{found[name]:.3f}" for name in ("area_share", "mass")],
            "ratio": f"{found['mass_ratio']:.2f}",
            "others": [f"{found[name]:.2f}" for name in ("random_ratio", "best_ratio")],
        }
        for name, label in REGIONS.items()
        if (found := (localisation or {}).get(name))
    ]
    alt = "risky sample {}: its picture, the map of what the verdict rests on, the probability of each category, and "
    alt += "the words of the question, shaded"
    pictures = [inline_picture(one, "png", alt.format(number)) for number, one in enumerate(drawings, 1)]
    return Section("Why", "report/why.html", {"regions": regions, "pictures": pictures})
