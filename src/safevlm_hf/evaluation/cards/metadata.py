"""Metadata that the Hub reads: `model-index` in a card's metadata, and the files of `.eval_results/`, which follow
it."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, eval_result_entries_to_yaml
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.repocard_data import eval_results_to_model_index

from ...benchmarks import BENCHMARKS
from ...intervals.figure import Figure
from ..counting import NOT_FLAGGED
from ..figure_names import figure_title, is_headline, is_shown_first
from ..pipeline import slug
from ..protocol.result import EvaluationResult


KEY = "model-index"
OUR_ARGUMENT = "protocol_hash"
"""Metrics with this argument are ours to replace."""
HEAD = "# Written by `safevlm card`, which replaces this file at each call.\n"


# --------------------------------------------------------------------------------------------------
# .eval_results/
# --------------------------------------------------------------------------------------------------


def eval_result_files(results: Sequence[EvaluationResult]) -> dict[str, str]:
    """Return name and content of each file: one per benchmark, an entry per figure that has a value."""
    entries: dict[str, list[EvalResultEntry]] = {}
    for result, figure in shown_figures(results):
        if figure.value is not None:
            entry = EvalResultEntry(
                dataset_id=_dataset(result),
                task_id=figure.name,
                value=figure.value,
                date=result.times.date,
                notes=_notes(result, figure),
            )
            entries.setdefault(f"{slug(result.protocol.benchmark)}.yaml", []).append(entry)
    return {name: HEAD + _dump(eval_result_entries_to_yaml(own)) for name, own in entries.items()}


def is_eval_result_file(path: Path) -> bool:
    """Tell whether a file is one of ours."""
    with path.open("rb") as file:
        return file.read(len(HEAD)) == HEAD.encode()


def shown_figures(results: Sequence[EvaluationResult]) -> Iterator[tuple[EvaluationResult, Figure]]:
    """Yield the figures over all items, and over those that were not flagged, and the benchmark's headlines, each with
    its result. Parts and tasks of a benchmark stay in `results.json`."""
    for result in results:
        yield from ((result, figure) for figure in result.figures if is_shown_first(figure, result.protocol.benchmark))


def _notes(result: EvaluationResult, figure: Figure) -> str:
    notes = [result.system.name, figure.part, f"judge: {figure.judge}" if figure.judge else None]
    notes.append(result.counts.describe_items() if result.counts.published is not None else None)
    notes += [f"split: {result.protocol.split}", f"protocol: {result.protocol.hash}", f"n: {figure.total}"]
    notes.append(None if figure.low is None else f"95% interval: {figure.low:.4g} to {figure.high:.4g}")
    if figure.failed:
        bounds = "" if figure.least is None else f", so {figure.least:.4g} to {figure.most:.4g}"
        notes.append(f"without an outcome: {figure.failed}{bounds}")
    return "; ".join(one for one in notes if one)


def _dataset(result: EvaluationResult) -> str:
    """Return the Hub id where the benchmark is on the Hub, else its name."""
    benchmark = BENCHMARKS.get(result.protocol.benchmark)
    on_hub = benchmark and re.search(r"hf download ([\w.-]+/[\w.-]+)", benchmark.where_to_get)
    return on_hub[1] if on_hub else result.protocol.benchmark


# --------------------------------------------------------------------------------------------------
# model-index
# --------------------------------------------------------------------------------------------------


def headline_figures(results: Sequence[EvaluationResult]) -> Iterator[tuple[EvaluationResult, Figure]]:
    """Yield the figures of the card's metadata, each with its result: what a reader looks for first. Of each benchmark
    with the verdict on, these are the figures over all items by their first judge, and the first one that needs no
    judge; a mean that its paper reports first stands in place of the figure over all items."""
    for result in results:
        found: dict[str | None, Figure] = {}
        for _, figure in shown_figures([] if is_off(result) else [result]):
            name = figure.name if figure.judge else None
            replaced = found.get(name)
            is_mean = is_headline(figure, result.protocol.benchmark)
            if figure.value is None or figure.part == NOT_FLAGGED:
                continue
            if replaced is None or (is_mean and not is_headline(replaced, result.protocol.benchmark)):
                found[name] = figure
        yield from ((result, figure) for figure in found.values())


def is_off(result: EvaluationResult) -> bool:
    """Return whether a result's verdict was switched off."""
    return (result.system.policy or {}).get("enabled") is False


def set_model_index(text: str, name: str, results: Sequence[EvaluationResult]) -> str:
    """Return the card with the headlines of these results in its `model-index` in place of ours; everything else
    stays, byte for byte, as it was.

    Args:
        text: of a card whose metadata `ModelCard` reads.
        name: of the model, where the card has no `model-index`.
    """
    ours = [_eval_result(*one) for one in headline_figures(results)]
    match = REGEX_YAML_BLOCK.search(text)
    block = match.group(2) + "\n" if match else ""
    index = (yaml.safe_load(block) or {}).get(KEY) or [{"name": name, "results": []}]
    # An index without results says nothing, so none is added.
    if not ours and not index[0]["results"]:
        return text
    for model in index:
        kept = []
        for result in model["results"]:  # metrics of others stay
            metrics = [one for one in result["metrics"] if OUR_ARGUMENT not in (one.get("args") or {})]
            kept += [{**result, "metrics": metrics}] if metrics else []
        model["results"] = kept
    index[0]["results"] += eval_results_to_model_index(name, ours)[0]["results"]
    begin, end = _find_key(block)
    block = block[:begin] + _dump({KEY: index}) + block[end:]
    if match is None:
        return f"---\n{block}---\n\n{text.lstrip()}"
    return text[: match.start(2)] + block.removesuffix("\n") + text[match.end(2) :]


def _eval_result(result: EvaluationResult, figure: Figure) -> EvalResult:
    benchmark = BENCHMARKS.get(result.protocol.benchmark)
    mean, items = (figure.part, None) if is_headline(figure, result.protocol.benchmark) else (None, figure.part)
    variant = [result.system.name, items, figure.judge and f"judge: {figure.judge}"]
    arguments = {
        OUR_ARGUMENT: result.protocol.hash,
        "system": result.system.name,
        "judge": figure.judge,
        "items": items,
        "mean": mean,
        "n": figure.total,
        "failed": figure.failed,
        "published": result.counts.published,
        "interval_95": None if figure.low is None else [figure.low, figure.high],
        "bounds": None if figure.least is None else [figure.least, figure.most],
        "date": result.times.date,
    }
    return EvalResult(
        task_type="image-text-to-text",
        dataset_type=_dataset(result),
        dataset_name=benchmark.title if benchmark else result.protocol.benchmark,
        dataset_split=result.protocol.split,
        metric_type=figure.name,
        metric_name=f"{figure_title(figure.name, mean)} ({'; '.join(one for one in variant if one)})",
        metric_value=figure.value,
        metric_args={key: value for key, value in arguments.items() if value is not None},
    )


def _find_key(block: str) -> tuple[int, int]:
    """Return begin and end of `model-index` in the metadata, without the comments after it; twice the end where it is
    not."""
    node = yaml.compose(block)
    for key, value in node.value if node else ():
        if key.value == KEY:
            lines = block[: value.end_mark.index].splitlines(keepends=True)
            # YAML's end of a value takes in what follows it: blank lines and comments, which belong to the next key.
            while not lines[-1].strip() or lines[-1].startswith("#"):
                lines.pop()
            end = len("".join(lines))
            return key.start_mark.index, end + (block[end - 1] != "\n" and block[end : end + 1] == "\n")
    return len(block), len(block)


def _dump(value) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=10_000)
