"""Loading and saving of checkpoints: what one must hold to be loaded, and the policy that is kept with it."""

from contextlib import contextmanager
from logging import Filter
from threading import get_ident

from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.utils import cached_file, logging

from .json_files import read_json, read_policy
from .operator_policy import merge_policies
from .safety_digest import changed_parts
from .safety_policy import SafetyPolicy
from .safety_words import load_words


logger = logging.get_logger(__name__)

MAX_NAMES = 10  # names of weights in an error
PROMISED_WINDOW = 4  # tokens of a question that no words around it talk away
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


def register_key_conversions(family: str, prefix: str):
    """
    Let a family's checkpoints, and stock ones of its backbone, load with the backbone's key conversions.

    The library looks them up by model type and by class name, and skips classes outside transformers that are not
    registered: a stock checkpoint would leave the language model randomly initialised.

    Args:
        family, prefix: model type, and start of the names of the classes: "safe_" and "Safe" before the stock ones.
    """
    for name in (family, f"{prefix}Model", f"{prefix}ForConditionalGeneration"):
        stock = get_checkpoint_conversion_mapping(name.removeprefix("safe_").removeprefix("Safe"))
        if stock is not None:
            # `overwrite`: the package and a checkpoint's own copy of this file may meet in one process.
            register_checkpoint_conversion_mapping(name, stock, overwrite=True)


class SafeCheckpointMixin:
    """Loading and saving of a safe model, in front of [`PreTrainedModel`]."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path=None,
        *args,
        output_loading_info: bool = False,
        ignore_mismatched_sizes: bool = False,
        **kwargs,
    ):
        """
        Load as [`PreTrainedModel.from_pretrained`] does.

        Raises:
            `ValueError`: for a checkpoint that lacks weights of its backbone, or says it is trained and lacks any, or
                has safety weights that its config has no place for; for a stock one with weights that its backbone
                does not have; for a `generation_config.json` that cannot be read, or a policy that does not fit; for a
                key that comes twice in it or in `config.json`.
            `RuntimeError`: for weights of another size than the config says.
        """
        config_file = _find_file(pretrained_model_name_or_path, "config.json", **kwargs)
        if config_file is not None:
            read_json(config_file)  # raises where a key comes twice, as a policy may: the library takes the second
        stored = None
        if cls.can_generate() and kwargs.get("generation_config") is None:
            stored = stored_policy(pretrained_model_name_or_path, **kwargs)
        # The library names the sizes in its log alone.
        with _loading_report_held_back() as report:
            model, info = super().from_pretrained(
                pretrained_model_name_or_path, *args, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
            )
            safety_names = {name for name, _ in model.named_parameters() if _is_of_safety(name)}
            is_stock = safety_names.issubset(info["missing_keys"])
            other = info["unexpected_keys"] | info["mismatched_keys"]
            if is_stock and not other and all(map(_is_of_safety, info["missing_keys"])):
                report.clear()  # all is as it should be, and a line below says so
        mismatched = sorted(info["mismatched_keys"])
        if mismatched and not ignore_mismatched_sizes:
            sizes = "; ".join(f"{key}: {tuple(found)}, not {tuple(by_config)}" for key, found, by_config in mismatched)
            raise RuntimeError(
                f"{pretrained_model_name_or_path} has weights of another size than its config says: {sizes}."
            )
        missing = {*info["missing_keys"], *(key for key, _, _ in mismatched)}
        _check_base_weights(pretrained_model_name_or_path, info["missing_keys"])
        _check_safety_weights(pretrained_model_name_or_path, model.config.safety_config, missing)
        _check_safety_config(pretrained_model_name_or_path, model.config.safety_config, info["unexpected_keys"])
        if is_stock and cls.can_generate():  # the base model alone has no place for the output layer
            _check_that_nothing_is_lost(pretrained_model_name_or_path, cls.__name__, info["unexpected_keys"])
        if stored is not None:
            model.generation_config.safety_policy = stored
        _check_policies(pretrained_model_name_or_path, model)
        warn_of_changes(pretrained_model_name_or_path, model.config, stored)
        return (model, info) if output_loading_info else model

    def save_pretrained(self, save_directory, **kwargs):
        kept = self.kept_policy()
        if kept is not None and self.can_generate():
            policy = SafetyPolicy.create(kept, self.config.safety_config).to_dict()
            self.generation_config.safety_policy, self.config.safety_policy = policy, dict(policy)
            # The library loads no keys but its own of a generation config that it derived from the model's.
            self.generation_config._from_model_config = False
        if self.can_generate() and kwargs.get("is_main_process", True):
            # Before the config, whose digest is of the policy in this file, too.
            self.generation_config.save_pretrained(save_directory)
        if self.config.safety_config.reads_words and kwargs.get("is_main_process", True):
            words = load_words(self.name_or_path, revision=getattr(self.config, "_commit_hash", None))
            words.save(save_directory)
        return super().save_pretrained(save_directory, **kwargs)

    def kept_policy(self) -> "SafetyPolicy | dict | None":
        """Return the policy that is kept with the checkpoint. `generation_config` is often replaced, and what a policy
        forbids must not be lost with it, so `config` keeps a copy."""
        kept = getattr(getattr(self, "generation_config", None), "safety_policy", None)
        copied = getattr(self.config, "safety_policy", None)
        if kept is None and copied is not None:
            logger.warning_once(
                "The generation config holds no `safety_policy`, so the checkpoint's own, from config.json, is in "
                "force. For another one set `model.generation_config.safety_policy`; {} is the default policy."
            )
            return copied
        return kept


class _ReportFilter(Filter):
    """Hold back the library's reports on loading (its table of missing weights and the like) in this thread."""

    def __init__(self):
        super().__init__()
        self.thread, self.held = get_ident(), []

    def filter(self, record) -> bool:
        is_report = record.thread == self.thread and "LOAD REPORT" in record.getMessage()
        if is_report:
            self.held.append(record)
        return not is_report


