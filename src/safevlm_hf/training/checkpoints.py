"""Checkpoints on the way: which of them are whole, and where a run goes on."""

import json
import re
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open


NAME = re.compile(r"checkpoint-(\d+)")
STATE = "trainer_state.json"
"""The Trainer writes it last, when all processes have written their parts (`SafetyTrainer._save_rng_state`)."""
WEIGHTS, PICKLED = (".safetensors",), (".pt", ".pth", ".bin")


def find_checkpoints(output_dir: str | Path) -> tuple[list[Path], list[Path]]:
    """Return a run's checkpoints in the order of their steps: the whole ones, and those that the run was killed at."""
    steps = {folder: NAME.fullmatch(folder.name) for folder in Path(output_dir).glob("checkpoint-*")}
    found = sorted((int(step[1]), folder) for folder, step in steps.items() if step and folder.is_dir())
    whole, half = [], []
    for _, folder in found:
        (whole if missing_part(folder) is None else half).append(folder)
    return whole, half


def missing_part(checkpoint: Path) -> str | None:
    """Return the name of a file that a checkpoint lacks, or that breaks off; `None` where it is whole."""
    try:
        json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return STATE
    # A machine that goes down may keep the last file that was written and lose the end of an earlier one.
    return next((file.name for file in sorted(checkpoint.rglob("*")) if _breaks_off(file)), None)


def _breaks_off(file: Path) -> bool:
    """Tell from a file's head or end, for its size may be many gigabytes."""
    try:
        if file.suffix in WEIGHTS:
            with safe_open(file, framework="pt"):
                return False
        return file.suffix in PICKLED and not zipfile.is_zipfile(file)
    except (OSError, SafetensorError):
        return True


def checkpoint_to_resume(output_dir: str | Path, wanted: str | bool | None) -> str | None:
    """
    Return the folder of the checkpoint that a run goes on from; `None` where it begins anew.

    Args:
        output_dir: where the run's checkpoints are.
        wanted: `resume_from_checkpoint`. True, also as text, is the last whole one; any other text is a folder.

    Raises:
        ValueError: there is no whole one, or the named one is not whole.
    """
    if wanted is None or wanted is False:
        return None
    whole, half = find_checkpoints(output_dir)
    if wanted in (True, "true", "True"):
        if not whole:
            found = f", only {_listed(half)}, which broke off" if half else ""
            raise ValueError(
                f"{output_dir} holds no whole checkpoint to resume from{found}: without `--resume_from_checkpoint` "
                "the run begins anew."
            )
        return str(whole[-1])
    missing = missing_part(Path(wanted))
    if missing is not None:
        others = f"; whole in {output_dir}: {_listed(whole)}" if whole else ""
        raise ValueError(f"{wanted} is no whole checkpoint: its {missing} is missing or breaks off{others}.")
    return str(wanted)


def _listed(folders: list[Path]) -> str:
    return ", ".join(folder.name for folder in folders)
