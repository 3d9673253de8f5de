"""SafeQwen3_5: Qwen3.5 with the safety layer (arXiv 2405.13581)."""

from huggingface_hub.dataclasses import strict
from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration, Qwen3_5Model, Qwen3VLProcessor

from .configuration_safety import SafeConfigMixin
from .modeling_safety import SafeForConditionalGenerationMixin, SafeModelMixin, SafePreTrainedModelMixin
from .processing_safety import SafeProcessorMixin
from .safety_mrope import MRopeMixin


@strict
class SafeQwen3_5Config(SafeConfigMixin, Qwen3_5Config):
    """A [`Qwen3_5Config`] with a `safety_config`; [`SafeConfigMixin`] names the further arguments."""

    model_type = "safe_qwen3_5"


class SafeQwen3_5Model(MRopeMixin, SafeModelMixin, SafePreTrainedModelMixin, Qwen3_5Model):
    """Qwen3.5's base model with safety projector, safety tokens, safety head and condition table."""

    config_class = SafeQwen3_5Config
    vllm_gap = "its Transformers backend does not run linear attention"


class SafeQwen3_5ForConditionalGeneration(
    SafeForConditionalGenerationMixin, SafePreTrainedModelMixin, Qwen3_5ForConditionalGeneration
):
    """Qwen3.5 that sees the image, gets the verdict, chooses the condition, and answers under it."""

    config_class = SafeQwen3_5Config
    safe_model_class = SafeQwen3_5Model


class SafeQwen3_5Processor(SafeProcessorMixin, Qwen3VLProcessor):
    """[`Qwen3VLProcessor`] that makes room for the image block, as [`SafeProcessorMixin`] says."""

    config_class = SafeQwen3_5Config

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
    "SafeQwen3_5Config",
    "SafeQwen3_5ForConditionalGeneration",
    "SafeQwen3_5Model",
    "SafeQwen3_5Processor",
]
