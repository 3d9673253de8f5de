"""Load checkpoints and policies, and say what is wrong with a name that holds none."""

from collections.abc import Callable
from pathlib import Path

import torch

from ..modeling.operator_policy import describe_silencing
from ..modeling.safety_checkpoint import stored_policy
from ..modeling.safety_policy import SafetyPolicy
from ..quiet import quiet
from .families import find_family


def load(model: str):
    """Return model and processor. Raises `ValueError` for an untrained head, which judges nothing."""
    quiet()
    if not read_config(model).safety_config.is_trained:
        raise ValueError(f"{model} has an untrained safety head, its verdicts mean nothing: `safevlm train` first.")
    family = find_family(model)
    loaded = family.model.from_pretrained(model, dtype="auto", device_map=device())
    return loaded.eval(), family.processor.from_pretrained(model)


def device() -> str | None:
    return "cuda" if torch.cuda.is_available() else None


def read_config(model: str):
    """Return the config of a checkpoint, without its weights."""
    check_folder(model)
    return find_family(model).config.from_pretrained(model)


def check_folder(model: str):
    """Raise for a folder that is not here, before the Hub is asked for a model of that name."""
    # The name can only be a folder, or its first part is one that is here.
    is_local = model.count("/") > 1 or model.startswith((".", "/", "~"))
    if not Path(model).is_dir() and (is_local or ("/" in model and Path(model).parent.is_dir())):
        raise ValueError(f"there is no checkpoint {model} (`safevlm demo` makes runs/demo/stage2).")


def read_safety(model: str):
    """Return safety config and policy of a checkpoint, without its weights."""
    config, kept = read_config(model), stored_policy(model)
    return config.safety_config, config.safety_policy if kept is None else kept


def read_policy(path: Path | None, model, warn: Callable[[str], object]) -> SafetyPolicy | None:
    """Return the policy of a file; `None` without one. `warn` is told where the checkpoint's own policy could silence
    what it refuses: the model's own warning is not shown after `load`."""
    if path is None:
        return None
    policy = SafetyPolicy.from_file(path, model.config.safety_config)
    silenced = describe_silencing(model.kept_policy(), policy, model.config.safety_config)
    if silenced is not None:
        warn(silenced)
    return policy
