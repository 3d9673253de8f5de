"""The code that travels with a checkpoint, so that `trust_remote_code=True` finds it beside the weights."""

import shutil
from pathlib import Path

from transformers import PreTrainedConfig
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import PushToHubMixin

from .model_card import write_model_card


def auto_map(family: str, prefix: str) -> dict[str, str]:
    """Return `auto_map` of a family whose file is `{family}.py` and whose classes are called `{prefix}...`. Every
    entry names that file: whichever class is loaded first, the library follows its imports to all files that it
    needs."""
    config, processor = f"{family}.{prefix}Config", f"{family}.{prefix}Processor"
    models = ("AutoModel", "AutoModelForImageTextToText", "AutoModelForMultimodalLM")
    return {
        "AutoConfig": config,
        **dict.fromkeys(models, f"{family}.{prefix}ForConditionalGeneration"),
        "AutoProcessor": processor,
    }


def save_code(save_directory, family: str):
    """Copy a family's file, and those of this folder that it imports, next to a checkpoint."""
    Path(save_directory).mkdir(parents=True, exist_ok=True)
    for file in _code_files(family):
        target = Path(save_directory) / file.name
        if file.resolve() != target.resolve():
            shutil.copyfile(file, target)


def _code_files(family: str) -> list[Path]:
    family_file = Path(__file__).parent / f"{family}.py"
    return [family_file, *map(Path, get_relative_import_files(family_file))]


class RemoteCodeMixin(PushToHubMixin):
    """Upload of what [`save_code`] has saved: code and card reach the Hub, too."""

    def _upload_modified_files(self, working_dir, repo_id, files_timestamps, *args, **kwargs):
        # By now `push_to_hub` has written a card of its own, and `save_pretrained` has taken the time stamps after the
        # code was copied.
        config = self if isinstance(self, PreTrainedConfig) else getattr(self, "config", None)
        if config is not None:
            write_model_card(working_dir, config, repo_id)
        family = self.config_class.model_type if config is None else config.model_type
        code = {file.name for file in _code_files(family)}  # and no other file of the folder
        stamps = {file: stamp for file, stamp in files_timestamps.items() if file not in code}
        return super()._upload_modified_files(working_dir, repo_id, stamps, *args, **kwargs)
