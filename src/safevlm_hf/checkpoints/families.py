"""Families of backbones, and the one that a checkpoint belongs to."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin

from ..modeling import (
    safe_fast_vlm,
    safe_gemma3,
    safe_glm4v,
    safe_idefics3,
    safe_internvl,
    safe_llava,
    safe_llava_next,
    safe_llava_onevision,
    safe_mistral3,
    safe_qwen2_5_vl,
    safe_qwen2_vl,
    safe_qwen3_5,
    safe_qwen3_vl,
    safe_smolvlm,
)
from ..modeling.configuration_safety import SafeConfigMixin, SafetyConfig
from ..modeling.modeling_safety import SafeForConditionalGenerationMixin, SafeModelMixin, SafePreTrainedModelMixin
from ..modeling.processing_safety import SafeProcessorMixin


FAMILIES = (
    safe_llava,
    safe_qwen2_vl,
    safe_qwen2_5_vl,
    safe_smolvlm,
    safe_idefics3,
    safe_llava_next,
    safe_llava_onevision,
    safe_fast_vlm,
    safe_qwen3_vl,
    safe_qwen3_5,
    safe_gemma3,
    safe_mistral3,
    safe_internvl,
    safe_glm4v,
)
"""The families' modules, in the order in which they were added. Each names its configuration, generating model, base
model and processor."""


if TYPE_CHECKING:
    # The mixins' methods take fewer arguments by name than the stock ones, and hand the others on.

    class SafeConfig(SafeConfigMixin, PreTrainedConfig):  # type: ignore[misc]
        safety_config: SafetyConfig

    class SafeModel(SafeForConditionalGenerationMixin, SafePreTrainedModelMixin, PreTrainedModel):  # type: ignore[misc]
        config: SafeConfig

    class SafeProcessor(SafeProcessorMixin, ProcessorMixin):  # type: ignore[misc]
        pass

else:
    # Annotations alone name what the families have in common. Their classes share the mixins, and no class of ours.
    SafeConfig, SafeModel, SafeProcessor = PreTrainedConfig, PreTrainedModel, ProcessorMixin


@dataclass(frozen=True)
class Family:
    """The safe classes of one backbone."""

    config: type[SafeConfig]
    model: type[SafeModel]
    base_model: type[SafeModelMixin]
    processor: type[SafeProcessor]


def _family(module) -> Family:
    return Family(*(getattr(module, name) for name in module.__all__))


BY_MODEL_TYPE = {family.config.model_type: family for family in map(_family, FAMILIES)}


def find_family(checkpoint: str, revision: str | None = None) -> Family:
    """
    Return the safe classes for a checkpoint, stock or safe.

    Args:
        checkpoint: folder or Hub id.
        revision: of the Hub's repository.

    Raises:
        ValueError: its backbone is none of ours, or there is no checkpoint.
    """
    try:
        config, _ = PreTrainedConfig.get_config_dict(checkpoint, revision=revision)
    except OSError as error:
        if Path(checkpoint).is_dir():
            raise
        is_unreached = isinstance(error.__cause__, (LocalEntryNotFoundError, ConnectionError))
        reason = "cannot be reached: is there a network?" if is_unreached else f"has no such model: {error}"
        raise ValueError(f"there is no folder {checkpoint} here, and the Hub {reason}") from None
    model_type = config.get("model_type")
    if model_type is None:
        inside = sorted(str(file.parent) for file in Path(checkpoint).glob("*/config.json"))
        hint = f" Is it one of {', '.join(inside)}?" if inside else ""
        raise ValueError(f"{checkpoint} is no checkpoint: it has no config.json with a `model_type`.{hint}")
    # A stock checkpoint has the backbone's own type, which a safe one has with a prefix. It may be of any JSON type.
    family = BY_MODEL_TYPE.get(f"{model_type}") or BY_MODEL_TYPE.get(f"safe_{model_type}")
    if family is None:
        supported = ", ".join(name.removeprefix("safe_") for name in BY_MODEL_TYPE)
        raise ValueError(
            f"{checkpoint} is a {model_type!r}, and the safety layer supports {supported}. A new backbone needs one "
            "file: docs/new_backbone.md walks through one."
        )
    return family
