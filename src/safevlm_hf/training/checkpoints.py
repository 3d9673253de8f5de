"""Checkpoints on the way: which of them are whole, where a run goes on, and how much of the disk they take."""

import json
import logging
import re
import shutil
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel


logger = logging.getLogger(__name__)

NAME = re.compile(r"checkpoint-(\d+)")
STATE = "trainer_state.json"
"""The Trainer writes it last, when all processes have written their parts (`SafetyTrainer._save_rng_state`)."""
WEIGHTS, PICKLED = (".safetensors",), (".pt", ".pth", ".bin")
LARGE_SHARE = 0.1
"""Share of the free disk from which on the size of a checkpoint is said."""


def find_checkpoints(output_dir: str | Path) -> tuple[list[Path], list[Path]]:
    """Return a run's checkpoints in the order of their steps: the whole ones, and those that the run was killed at."""
    steps = {folder: NAME.fullmatch(folder.name) for folder in Path(output_dir).glob("checkpoint-*")}
    found = sorted((int(step[1]), folder) for folder, step in steps.items() if step and folder.is_dir())
    whole = [folder for _, folder in found if missing_part(folder) is None]
    return whole, [folder for _, folder in found if folder not in whole]


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
    if str(wanted) in ("true", "True"):
        if not whole:
            found = f", only {_listed(half)}, which broke off" if half else ""
            raise ValueError(
                f"{output_dir} holds no whole checkpoint to resume from{found}: without `--resume_from_checkpoint` "
                "the run begins anew."
            )
        return str(whole[-1])
    missing = missing_part(Path(str(wanted)))
    if missing is not None:
        others = f"; whole in {output_dir}: {_listed(whole)}" if whole else ""
        raise ValueError(f"{wanted} is no whole checkpoint: its {missing} is missing or breaks off{others}.")
    return str(wanted)


def _listed(folders: list[Path]) -> str:
    return ", ".join(folder.name for folder in folders)


def warn_of_size(model, args):
    """Say, before the training, how large a checkpoint will be where that is over `LARGE_SHARE` of the free disk."""
    size, free = checkpoint_size(model, args.save_only_model), shutil.disk_usage(args.output_dir).free
    if args.save_strategy != "no" and size > LARGE_SHARE * free:
        logger.warning(
            "A checkpoint on the way takes about %.1f GB, and %.1f GB are free in %s. Until a new one is whole, the "
            "one before it stays, too. `--save_strategy no` writes the result alone, and `--save_only_model true` "
            "leaves out the optimiser, with which a run is resumed.",
            size / 1e9,
            free / 1e9,
            args.output_dir,
        )


def checkpoint_size(model, save_only_model: bool = False) -> int:
    """Return about how many bytes a checkpoint has: the weights, of an adapter its own alone, and AdamW's two states
    of those that are trained."""
    weights = list(model.parameters())
    trained = _bytes(weight for weight in weights if weight.requires_grad)
    saved = _bytes(weights) if isinstance(model, PreTrainedModel) else trained
    return saved if save_only_model else saved + 2 * trained


def _bytes(weights) -> int:
    # DeepSpeed's ZeRO-3 has emptied the parameters, and keeps their size.
    return sum(getattr(weight, "ds_numel", weight.numel()) * weight.element_size() for weight in weights)
