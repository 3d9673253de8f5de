"""SafeLlavaOnevision: LLaVA-OneVision with the safety layer (arXiv 2405.13581)."""

import torch
from huggingface_hub.dataclasses import strict
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionModel,
    LlavaOnevisionProcessor,
)
from transformers.utils.generic import can_return_tuple

from .configuration_safety import SafeConfigMixin
from .modeling_safety import SafeForConditionalGenerationMixin, SafeModelMixin, SafePreTrainedModelMixin
from .processing_safety import SafeProcessorMixin
from .safety_inputs import SafetyInputs
from .safety_outputs import SafetyImageOutput
from .safety_tiles import FirstTileMixin


@strict
class SafeLlavaOnevisionConfig(SafeConfigMixin, LlavaOnevisionConfig):
    """A [`LlavaOnevisionConfig`] with a `safety_config`; [`SafeConfigMixin`] names the further arguments."""

    model_type = "safe_llava_onevision"


class SafeLlavaOnevisionModel(FirstTileMixin, SafeModelMixin, SafePreTrainedModelMixin, LlavaOnevisionModel):
    """LLaVA-OneVision's base model with safety projector, safety tokens, safety head and condition table."""

    config_class = SafeLlavaOnevisionConfig
    vllm_gap = None

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        image_sizes: torch.Tensor | None = None,
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        vision_aspect_ratio: str | None = None,
        batch_num_images: torch.LongTensor | None = None,
        safety_inputs: SafetyInputs | None = None,
        **kwargs,
    ) -> tuple | SafetyImageOutput:
        """Encode images as the backbone does, with the verdict on each image in its block."""
        self.check_images(pixel_values)
        self.check_given("image_sizes", image_sizes)
        outputs = super().get_image_features(
            pixel_values,
            image_sizes,
            vision_feature_layer=vision_feature_layer,
            vision_feature_select_strategy=vision_feature_select_strategy,
            vision_aspect_ratio=vision_aspect_ratio,
            batch_num_images=batch_num_images,
            return_dict=True,
            **kwargs,
        )
        return self.judge_first_tiles(outputs, pixel_values, safety_inputs)


class SafeLlavaOnevisionForConditionalGeneration(
    SafeForConditionalGenerationMixin, SafePreTrainedModelMixin, LlavaOnevisionForConditionalGeneration
):
    """LLaVA-OneVision that sees the image, gets the verdict, chooses the condition, and answers under it."""

    config_class = SafeLlavaOnevisionConfig
    safe_model_class = SafeLlavaOnevisionModel


class SafeLlavaOnevisionProcessor(SafeProcessorMixin, LlavaOnevisionProcessor):
    """[`LlavaOnevisionProcessor`] that makes room for the image block, as [`SafeProcessorMixin`] says."""

    config_class = SafeLlavaOnevisionConfig

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        video_processor=None,
        num_image_tokens=None,
        vision_feature_select_strategy=None,
        chat_template=None,
        image_token="<image>",
        video_token="<video>",
        vision_aspect_ratio="anyres_max_9",
        categories=None,
        levels=None,
        num_safety_tokens=None,
        num_condition_tokens=None,
        **kwargs,
    ):
        self.set_safety(categories, levels, num_safety_tokens, num_condition_tokens)
        super().__init__(
            image_processor,
            tokenizer,
            video_processor=video_processor,
            num_image_tokens=num_image_tokens,
            vision_feature_select_strategy=vision_feature_select_strategy,
            chat_template=chat_template,
            image_token=image_token,
            video_token=video_token,
            vision_aspect_ratio=vision_aspect_ratio,
            **kwargs,
        )


__all__ = [
    "SafeLlavaOnevisionConfig",
    "SafeLlavaOnevisionForConditionalGeneration",
    "SafeLlavaOnevisionModel",
    "SafeLlavaOnevisionProcessor",
]
