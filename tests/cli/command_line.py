"""What tests of several commands write and read."""

import configparser
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


ALONE = """
import sys, time
from importlib import import_module

seconds, module, name, *lines = sys.argv[1:]
main = getattr(import_module(module), name)
for line in lines:
    sys.argv = ["safevlm", *line.split()]
    try:
        main()
    except SystemExit as end:
        assert not end.code, (line, end.code)
heavy = {"torch", "transformers", "datasets", "evaluate", "sklearn", "safevlm_hf"} & set(sys.modules)
print(sorted(heavy), time.process_time() < float(seconds))
"""


def entry_point() -> list[str]:
    """Return module and function of the program `safevlm`."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    (script,) = setup["options.entry_points"]["console_scripts"].split("\n")[1:]
    return script.split(" = ")[1].split(":")


def run_alone(lines: list[str], seconds: float) -> str:
    """Run `safevlm ...` for each line in one process of its own, and return what it prints. The last line has the
    heavy modules that were imported, and whether it took less than so many seconds of the processor."""
    command = [sys.executable, "-c", ALONE, str(seconds), *entry_point(), *lines]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT / "src")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout
