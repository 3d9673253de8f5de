"""SafeQwen3VL: Qwen3-VL with the safety layer (arXiv 2405.13581)."""

from huggingface_hub.dataclasses import strict
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLModel, Qwen3VLProcessor

from .configuration_safety import SafeConfigMixin
from .modeling_safety import SafeForConditionalGenerationMixin, SafeModelMixin, SafePreTrainedModelMixin
from .processing_safety import SafeProcessorMixin
from .safety_mrope import MRopeMixin


@strict
class SafeQwen3VLConfig(SafeConfigMixin, Qwen3VLConfig):
    """A [`Qwen3VLConfig`] with a `safety_config`; [`SafeConfigMixin`] names the further arguments."""

    model_type = "safe_qwen3_vl"


class SafeQwen3VLModel(MRopeMixin, SafeModelMixin, SafePreTrainedModelMixin, Qwen3VLModel):
    """Qwen3-VL's base model with safety projector, safety tokens, safety head and condition table."""

    config_class = SafeQwen3VLConfig
    vllm_gap = "its Transformers backend leaves out the deepstack features"


class SafeQwen3VLForConditionalGeneration(
    SafeForConditionalGenerationMixin, SafePreTrainedModelMixin, Qwen3VLForConditionalGeneration
):
    """Qwen3-VL that sees the image, gets the verdict, chooses the condition, and answers under it."""

    config_class = SafeQwen3VLConfig
    safe_model_class = SafeQwen3VLModel


class SafeQwen3VLProcessor(SafeProcessorMixin, Qwen3VLProcessor):
    """[`Qwen3VLProcessor`] that makes room for the image block, as [`SafeProcessorMixin`] says."""

    config_class = SafeQwen3VLConfig

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        video_processor=None,
        chat_template=None,
        categories=None,
        levels=None,
        num_safety_tokens=None,
        num_condition_tokens=None,
        **kwargs,
    ):
        self.set_safety(categories, levels, num_safety_tokens, num_condition_tokens)
        super().__init__(image_processor, tokenizer, video_processor, chat_template=chat_template, **kwargs)


__all__ = [
    "SafeQwen3VLConfig",
    "SafeQwen3VLForConditionalGeneration",
    "SafeQwen3VLModel",
    "SafeQwen3VLProcessor",
]
