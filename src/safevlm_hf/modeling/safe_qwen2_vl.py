"""SafeQwen2VL: Qwen2-VL with the safety layer (arXiv 2405.13581)."""

from huggingface_hub.dataclasses import strict
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLModel, Qwen2VLProcessor

from .configuration_safety import SafeConfigMixin
from .modeling_safety import SafeForConditionalGenerationMixin, SafeModelMixin, SafePreTrainedModelMixin
from .processing_safety import SafeProcessorMixin
from .safety_mrope import MRopeMixin


@strict
class SafeQwen2VLConfig(SafeConfigMixin, Qwen2VLConfig):
    """A [`Qwen2VLConfig`] with a `safety_config`; [`SafeConfigMixin`] names the further arguments."""

    model_type = "safe_qwen2_vl"


class SafeQwen2VLModel(MRopeMixin, SafeModelMixin, SafePreTrainedModelMixin, Qwen2VLModel):
    """Qwen2-VL's base model with safety projector, safety tokens, safety head and condition table."""

    config_class = SafeQwen2VLConfig
    vllm_gap = None


class SafeQwen2VLForConditionalGeneration(
    SafeForConditionalGenerationMixin, SafePreTrainedModelMixin, Qwen2VLForConditionalGeneration
):
    """Qwen2-VL that sees the image, gets the verdict, chooses the condition, and answers under it."""

    config_class = SafeQwen2VLConfig
    safe_model_class = SafeQwen2VLModel


class SafeQwen2VLProcessor(SafeProcessorMixin, Qwen2VLProcessor):
    """[`Qwen2VLProcessor`] that makes room for the image block, as [`SafeProcessorMixin`] says."""

    config_class = SafeQwen2VLConfig

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
    "SafeQwen2VLConfig",
    "SafeQwen2VLForConditionalGeneration",
    "SafeQwen2VLModel",
    "SafeQwen2VLProcessor",
]
