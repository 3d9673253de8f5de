"""`evaluate` modules, one folder each: loaded by path, offline, never from the Hub."""

from pathlib import Path

import evaluate


METRICS = ("refusal_rate", "safety_verdict")


def load_metric(name: str, **kwargs) -> evaluate.Metric:
    """Loads one of `METRICS`.

    Args:
        kwargs: as for `evaluate.load`, such as `num_process`, `process_id` and `experiment_id` where several processes
            share one computation. A single process keeps its data in memory.

    Raises:
        ValueError: there is no such metric.
    """
    if name not in METRICS:
        raise ValueError(f"unknown metric {name!r}, expected one of {', '.join(METRICS)}")
    kwargs.setdefault("keep_in_memory", kwargs.get("num_process", 1) == 1)
    return evaluate.load(str(Path(__file__).parent / name), **kwargs)
