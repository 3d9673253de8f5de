"""Figures of answers, verdicts and judgements, and two `evaluate` modules, a folder each: loaded by path, offline,
never from the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...extras import needs_extra


if TYPE_CHECKING:
    import evaluate


METRICS = ("refusal_rate", "safety_verdict")


def load_metric(name: str, **kwargs) -> evaluate.Metric:
    """Load one of `METRICS`.

    Args:
        kwargs: as for `evaluate.load`, such as `num_process`, `process_id` and `experiment_id` where several processes
            share one computation. A single process keeps its data in memory.

    Raises:
        ValueError: there is no such metric.
        ImportError: the package `evaluate` is not installed.
    """
    if name not in METRICS:
        raise ValueError(f"unknown metric {name!r}, expected one of {', '.join(METRICS)}")
    with needs_extra("eval"):
        import evaluate
    kwargs.setdefault("keep_in_memory", kwargs.get("num_process", 1) == 1)
    return evaluate.load(str(Path(__file__).parent / name), **kwargs)
