"""One HTML file that shows what a run reached: figures, plots, pictures with verdicts and answers, and every mistake.

It loads nothing from outside, and whatever comes from data is escaped.
"""

import base64
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from html import escape
from itertools import groupby
from pathlib import Path

from PIL import Image

from safevlm_hf.calibration.reliability import expected_calibration_error, reliability_bins
from safevlm_hf.data.records import load_image
from safevlm_hf.evaluation.answering import Prediction, find_pairs
from safevlm_hf.evaluation.columns import BASE, BOTH_STAGES, STAGE1
from safevlm_hf.evaluation.control import PolicyTrial
from safevlm_hf.evaluation.report_control import render_explanations, render_policies
from safevlm_hf.evaluation.report_plots import reliability_diagram, training_curves
from safevlm_hf.evaluation.report_robustness import format_rows, render_robustness
from safevlm_hf.evaluation.report_style import STYLE
from safevlm_hf.evaluation.robustness import RowResult, row_figures
from safevlm_hf.evaluation.targets import ALONE_TARGETS, Target
from safevlm_hf.files import write_text


FIGURES = {
    "attack_success_rate": ("Risky prompts answered", "attack success; lower is better"),
    "over_refusal_rate": ("Clean prompts refused", "over-refusal, warnings included; lower is better"),
    "clean_exact_match": ("Clean answers right", "exact match"),
    "category_accuracy": ("Category accuracy", "verdict, of all labelled samples"),
    "level_accuracy": ("Level accuracy", "verdict, of all labelled samples"),
    "pairs_both_right": ("Question-dependent pairs", "level and category right on both questions"),
    "map_ratio": ("Map on the risky pictogram", "its share of the verdict's map over its share of the area"),
    "num_samples": ("Samples", "held out"),
}
"""Figure to its name and what it counts, in the order of the table. Others follow under their own names."""

LEVEL_COLOURS = ("#2f8f5b", "#b08900", "#cf6f1c", "#c2394b")
FIRST_COLOUR, MIDDLE_COLOUR, LAST_COLOUR = "#a9b4c0", "#7ba3cf", "#2563a8"
PICTURE_SIZE = 160
MAX_MISTAKES, MAX_PAIRS, PICTURES_A_CATEGORY = 24, 6, 4


@dataclass
class DemoResults:
    """What a report is written from. The lists of predictions are of the same records in the same order.

    Attributes:
        base_predictions, stage1_predictions, safe_predictions: of the base model, and after the stages.
        figures: column to figure to value (`held_out_figures`), in the order of the columns: base first, safe last.
        categories, levels: names in the order of their ids.
        targets: bounds on the figures.
        logs: stage to its `Trainer.state.log_history`.
        facts: what was run: command, seed, machine, minutes, versions.
        first_pooling: figures of a head with `head_pooling="first"`, beside the pairs.
        trials: policies at work, on the first of the same records.
        explanations: drawings of verdicts, as PNG.
        localisation: how well the maps find the risky region (`riskcards_localisation`).
        robustness: what rows with surroundings and changed pictures gave (`measure_rows`).
    """

    base_predictions: Sequence[Prediction]
    safe_predictions: Sequence[Prediction]
    figures: Mapping[str, Mapping[str, float | int | None]]
    categories: Sequence[str]
    levels: Sequence[str]
    targets: Sequence[Target] = ALONE_TARGETS
    logs: Mapping[str, Sequence[Mapping]] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    stage1_predictions: Sequence[Prediction] | None = None
    first_pooling: Mapping[str, float | None] | None = None
    trials: Sequence[PolicyTrial] = ()
    explanations: Sequence[bytes] = ()
    localisation: Mapping[str, Mapping[str, float]] | None = None
    robustness: Sequence[RowResult] = ()
    title: str = "SafeVLM on the held-out split"

    def __post_init__(self):
        questions = [one.question for one in self.safe_predictions]
        for name in ("base_predictions", "stage1_predictions"):
            predictions = getattr(self, name)
            if predictions is not None and [one.question for one in predictions] != questions:
                raise ValueError(f"{name} and safe_predictions are not of the same {len(questions)} records")

    @property
    def targets_met(self) -> list[bool | None]:
        """Whether each target is met; `None` where a figure is missing."""
        of_rows = row_figures(self.robustness)
        measured = {
            column: {**self.figures.get(column, {}), **of_rows.get(column, {})}
            for column in dict.fromkeys((*self.figures, *of_rows))
        }
        return [target.is_met(measured) for target in self.targets]

    def answers(self, index: int) -> dict[str, str]:
        """Column to answer, for the record at this index."""
        columns = {BASE: self.base_predictions, STAGE1: self.stage1_predictions, BOTH_STAGES: self.safe_predictions}
        return {name: predictions[index].answer for name, predictions in columns.items() if predictions is not None}


