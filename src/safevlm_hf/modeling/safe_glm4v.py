"""SafeGlm4v: GLM-4.1V with the safety layer (arXiv 2405.13581)."""

from huggingface_hub.dataclasses import strict
from transformers import GenerationMixin, Glm4vConfig, Glm4vForConditionalGeneration, Glm4vModel, Glm4vProcessor

from .configuration_safety import SafeConfigMixin
from .modeling_safety import SafeForConditionalGenerationMixin, SafeModelMixin, SafePreTrainedModelMixin
from .processing_safety import SafeProcessorMixin
from .safety_mrope import MRopeMixin


@strict
class SafeGlm4vConfig(SafeConfigMixin, Glm4vConfig):
    """A [`Glm4vConfig`] with a `safety_config`; [`SafeConfigMixin`] names the further arguments."""

    model_type = "safe_glm4v"


class SafeGlm4vModel(MRopeMixin, SafeModelMixin, SafePreTrainedModelMixin, Glm4vModel):
    """GLM-4.1V's base model with safety projector, safety tokens, safety head and condition table."""

    config_class = SafeGlm4vConfig
    vllm_gap = None


class SafeGlm4vForConditionalGeneration(
    SafeForConditionalGenerationMixin, SafePreTrainedModelMixin, Glm4vForConditionalGeneration
):
    """GLM-4.1V that sees the image, gets the verdict, chooses the condition, and answers under it."""

    config_class = SafeGlm4vConfig
    safe_model_class = SafeGlm4vModel
    # The stock one gives beams the images A, A, B, B where they need A, B, A, B: an answer to, and under the verdict
    # on, another picture. It differs only for videos, which have no verdict.
    _expand_multimodal_outputs = GenerationMixin._expand_multimodal_outputs


class SafeGlm4vProcessor(SafeProcessorMixin, Glm4vProcessor):
    """[`Glm4vProcessor`] that makes room for the image block, as [`SafeProcessorMixin`] says."""

    config_class = SafeGlm4vConfig

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


__all__ = ["SafeGlm4vConfig", "SafeGlm4vForConditionalGeneration", "SafeGlm4vModel", "SafeGlm4vProcessor"]
