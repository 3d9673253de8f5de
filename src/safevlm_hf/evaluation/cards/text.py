"""The section "Evaluation" of a model card: a table per benchmark, and what its training data share with it."""

from collections.abc import Mapping, Sequence

from ...benchmarks import BENCHMARKS
from ...intervals.figure import Figure
from ...modeling.model_card import code, escape, table
from ...reports.tables import show
from ..contamination.overlap import Overlap
from ..counting import NOT_FLAGGED
from ..figure_names import figure_title, is_headline, is_shown_first
from ..protocol.result import EvaluationResult


HEAD = ("figure", "judge", "system", "value", "95% interval", "n", "without an outcome")
EXPLANATION = (
    "Judges disagree: no figure is without the name of its judge, and figures of two judges are not to be compared. "
    "Nor are results of different protocols. An answer or a judgement that failed is counted as being without an "
    "outcome, and the range beside it is what it leaves open."
)


def render_section(tables: Sequence[Sequence[EvaluationResult]], overlaps: Mapping[tuple[str, str], Overlap]) -> str:
    """Return the section in Markdown.

    Args:
        tables: per benchmark and split the results that stand in one table.
        overlaps: benchmark and split to what its items share with the training records.
    """
    parts = ["## Evaluation", EXPLANATION]
    for results in tables:
        protocol = results[0].protocol
        benchmark = BENCHMARKS.get(protocol.benchmark)
        title = benchmark.title if benchmark else protocol.benchmark
        counts, dates = results[0].counts, sorted(one.times.date[:10] for one in results)
        date = " to ".join(dict.fromkeys((dates[0], dates[-1])))
        versions = ", ".join(f"{escape(name)} {escape(version)}" for name, version in protocol.versions.items())
        facts = (
            f"{counts.describe_items()}, {counts.missing} more were missing in the files. Benchmark "
            f"{code(protocol.benchmark)}, protocol `{protocol.hash}`, {date}, with {versions}."
        )
        parts += [f"### {escape(title)} ({escape(protocol.split)})", facts, _table(results)]
        parts += filter(None, map(_no_row_not_flagged, results))
        parts.append(_contamination(overlaps.get((protocol.benchmark, protocol.split))))
    return "\n\n".join(parts)


def _table(results: Sequence[EvaluationResult]) -> str:
    """Return a table: systems below each other for each figure and judge, and the items that were not flagged below
    all items. A headline, a mean over parts, follows the figure over all items."""
    found: dict[tuple, list[tuple[str, Figure]]] = {}
    for result in results:
        for figure in result.figures:
            benchmark = result.protocol.benchmark
            if is_shown_first(figure, benchmark):
                mean = figure.part if is_headline(figure, benchmark) else None
                system = result.system.name + (f", items {NOT_FLAGGED}" if figure.part == NOT_FLAGGED else "")
                found.setdefault((figure_title(figure.name, mean), figure.judge), []).append((system, figure))
    return table(HEAD, [_row(title, *one) for (title, _), same in found.items() for one in same])


def _row(title: str, system: str, figure: Figure) -> tuple:
    bounds = f" ({figure.least:.3f} to {figure.most:.3f})" if figure.least is not None else ""
    return (
        title,
        figure.judge or "none",
        system,
        show(figure.value),
        "-" if figure.low is None else f"{figure.low:.3f} to {figure.high:.3f}",
        figure.total,
        f"{figure.failed}{bounds}",
    )


def _no_row_not_flagged(result: EvaluationResult) -> str | None:
    """Say why a system with a verdict has no row of items that were not flagged, where its benchmark calls for one."""
    benchmark = BENCHMARKS.get(result.protocol.benchmark)
    rates = [one for one in result.figures if one.name == "flagged_rate" and one.part is None]
    is_off = (result.system.policy or {}).get("enabled") is False
    has_row = any(one.part == NOT_FLAGGED for one in result.figures)
    if benchmark is None or benchmark.score is None or is_off or has_row or not rates:
        return None
    why = "no item was flagged: its row is that of all items" if not rates[0].value else "no item was left"
    return f"{escape(result.system.name)}, items {NOT_FLAGGED}: {why}."


def _contamination(overlap: Overlap | None) -> str:
    if overlap is None:
        return "**Contamination:** not checked against the training data."
    counts, method = overlap.counts(), overlap.method
    files = ", ".join(
        f"{code(one['file'])} (SHA-256 `{one['hash'][:12]}`, {one['num_records']} records)" for one in overlap.train
    )
    return (
        f"**Contamination:** items with something in common with the training data: {counts['any']} of "
        f"{overlap.num_items} (a picture that looks alike: {counts['picture']}; {escape(method.get('words'))} words "
        f"in a row: {counts['words']}; a shorter text, whole: {counts['short text']}). "
        f"Checked against {files}; {_number(overlap.num_pictures, 'train')} pictures. Pictures of one colour count "
        f"only where all pixels are equal; there are {_number(overlap.num_blank, 'train')} in the training data and "
        f"{_number(overlap.num_blank, 'benchmark')} in the benchmark."
    )


def _number(numbers: Mapping, side: str) -> str:
    return escape(numbers.get(side, "unknown"))
