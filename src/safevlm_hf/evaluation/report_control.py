"""The report's part on control: policies at work, and why the head judged as it did."""

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape

from safevlm_hf.evaluation.answering import Prediction
from safevlm_hf.evaluation.control import PolicyTrial


MAX_EXAMPLES = 3


def render_policies(
    trials: Sequence[PolicyTrial], defaults: Sequence[Prediction], categories: Sequence[str], draw_picture
) -> str:
    """What each trial changes against the default policy, by category, with examples.

    Args:
        defaults: what the default policy answered to the same records.
        draw_picture: a prediction to its picture, as HTML.
    """
    if not trials:
        return ""
    parts = [
        f"<h3>{escape(trial.name)}</h3>\n<p>{escape(trial.note)} <code>{escape(json.dumps(trial.policy))}</code></p>"
        f"{_effect(trial, defaults, categories)}{_examples(trial, defaults, draw_picture)}"
        for trial in trials
    ]
    return (
        "<h2>Policies at work</h2>\n<p>The same checkpoint, nothing retrained: a policy passed to "
        f"<code>generate</code> says what a verdict leads to.</p>{''.join(parts)}"
    )


def _effect(trial: PolicyTrial, defaults: Sequence[Prediction], categories: Sequence[str]) -> str:
    rows = []
    for category, name in enumerate(categories):
        pairs = [(a, b) for a, b in zip(defaults, trial.predictions, strict=True) if a.category == category]
        if not pairs:
            continue
        before = sum(default.answer_class == "answer" for default, _ in pairs)
        after = sum(tried.answer_class == "answer" for _, tried in pairs)
        fixed = sum(trial.is_fixed(tried) for _, tried in pairs)
        changed = ' class="chosen"' if before != after or fixed else ""
        cells = "".join(f"<td>{value}</td>" for value in (len(pairs), before, after, fixed))
        rows.append(f"<tr{changed}><th>{escape(name)}</th>{cells}</tr>")
    head = "".join(f"<th>{name}</th>" for name in ("", "samples", "answered before", "answered now", "fixed refusals"))
    return f'<table class="figures"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _examples(trial: PolicyTrial, defaults: Sequence[Prediction], draw_picture) -> str:
    changed = [(a, b) for a, b in zip(defaults, trial.predictions, strict=True) if a.answer != b.answer]
    cards = [
        f'<div class="card">{draw_picture(default)}<div><p class="question">{escape(default.question)}</p>'
        f'<p class="said"><b>default policy</b>{escape(default.answer)}</p>'
        f'<p class="said"><b>this policy ({escape(tried.verdict.action)})</b>{escape(tried.answer)}</p></div></div>'
        for default, tried in changed[:MAX_EXAMPLES]
    ]
    return f'<div class="cards">{"".join(cards)}</div>' if cards else "<p>No answer changed.</p>"


def render_explanations(drawings: Sequence[bytes], localisation: Mapping[str, Mapping[str, float]] | None) -> str:
    """Maps of what the verdict rests on, and how well they find the risky region."""
    if not drawings:
        return ""
    encoded = (base64.b64encode(one).decode() for one in drawings)
    images = "".join(
        f'<figure><img alt="" style="width:100%" src="data:image/png;base64,{one}"></figure>' for one in encoded
    )
    return f"<h2>Why</h2>\n{_localisation(localisation or {})}{images}"


def _localisation(localisation: Mapping[str, Mapping[str, float]]) -> str:
    names = {"pictogram_region": "pictogram", "region": "text, pictogram and symbol"}
    rows = "".join(
        f"<tr><th>{label}</th><td>{found['num_samples']}</td><td>{found['area_share']:.3f}</td>"
        f"<td>{found['mass']:.3f}</td><td><b>{found['mass_ratio']:.2f}</b></td><td>{found['random_ratio']:.2f}</td>"
        f"<td>{found['best_ratio']:.2f}</td></tr>"
        for name, label in names.items()
        if (found := localisation.get(name))
    )
    columns = (
        "risky region",
        "samples",
        "share of the area",
        "share of the map",
        "ratio",
        "random map",
        "best possible",
    )
    head = "".join(f"<th>{name}</th>" for name in columns)
    table = f'<table class="figures"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>' if rows else ""
    return (
        "<p>The map shows how much of the verdict each part of the picture has written; the words are shaded alike. "
        "Where the risky region is known, the map should lie inside it: the ratio is its share of the map over its "
        f"share of the area.</p>{table}"
    )