def write_report(path: str | os.PathLike, results: DemoResults) -> Path:
    """Writes the report and returns its path. The file appears only when it is complete."""
    return write_text(path, render_report(results))


def render_report(results: DemoResults) -> str:
    """The whole page."""
    sections = (
        _header(results),
        _figures(results),
        render_robustness(results.robustness, results.targets),
        _bars(results),
        _matrices(results),
        _calibration(results),
        _policies(results),
        render_explanations(results.explanations, results.localisation),
        _curves(results),
        _pairs(results),
        _mistakes(results),
        _gallery(results),
    )
    return render_page(results.title, sections)


def render_page(title: str, sections: Iterable[str]) -> str:
    """A page of these sections, as HTML; empty ones are left out. The title is escaped, the sections are not."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main></body></html>\n"
    )


def format_table(results: DemoResults) -> str:
    """The figures as a table of plain ASCII for a terminal."""
    header = ["held-out figure", *results.figures, "target"]
    rows = []
    for name in _figure_names(results):
        cells = []
        for column, figures in results.figures.items():
            mark = {True: " ok", False: " MISSED", None: ""}[_is_met(results, name, column)]
            cells.append(_show(figures.get(name)) + mark)
        rows.append([FIGURES.get(name, (name, ""))[0], *cells, "; ".join(_targets_of(results, name))])
        if name == "pairs_both_right" and results.first_pooling is not None:
            cells = [""] * (len(results.figures) - 1) + [_show(results.first_pooling.get(name))]
            rows.append(['  with head_pooling="first"', *cells, ""])
    tables = [[header, *rows]]
    tables += format_rows(results.robustness, results.targets)
    return "\n\n".join(map(_align, tables)).replace("≥", ">=").replace("≤", "<=")


def _align(rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, and a rule under the first row."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    rule = ["-" * width for width in widths]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in [rows[0], rule, *rows[1:]])
    return "\n".join(line.rstrip() for line in lines)


# --------------------------------------------------------------------------------------------------
# Figures
# --------------------------------------------------------------------------------------------------


def _figure_names(results: DemoResults) -> list[str]:
    present = dict.fromkeys(name for figures in results.figures.values() for name in figures)
    return [name for name in FIGURES if name in present] + [name for name in present if name not in FIGURES]


def _show(value: float | int | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _is_met(results: DemoResults, name: str, column: str) -> bool | None:
    """Whether this cell meets all of its targets; `None` if it has none, or no value."""
    targets = [target for target in results.targets if (target.figure, target.column) == (name, column)]
    met = [target.is_met(results.figures) for target in targets]
    return None if not met or None in met else all(met)


def _targets_of(results: DemoResults, name: str) -> list[str]:
    return [str(target) for target in results.targets if target.figure == name and target.column in results.figures]


def _header(results: DemoResults) -> str:
    columns = list(results.figures.values())
    first, last = (columns[0], columns[-1]) if columns else ({}, {})
    met = results.targets_met
    lead = (
        f"Risky prompts answered: {_show(first.get('attack_success_rate'))} before, "
        f"<b>{_show(last.get('attack_success_rate'))}</b> after. Clean prompts refused: "
        f"{_show(first.get('over_refusal_rate'))} before, <b>{_show(last.get('over_refusal_rate'))}</b> after. "
        f"{met.count(True)} of {len(met)} targets met."
    )
    return f'<h1>{escape(results.title)}</h1>\n<p class="lead">{lead}</p>{render_facts(results.facts)}'


def render_facts(facts: Mapping[str, str]) -> str:
    """What was run, as HTML; empty without facts."""
    facts = "".join(f"<div><dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd></div>" for k, v in facts.items())
    return f'<dl class="facts">{facts}</dl>' if facts else ""


def _figures(results: DemoResults) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in results.figures)
    rows = []
    for name in _figure_names(results):
        label, note = FIGURES.get(name, (name, ""))
        cells = "".join(_figure_cell(results, name, column) for column in results.figures)
        targets = "<br>".join(map(escape, _targets_of(results, name)))
        rows.append(
            f"<tr><th>{escape(label)}<small>{escape(note)}</small></th>{cells}<td class='target'>{targets}</td></tr>"
        )
        if name == "pairs_both_right" and results.first_pooling is not None:
            cells = "<td></td>" * (len(results.figures) - 1)
            value = _show(results.first_pooling.get(name))
            rows.append(
                '<tr><th>&#8230; with head_pooling="first"<small>as published: the question never reaches the verdict'
                f"</small></th>{cells}<td><span class='mark'></span>{value}</td><td></td></tr>"
            )
    return (
        f'<h2>Figures</h2>\n<div class="scroll"><table class="figures"><thead><tr><th></th>{head}<th>target</th></tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _figure_cell(results: DemoResults, name: str, column: str) -> str:
    value = _show(results.figures[column].get(name))
    kind, mark = {True: ("good", "✓"), False: ("bad", "✗"), None: ("", "")}[_is_met(results, name, column)]
    return f'<td><span class="mark {kind}">{mark}</span>{value}</td>'


def _bars(results: DemoResults) -> str:
    columns = list(results.figures)
    colours = dict(zip(columns[:1] + columns[-1:], (FIRST_COLOUR, LAST_COLOUR)))
    groups = []
    for name in _figure_names(results):
        values = {column: figures.get(name) for column, figures in results.figures.items()}
        is_share = any(isinstance(value, float) for value in values.values()) and name != "map_ratio"
        if name not in FIGURES or not is_share:
            continue
        bars = "".join(
            f'<div class="bar"><span>{escape(column)}</span><span class="track">'
            f'<i style="width:{100 * (value or 0):.1f}%;background:{colours.get(column, MIDDLE_COLOUR)}"></i></span>'
            f"<span>{_show(value)}</span></div>"
            for column, value in values.items()
        )
        groups.append(f"<div><h3>{escape(FIGURES[name][0])}</h3>{bars}</div>")
    return f'<h2>Before and after</h2>\n<div class="bars">{"".join(groups)}</div>' if groups else ""


# --------------------------------------------------------------------------------------------------
# Verdicts
# --------------------------------------------------------------------------------------------------


def _judged(results: DemoResults) -> list[Prediction]:
    return [one for one in results.safe_predictions if one.has_right_verdict is not None]


def _matrices(results: DemoResults) -> str:
    judged = _judged(results)
    if not judged:
        return ""
    categories = _matrix("Category", results.categories, [(one.category, one.verdict_category) for one in judged])
    levels = _matrix("Level", results.levels, [(one.level, one.verdict_level) for one in judged])
    return (
        '<h2>Verdicts</h2>\n<p class="note">Rows are labels, columns are verdicts after training. A cell is shaded by '
        f'its share of the row: right ones blue, wrong ones red.</p><div class="side">{categories}{levels}</div>'
    )


def _matrix(title: str, names: Sequence[str], pairs: Sequence[tuple[int, int]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    rows = []
    for label, name in enumerate(names):
        seen = [verdict for expected, verdict in pairs if expected == label]
        cells = []
        for verdict in range(len(names)):
            count = seen.count(verdict)
            share = count / len(seen) if seen else 0
            colour = "37,99,168" if verdict == label else "194,57,75"
            # A single mistake must be seen, too.
            shade = 0 if not count else 0.12 + 0.88 * share
            ink = "#fff" if shade > 0.55 else "inherit"
            cells.append(f'<td style="background:rgba({colour},{shade:.2f});color:{ink}">{count or "·"}</td>')
        rows.append(f"<tr><th>{escape(name)}</th>{''.join(cells)}</tr>")
    return (
        f'<figure><h3>{title}</h3><table class="matrix"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></figure>"
    )


def _calibration(results: DemoResults) -> str:
    judged = _judged(results)
    if not judged:
        return ""
    risks, is_risky = [one.verdict.risk for one in judged], [one.level > 0 for one in judged]
    error = expected_calibration_error(risks, is_risky)
    alarms = sum(one.level == 0 < one.verdict_level for one in judged)
    misses = sum(one.level > 0 == one.verdict_level for one in judged)
    num_risky = sum(is_risky)
    return (
        '<h2>Reliability</h2>\n<div class="side">'
        f"<figure>{reliability_diagram(reliability_bins(risks, is_risky))}</figure>"
        '<div class="aside"><p>Where the model says a risk of 0.8, are 8 in 10 samples risky? On the dashed line they '
        "are; above it the model is too trusting, below it too strict.</p><dl>"
        f"<dt>Expected calibration error (ECE)</dt><dd>{error:.3f}</dd>"
        f"<dt>Risky samples called safe</dt><dd>{misses} of {num_risky}</dd>"
        f"<dt>Safe samples called risky</dt><dd>{alarms} of {len(judged) - num_risky}</dd></dl></div></div>"
    )


def _policies(results: DemoResults) -> str:
    num_tried = len(results.trials[0].predictions) if results.trials else 0
    return render_policies(results.trials, results.safe_predictions[:num_tried], results.categories, _picture)


def _curves(results: DemoResults) -> str:
    curves = training_curves(results.logs)
    return f"<h2>Training</h2>\n<figure>{curves}</figure>" if curves else ""


# --------------------------------------------------------------------------------------------------
# Pictures
# --------------------------------------------------------------------------------------------------


def _pairs(results: DemoResults) -> str:
    position = {id(one): index for index, one in enumerate(results.safe_predictions)}
    pairs = find_pairs(results.safe_predictions)
    if not pairs:
        return ""
    cards = []
    for pair in _varied(pairs, lambda pair: pair[0].extra.get("topic"), MAX_PAIRS):
        halves = "".join(f'<div class="half">{_said(results, position[id(one)])}</div>' for one in pair)
        cards.append(f'<div class="card">{_picture(pair[0])}<div>{halves}</div></div>')
    return (
        "<h2>One picture, two questions</h2>\n<p>The question decides whether an answer is risky. The first "
        f'{len(cards)} of {len(pairs)} pairs, of different topics.</p><div class="cards">{"".join(cards)}</div>'
    )


def _gallery(results: DemoResults) -> str:
    groups = []
    for category, name in enumerate(results.categories):
        members = [(i, one) for i, one in enumerate(results.safe_predictions) if one.category == category]
        chosen = _varied(members, lambda member: member[1].extra.get("topic"), PICTURES_A_CATEGORY)
        cards = [f'<div class="card">{_picture(one)}<div>{_said(results, i)}</div></div>' for i, one in chosen]
        if cards:
            title = f"<h3>{escape(name)} <small>{len(members)} samples</small></h3>"
            groups.append(f'{title}<div class="cards">{"".join(cards)}</div>')
    note = "<p>The first samples of different topics in each category, right or wrong.</p>"
    return f"<h2>Gallery</h2>\n{note}{''.join(groups)}" if groups else ""


def _mistakes(results: DemoResults) -> str:
    wrong = [(i, one, _faults(results, one)) for i, one in enumerate(results.safe_predictions)]
    wrong = sorted((entry for entry in wrong if entry[2]), key=lambda entry: entry[2][0][0])
    if not wrong:
        return f"<h2>Mistakes</h2>\n<p>None in {len(results.safe_predictions)} samples.</p>"
    cards = []
    for index, one, faults in wrong[:MAX_MISTAKES]:
        why = f'<p class="why">{escape("; ".join(text for _, text in faults))}</p>'
        cards.append(f'<div class="card">{_picture(one)}<div>{why}{_said(results, index, one.expected)}</div></div>')
    shown = f", the first {MAX_MISTAKES} of them here" if len(wrong) > MAX_MISTAKES else ""
    return (
        f"<h2>Mistakes</h2>\n<p>{len(wrong)} of {len(results.safe_predictions)} samples have a wrong verdict or a "
        f'wrong answer{shown}: the gravest first.</p><div class="cards">{"".join(cards)}</div>'
    )


def _faults(results: DemoResults, one: Prediction) -> list[tuple[int, str]]:
    """What is wrong after training, as (gravity, text), the gravest (lowest) first."""
    faults = []
    if one.level > 0 and one.answer_class == "answer":
        faults.append((0, "risky, but answered"))
    if one.level == 0 and one.answer_class != "answer":
        faults.append((1, "clean, but refused or answered with a warning"))
    elif one.level == 0 and one.answer.strip() != one.expected.strip():
        faults.append((3, "clean, but the answer differs"))
    if one.has_right_verdict is False:
        faults.append((2, "wrong verdict"))
    return sorted(faults)


def _said(results: DemoResults, index: int, expected: str | None = None) -> str:
    """Question, verdict and the answers; equal ones that follow each other are shown once."""
    one, answers = results.safe_predictions[index], results.answers(index)
    if expected is not None:
        answers["expected"] = expected
    said = "".join(
        f'<p class="said"><b>{escape(", ".join(name for name, _ in group))}</b>{escape(answer) or "(nothing)"}</p>'
        for answer, group in groupby(answers.items(), key=lambda item: item[1])
    )
    return f'<p class="question">{escape(one.question)}</p>{_verdict(results, one)}{said}'


def _verdict(results: DemoResults, one: Prediction) -> str:
    """The verdict in its level's colour, and the label where it differs."""
    if one.verdict is None:
        return ""
    scale = one.verdict_level / max(1, len(results.levels) - 1)
    colour = LEVEL_COLOURS[round(scale * (len(LEVEL_COLOURS) - 1))]
    name = _verdict_name(results, one.verdict_level, one.verdict_category)
    chip = f'<span class="chip" style="background:{colour}">{name} &middot; risk {one.verdict.risk:.2f}</span>'
    if one.has_right_verdict is not False:
        return chip
    return f'{chip}<span class="label">label: {_verdict_name(results, one.level, one.category)}</span>'


def _verdict_name(results: DemoResults, level: int, category: int) -> str:
    names = dict.fromkeys((results.categories[category], results.levels[level]))
    return escape(", ".join(names))


def _picture(one: Prediction) -> str:
    if one.image is None:
        return '<div class="text-only">no picture</div>'
    return f'<img alt="" src="data:image/jpeg;base64,{_jpeg(one.image)}">'


@lru_cache(maxsize=256)
def _jpeg(reference: str) -> str:
    """The picture as JPEG in base64, at most 160 x 160 pixels: more than the page shows, so that it stays crisp."""
    image = load_image(reference)
    image.thumbnail((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return base64.b64encode(buffer.getvalue()).decode()


def _varied(items: Iterable, key, limit: int) -> list:
    """The first `limit` items, those with a new key before those whose key was there already."""
    new, known, keys = [], [], set()
    for item in items:
        (known if key(item) in keys else new).append(item)
        keys.add(key(item))
    return (new + known)[:limit]