@contextmanager
def _loading_report_held_back():
    """Hold the library's reports back in a list; those that are left in it are logged at the end."""
    library, reports = logging.get_logger("transformers.modeling_utils"), _ReportFilter()
    library.addFilter(reports)
    try:
        yield reports.held
    finally:
        library.removeFilter(reports)
        for record in reports.held:
            library.handle(record)


def _check_safety_weights(checkpoint, safety_config, missing: set[str]):
    """Raise or warn where verdicts would be random, or could be talked away."""
    # A line per module, not per weight: its first two names, or the first one outside of the base model.
    new = sorted({".".join(key.split(".")[: 2 if key.startswith("model.") else 1]) for key in missing})
    if new and safety_config.is_trained:
        raise ValueError(
            f"{checkpoint} says that it is trained (`is_trained`), and has no weights that fit for {', '.join(new)}: "
            "its verdicts would be random."
        )
    if new:
        logger.warning(
            f"Newly initialised: {', '.join(new)}. The safety verdicts of this model mean nothing until stage 1 has "
            "trained them (`safevlm train --stage 1`)."
        )
    smallest = safety_config.head_window_sizes[0]
    if safety_config.head_pooling == "windows" and smallest > PROMISED_WINDOW:
        logger.warning(
            f"The safety head of this model judges runs of {smallest} tokens and more (`head_window_sizes`): words "
            "around a shorter question can talk its verdict away."
        )
    if safety_config.head_pooling != "windows":
        logger.warning(
            f'The safety head of this model pools by "{safety_config.head_pooling}": words around a question can talk '
            'its verdict away. Train one with `head_pooling="windows"` for use.'
        )


def _check_safety_config(checkpoint, safety_config, unexpected: set[str]):
    """Raise where a trained head would do without a part that it was trained with."""
    left = sorted(filter(_is_of_safety, unexpected))
    if left and safety_config.is_trained:
        raise ValueError(
            f"{checkpoint} says that it is trained (`is_trained`), and its config has no place for {len(left)} of its "
            f"safety weights, as {left[0]}: without them its verdicts would be others. Take `safety_config` from the "
            "config.json that it was saved with."
        )


def _check_policies(checkpoint, model):
    """Raise for a policy that does not fit, and warn of one that does less than the default."""
    configs = (getattr(model, "generation_config", None), model.config)
    kept = [policy for policy in (getattr(config, "safety_policy", None) for config in configs) if policy is not None]
    source = f"the policy of {checkpoint}"
    lax = [merge_policies([(source, policy)], model.config.safety_config).lax_settings() for policy in kept]
    if lax and lax[0]:
        logger.warning(
            f"{checkpoint} brings a policy of its own, with which the verdict does less than with the default one: "
            f"{', '.join(lax[0])}. Where a call or an operator's policy says nothing else, it holds."
        )


def warn_of_changes(checkpoint, config, stored: dict | None):
    """Warn of what is not as it was saved. `stored` is the policy in the checkpoint's `generation_config.json`."""
    changed = changed_parts(config, [stored, config.safety_policy])
    if changed:
        logger.warning(
            f"{checkpoint} is not as `save_pretrained` wrote it: its {', '.join(changed)} differ from the digest in "
            "config.json (`safety_digest`). If you made this change, save the model or its config to the same folder "
            "(`config.save_pretrained`), which writes a new digest. If you did not, do not rely on its verdicts "
            "before you know who did."
        )


def _is_of_safety(key: str) -> bool:
    return key.removeprefix("model.").startswith("safety_")


def _check_base_weights(checkpoint, missing: set[str]):
    """Raise where a part of the backbone would start at random, as where its keys have names that nobody knows."""
    lacking = sorted(key for key in missing if not _is_of_safety(key))
    if lacking:
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        raise ValueError(
            f"{checkpoint} has no weights for {', '.join(lacking[:3])}{more} of its backbone, which would be random."
        )


def _check_that_nothing_is_lost(checkpoint, name: str, unexpected: set[str]):
    """Raise where a stock checkpoint holds what the model has no place for. Not among it is what the backbone's own
    classes declare to be ignorable (`_keys_to_ignore_on_load_unexpected`): the library has left that out."""
    lost = sorted(unexpected)
    if lost:
        more = f" and {len(lost) - MAX_NAMES} more" if len(lost) > MAX_NAMES else ""
        raise ValueError(
            f"{checkpoint} has weights that {name} has no place for: {', '.join(lost[:MAX_NAMES])}{more}. Without "
            "them it may answer differently. A newer transformers may know them. If no answer rests on them, load the "
            "checkpoint with its stock class and save it to a new folder, which leaves them out, and start from there."
        )


def stored_policy(checkpoint, **kwargs) -> dict | None:
    """Return the policy in a checkpoint's `generation_config.json`; `kwargs` as those of `from_pretrained`.

    The library drops a broken file without a word, and of a file that it once derived from a config
    (`_from_model_config`) every key that is not its own. Raises `ValueError` for a file that cannot be read, or has a
    key twice."""
    file = _find_file(checkpoint, "generation_config.json", **kwargs)
    return None if file is None else read_policy(file)


def _find_file(checkpoint, name: str, **kwargs) -> str | None:
    if checkpoint is None:
        return None
    return cached_file(
        checkpoint,
        name,
        **{name: kwargs[name] for name in HUB_ARGUMENTS if kwargs.get(name) is not None},
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
    )
