"""SafeQwen2_5_VL: Qwen2.5-VL with the safety layer (arXiv 2405.13581)."""

from huggingface_hub.dataclasses import strict
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLModel, Qwen2_5_VLProcessor

from .configuration_safety import SafeConfigMixin
from .modeling_safety import SafeForConditionalGenerationMixin, SafeModelMixin, SafePreTrainedModelMixin
from .processing_safety import SafeProcessorMixin
from .safety_mrope import MRopeMixin


@strict
class SafeQwen2_5_VLConfig(SafeConfigMixin, Qwen2_5_VLConfig):
    """A [`Qwen2_5_VLConfig`] with a `safety_config`; [`SafeConfigMixin`] names the further arguments."""

    model_type = "safe_qwen2_5_vl"


class SafeQwen2_5_VLModel(MRopeMixin, SafeModelMixin, SafePreTrainedModelMixin, Qwen2_5_VLModel):
    """Qwen2.5-VL's base model with safety projector, safety tokens, safety head and condition table."""

    config_class = SafeQwen2_5_VLConfig
    vllm_gap = None


class SafeQwen2_5_VLForConditionalGeneration(
    SafeForConditionalGenerationMixin, SafePreTrainedModelMixin, Qwen2_5_VLForConditionalGeneration
):
    """Qwen2.5-VL that sees the image, gets the verdict, chooses the condition, and answers under it."""

    config_class = SafeQwen2_5_VLConfig
    safe_model_class = SafeQwen2_5_VLModel


class SafeQwen2_5_VLProcessor(SafeProcessorMixin, Qwen2_5_VLProcessor):
    """[`Qwen2_5_VLProcessor`] that makes room for the image block, as [`SafeProcessorMixin`] says."""

    config_class = SafeQwen2_5_VLConfig

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
    "SafeQwen2_5_VLConfig",
    "SafeQwen2_5_VLForConditionalGeneration",
    "SafeQwen2_5_VLModel",
    "SafeQwen2_5_VLProcessor",
]
