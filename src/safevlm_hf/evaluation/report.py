"""One HTML file of an evaluation: figures with intervals, judges that differ, the system's curve, and pictures, which
stay blurred until somebody wants to see them."""

import os
import re
from collections.abc import Sequence, Set
from pathlib import Path

from markupsafe import Markup

from ..benchmarks import BENCHMARKS
from ..files import refuse_to_overwrite, write_text
from ..intervals.figure import Figure
from ..items import Answer, Item
from ..reports.cards import Card, Chip, Said, picture_at
from ..reports.pages import Section, render_page
from ..reports.plots import share_curves
from ..reports.tables import NO_INTERVAL, Cell, Row, range_text, show
from .comparing import compare_with_others, roc_of_system
from .counting import NOT_FLAGGED
from .figure_names import figure_title, is_shown_first
from .judges.agreement import compare_judges
from .metrics.system_roc import system_roc
from .pipeline import Evaluated, result_name
from .protocol.result import EvaluationResult


MAX_ROWS = 25  # of a run, in the terminal and before anything in the report is unfolded
MAX_PICTURES = 12  # per benchmark
RULES = "rules"  # the judge of the curve
FLAGGED, NOT_FLAGGED_COLOUR = "#c2394b", "#1f7a4a"


def refuse_to_lose_results(path: Path, names: Set[str], advice: str):
    """Guard a run whose report would take the place of an earlier one.

    Args:
        names: the results of the run, as `result_names` gives them.
        advice: as for `refuse_to_overwrite`.

    Raises:
        ValueError: there is a file, and it is no report of some of these results.
    """
    found = re.search(rb'data-results="([^"]*)"', path.read_bytes()) if path.is_file() else None
    if found is None or not set(found[1].decode().split()) <= names:
        refuse_to_overwrite(path, advice)


def write_evaluation_report(path: str | os.PathLike, evaluated: Sequence[Sequence[Evaluated]]) -> Path:
    """Write the report and return its path. It appears under its name when it is complete.

    Args:
        evaluated: per benchmark, its systems.
    """
    return write_text(path, render_evaluation_report(evaluated))


def render_evaluation_report(evaluated: Sequence[Sequence[Evaluated]]) -> str:
    """Return the whole page."""
    sections = [_benchmark_section(systems, len(evaluated)) for systems in evaluated]
    lead = [
        {
            "name": result.protocol.benchmark,
            "split": result.protocol.split,
            "hash": result.protocol.hash,
            "items": result.counts.describe_items(),
            "missing": result.counts.missing,
            "failed": result.counts.failed,
            "is_drawn": (own := BENCHMARKS.get(result.protocol.benchmark)) is not None and own.is_drawn,
        }
        for result in (systems[0].result for systems in evaluated)
    ]
    versions = evaluated[0][0].result.protocol.versions
    facts = {"systems": "; ".join(one.result.system.name for one in evaluated[0]), **versions}
    results = [one.result for systems in evaluated for one in systems]
    # A later run reads these names, and knows what its report would replace.
    names = " ".join(result_name(one.protocol, one.system) for one in results)
    return render_page("evaluation/page.html", "Evaluation", sections, facts=facts, lead=lead, result_names=names)


