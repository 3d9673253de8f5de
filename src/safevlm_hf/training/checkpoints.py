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
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "adapter_model.safetensors",
    "pytorch_model_fsdp_*/.metadata",
    "pytorch_model_fsdp*.bin",
    "global_step*/*_model_states.pt",
)
"""Places where the Trainer puts weights: whole or in shards, an adapter, FSDP (`.metadata` comes last), DeepSpeed."""
TENSORS = ("model.safetensors", "model-*-of-*.safetensors", "adapter_model.safetensors")
PICKLED = (
    "training_args.bin",
    "optimizer.pt",
    "optimizer.bin",
    "scheduler.pt",
    "scaler.pt",
    "rng_state*.pth",
    "pytorch_model_fsdp*.bin",
    "global_step*/*_states.pt",
)
INDEX = "model.safetensors.index.json"
OBJECTS = ("config.json", "adapter_config.json", INDEX)
"""The Trainer's files alone are looked at; what a user has put beside them says nothing of the checkpoint."""
LARGE_SHARE = 0.1
"""Share of the free disk from which on the size of a checkpoint is said."""


def find_checkpoints(output_dir: str | Path) -> tuple[list[Path], list[Path]]:
    """Return a run's checkpoints in the order of their steps: the whole ones, and the others, which the run was killed
    at, or which are none of its own. Links are left out."""
    steps = {folder: NAME.fullmatch(folder.name) for folder in Path(output_dir).glob("checkpoint-*")}
    is_own = {folder: folder.is_dir() and not folder.is_symlink() for folder in steps}
    found = sorted((int(step[1]), folder) for folder, step in steps.items() if step and is_own[folder])
    whole = [folder for _, folder in found if missing_part(folder) is None]
    return whole, [folder for _, folder in found if folder not in whole]


def find_links(output_dir: str | Path) -> list[Path]:
    """Return the links that are named as checkpoints: the Trainer would write through them."""
    return sorted(path for path in Path(output_dir).glob("checkpoint-*") if path.is_symlink())


def missing_part(checkpoint: Path) -> str | None:
    """Return the name of a file that a checkpoint lacks, or that breaks off; `None` where it is whole.

    JSON files are read, and of weights and states the head and the end are checked, for they may have many gigabytes:
    other bytes in the middle of such a file are not found."""
    state = _read_object(checkpoint / STATE)
    if not isinstance(state.get("global_step"), int):
        return STATE
    if not any(_find(checkpoint, WEIGHTS)):
        return WEIGHTS[0]
    # A machine that goes down may keep the last file that was written and lose the end of an earlier one.
    for file in _find(checkpoint, OBJECTS):
        if not _read_object(file):
            return file.name
    # An index may name shards that are not there.
    if (checkpoint / INDEX).exists():
        shards = _read_object(checkpoint / INDEX).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            return INDEX
        lacking = [shard for shard in map(str, shards.values()) if not (checkpoint / shard).is_file()]
        if lacking:
            return min(lacking)
    broken = [file for file in _find(checkpoint, TENSORS) if not _is_safetensors(file)]
    broken += [file for file in _find(checkpoint, PICKLED) if not zipfile.is_zipfile(file)]
    return min((file.name for file in broken), default=None)


def _find(checkpoint: Path, patterns: tuple[str, ...]) -> list[Path]:
    return [file for pattern in patterns for file in sorted(checkpoint.glob(pattern))]


def _read_object(file: Path) -> dict:
    """Return what a JSON file holds; nothing where it holds no object."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_safetensors(file: Path) -> bool:
    try:
        with safe_open(file, framework="pt"):
            return True
    except (OSError, SafetensorError):
        return False


def remove_older(output_dir: str | Path, kept: list[str | Path], limit: int):
    """Remove whole checkpoints, the oldest first, until there are `limit` of them. Those in `kept` stay, and all that
    are not whole: they may be somebody else's."""
    staying = {Path(folder).resolve() for folder in kept}
    # The time of writing decides, not the step: an earlier run may have left checkpoints of higher steps.
    by_age = sorted(find_checkpoints(output_dir)[0], key=lambda folder: (folder / STATE).stat().st_mtime)
    others = [folder for folder in by_age if folder.resolve() not in staying]
    for folder in others[: len(others) - max(0, limit - (len(by_age) - len(others)))]:
        shutil.rmtree(folder)


def checkpoint_to_resume(output_dir: str | Path, wanted: str | bool | None) -> str | None:
    """
    Return the folder of the checkpoint that a run goes on from; `None` where it begins anew.

    Args:
        output_dir: where the run's checkpoints are.
        wanted: `resume_from_checkpoint`. True, also as text, is the last whole one, false is none; any other text is a
            folder.

    Raises:
        ValueError: there is no whole one, or the named one is not whole.
    """
    if wanted is None or str(wanted).lower() == "false":
        return None
    whole, half = find_checkpoints(output_dir)
    if str(wanted).lower() == "true":
        if not whole:
            found = f", only {listed(half)}, which broke off" if half else ""
            beginning = " and with `--overwrite_output_dir`, which removes what is there," if half else ""
            raise ValueError(
                f"{output_dir} holds no whole checkpoint to resume from{found}: without `--resume_from_checkpoint`"
                f"{beginning} the run begins anew."
            )
        return str(whole[-1])
    missing = missing_part(Path(str(wanted)))
    if missing is not None:
        others = f"; whole in {output_dir}: {listed(whole)}" if whole else ""
        raise ValueError(f"{wanted} is no whole checkpoint: its {missing} is missing or breaks off{others}.")
    return str(wanted)


def goes_on(output_dir: str | Path, resumed: str | None) -> bool:
    """Tell whether a run that starts from this checkpoint goes on with the one that lies in `output_dir`."""
    return resumed is not None and Path(resumed).resolve().parent == Path(output_dir).resolve()


def listed(folders: list[Path]) -> str:
    """Return the names of these folders in one line."""
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
    # A model with an adapter saves what is trained, and leaves its base where it lies.
    saved = _bytes(weights) if isinstance(model, PreTrainedModel) else trained
    return saved if save_only_model else saved + 2 * trained


def _bytes(weights) -> int:
    # DeepSpeed's ZeRO-3 has emptied the parameters, and keeps their size.
    return sum(getattr(weight, "ds_numel", weight.numel()) * weight.element_size() for weight in weights)
