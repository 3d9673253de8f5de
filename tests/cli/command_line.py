"""What tests of several commands write and read."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).parents[2]


SAFETY_FLAGS = {"num_safety_tokens": 4, "num_condition_tokens": 4, "num_safety_heads": 4, "projector_depth": 1}


SHORT = {
    "num_riskcards": 12,
    "max_eval_samples": 4,
    "clean_share": 0.5,
    "warmup_steps": 0,
    "max_steps": 1,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": "true",
}


UNKNOWN_SCOPE = "Nothing is known of what it was trained on: try it on pictures like yours before you rely on it.\n"
"""On stderr, of a checkpoint whose record does not say it."""


REFUSE = {"actions": {"*": {"high": "refuse"}}}


HOSTILE = "[red]a[/] :smile:\x1b[31m\\"  # markup, an emoji's name, a terminal's escape code, an open escape


SHOWN = r"[red]a[/] :smile:\x1b[31m" + "\\"


def flags(**values) -> list[str]:
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def write_json(path: Path, value) -> Path:
    path.write_text(json.dumps(value))
    return path


def start(*words, **kwargs) -> subprocess.Popen:
    """`safevlm ...` in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        [sys.executable, "-m", "safevlm_cli", *map(str, words)], env=environment, **pipes, **kwargs
    )


def rows(table: str) -> dict[str, list[str]]:
    """Cells of a table by its first column."""
    lines = [re.split(" {2,}", line.strip()) for line in table.splitlines()]
    return {first: rest for first, *rest in lines}