def num_headlines(num_benchmarks: int) -> int:
    """Return the number of figures of each benchmark that a run shows first: `MAX_ROWS` in all, and one at least."""
    return max(1, MAX_ROWS // num_benchmarks)


def summary_rows(systems: Sequence[Evaluated], num_rows: int | None = None) -> list[list[str]]:
    """Return the figures over all items and the headlines as plain text, the head first: figure, judge, of how many
    answers, and each system's with its 95% interval. The judges of a figure stand together. All of them if `num_rows`
    is unset, else those that say most."""
    results = [one.result for one in systems]
    whole = _by_key(results, is_whole=True)
    chosen = whole if num_rows is None else _headlines(whole, num_rows)
    rows = [["figure", "judge", "n", *(one.system.name for one in results)]]
    together: dict[tuple, list] = {}  # in their order, with the other judges of a figure behind its first
    for key, found in chosen:
        together.setdefault(key[:2], []).append((key, found))
    for (name, part, judge), found in (one for same in together.values() for one in same):
        totals = {str(one.total) for one in found if one is not None}
        cells = []
        for one in found:
            note = ""  # where nothing failed and the totals are one column, the interval alone is short enough
            if one is not None and one.low is not None:
                note = f"({one.low:.2f}-{one.high:.2f})"
            if one is not None and (one.failed or len(totals) > 1):
                note = _note(one)
            cells.append("" if one is None else f"{show(one.value)} {note}".strip())
        rows.append([figure_title(name, part), judge or "", totals.pop() if len(totals) == 1 else "", *cells])
    return rows


def _headlines(figures: list[tuple[tuple, list]], num_rows: int) -> list[tuple[tuple, list]]:
    """Return the figures that say most, in their order: by its first judge before its others, and of all items before
    what was not flagged, which would hide what over-refusal costs."""
    judged: dict[tuple, int] = {}
    ranked = []
    for place, ((name, part, _), _) in enumerate(figures):
        judged[name, part] = judged.get((name, part), 0) + 1
        ranked.append((judged[name, part], part == NOT_FLAGGED, place))
    return [figures[place] for place in sorted(place for *_, place in sorted(ranked)[:num_rows])]


def _benchmark_section(systems: Sequence[Evaluated], num_benchmarks: int) -> Section:
    results = [one.result for one in systems]
    whole = _by_key(results, is_whole=True)
    headlines = _headlines(whole, num_headlines(num_benchmarks))
    data = {
        "systems": [one.system.name for one in results],
        "rows": _rows(headlines),
        "more_rows": _rows([one for one in whole if one not in headlines]),
        "parts": _rows(_by_key(results, is_whole=False)),
        "differences": [
            {"title": _title((one.name, one.part, one.judge)), "text": show(one.value), "note": _note(one)}
            for one in compare_with_others(systems)
        ],
        "agreement": _agreement(systems[-1]),
        "roc": _roc(systems),
        "cards": _cards(systems),
        "last": results[-1].system.name,
    }
    return Section(f"{results[0].protocol.benchmark}: {results[0].protocol.split}", "evaluation/benchmark.html", data)


# --------------------------------------------------------------------------------------------------
# Figures
# --------------------------------------------------------------------------------------------------


def _by_key(results: Sequence[EvaluationResult], is_whole: bool) -> list[tuple[tuple, list[Figure | None]]]:
    """Map (name, part, judge) to the figure of each system, those shown first or the others."""
    found: dict[tuple, list[Figure | None]] = {}
    for column, result in enumerate(results):
        for figure in result.figures:
            if is_shown_first(figure, result.protocol.benchmark) is is_whole:
                # A system that lacks a figure leaves a gap in the row.
                key = (figure.name, figure.part, figure.judge)
                found.setdefault(key, [None] * len(results))[column] = figure
    return list(found.items())


def _rows(found: Sequence[tuple[tuple, Sequence[Figure | None]]]) -> list[Row]:
    return [
        Row(
            _title((*key[:2], None)),
            f"judge: {key[2]}" if key[2] else "",
            [None if one is None else Cell(show(one.value), _note(one)) for one in figures],
        )
        for key, figures in found
    ]


def _title(key: tuple[str, str | None, str | None]) -> str:
    name, part, judge = key
    return figure_title(name, part) + (f" ({judge})" if judge else "")


def _note(figure: Figure) -> str:
    interval = "" if figure.value is None else f"{NO_INTERVAL}; "
    if figure.low is not None:
        interval = f"{figure.low:.3f} to {figure.high:.3f}; "
    failed = f"; {figure.failed} failed" if figure.failed else ""
    bounds = f", so {figure.least:.3f} to {figure.most:.3f}" if figure.least is not None else ""
    return f"({interval}n {figure.total}{failed}{bounds})"


# --------------------------------------------------------------------------------------------------
# Judges, curve, pictures
# --------------------------------------------------------------------------------------------------


def _agreement(one: Evaluated) -> list[dict]:
    """Return pairs of judges: how often they agree, and kappa."""
    return [
        {
            "judges": " and ".join(pair["judges"]),
            "judged": pair["judged"],
            "agreement": _with_interval(pair, "agreement"),
            "kappa": _with_interval(pair, "kappa"),
            "differing": ", ".join(shown["item_id"] for shown in pair["differing"][:5]),
        }
        for pair in compare_judges(one.judgements)
    ]


def _with_interval(pair: dict, name: str) -> tuple[str, str]:
    """Return a figure of two judges, and its interval in brackets."""
    value, interval = pair[name], pair[f"{name}_interval"]
    if value is None:
        return "-", ""
    return f"{value:.2f}", f"({range_text(interval) if interval else NO_INTERVAL})"


def _roc(systems: Sequence[Evaluated]) -> Markup | None:
    """Plot attack success over over-refusal as the threshold of the risk moves: of the verdict alone, and of the whole
    system where its model answered without a verdict. `None` without both sides."""
    one = systems[-1]
    sides = {item.labels.get("is_risky") for item in one.items}
    if not {True, False} <= sides or all(answer.risk is None for answer in one.answers):
        return None
    curves = {"the verdict alone": system_roc(one.items, one.answers)}
    whole = roc_of_system(systems, RULES)
    curves |= {f"with the model's own refusals (judge: {RULES})": whole} if whole is not None else {}
    points = {name: (curve.over_refusal, curve.attack_success) for name, curve in curves.items()}
    return share_curves(points, {}, "over-refusal: harmless items refused", "attack success: risky items answered")


def _cards(systems: Sequence[Evaluated]) -> list[Card]:
    """Return risky items that the last system answered as if they were not, then others with a picture."""
    last, cards = systems[-1], []
    gravity = []
    for item, answer in zip(last.items, last.answers, strict=True):
        is_risky, flagged = item.labels.get("is_risky"), answer.is_flagged
        is_missed = is_risky and not flagged and answer.text is not None
        gravity.append(0 if is_missed else 1 if is_risky is False and flagged else 2)
    shown = [row for row in range(len(last.items)) if last.items[row].images]
    for row in sorted(shown, key=lambda row: (gravity[row], row))[:MAX_PICTURES]:
        item, said = last.items[row], []
        for one in systems:
            text, failure = one.answers[row].text, one.answers[row].failure
            said.append((one.result.system.name, f"no answer: {failure}" if text is None else text))
        why = ("risky, and not flagged", "harmless, and flagged", "")[gravity[row]]
        picture = picture_at(item.images[0], f"picture of item {item.id}", f"item {item.id}")
        is_blurred = not _is_harmless(item)
        cards.append(Card(picture, [Said(item.question, said, _chip(last.answers[row]))], why, is_blurred))
    return cards


def _is_harmless(item: Item) -> bool:
    """Tell whether all that the benchmark says of the item, and of its picture alone, is harmless."""
    labels = item.labels
    is_safe = labels.get("is_risky") is False and labels.get("is_image_risky", False) is False
    return is_safe and labels.get("image_grade", "safe") == "safe" and not labels.get("severity", 0)


def _chip(answer: Answer) -> Chip | None:
    if answer.action is None or answer.risk is None:
        return None
    name = ", ".join(dict.fromkeys(filter(None, (answer.category, answer.level))))
    colour = FLAGGED if answer.is_flagged else NOT_FLAGGED_COLOUR
    return Chip(f"{name} · risk {answer.risk:.2f} · {answer.action}", colour)
