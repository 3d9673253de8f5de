"""Load checkpoints and policies, and say what is wrong with a name that holds none."""

from pathlib import Path

from safevlm_cli.loading import DEFAULT_MODEL
from safevlm_cli.showing import print_warning


def load(model: str):
    """Model and processor, checked: an untrained head judges nothing."""
    from ..quiet import quiet
    from .families import find_family

    quiet()
    if not read_config(model).safety_config.is_trained:
        raise ValueError(f"{model} has an untrained safety head, its verdicts mean nothing: `safevlm train` first.")
    family = find_family(model)
    loaded = family.model.from_pretrained(model, dtype="auto", device_map=device())
    return loaded.eval(), family.processor.from_pretrained(model)


def device():
    import torch

    return "cuda" if torch.cuda.is_available() else None


def read_config(model: str):
    """Config of a checkpoint, without its weights."""
    from .families import find_family

    check_folder(model)
    return find_family(model).config.from_pretrained(model)


def check_folder(model: str):
    """What can only be a folder, or would lie in one that is here, is not looked for on the Hub."""
    is_local = model.count("/") > 1 or model.startswith((".", "/", "~"))
    if not Path(model).is_dir() and (is_local or ("/" in model and Path(model).parent.is_dir())):
        raise ValueError(f"there is no checkpoint {model} (`safevlm demo` makes {DEFAULT_MODEL}).")


def read_safety(model: str):
    """Safety config and the policy of a checkpoint, without its weights."""
    from ..modeling.safety_checkpoint import stored_policy

    config, kept = read_config(model), stored_policy(model)
    return config.safety_config, config.safety_policy if kept is None else kept


def read_policy(path: Path | None, model):
    """Return the policy of a file, with a warning where the checkpoint's own could silence what it refuses."""
    from ..modeling.operator_policy import describe_silencing
    from ..modeling.safety_policy import SafetyPolicy

    if path is None:
        return None
    policy = SafetyPolicy.from_file(path, model.config.safety_config)
    silenced = describe_silencing(model.kept_policy(), policy, model.config.safety_config)
    if silenced is not None:
        print_warning(silenced)  # the library's own is not shown under a command
    return policy
