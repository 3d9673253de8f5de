"""SafeLlavaNext: LLaVA-NeXT with the safety layer (arXiv 2405.13581)."""

import torch
from huggingface_hub.dataclasses import strict
from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration, LlavaNextModel, LlavaNextProcessor
from transformers.utils.generic import can_return_tuple

from .configuration_safety import SafeConfigMixin
from .modeling_safety import SafeForConditionalGenerationMixin, SafeModelMixin, SafePreTrainedModelMixin
from .processing_safety import SafeProcessorMixin
from .safety_inputs import SafetyInputs
from .safety_outputs import SafetyImageOutput
from .safety_tiles import FirstTileMixin


@strict
class SafeLlavaNextConfig(SafeConfigMixin, LlavaNextConfig):
    """A [`LlavaNextConfig`] with a `safety_config`; [`SafeConfigMixin`] names the further arguments."""

    model_type = "safe_llava_next"


class SafeLlavaNextModel(FirstTileMixin, SafeModelMixin, SafePreTrainedModelMixin, LlavaNextModel):
    """LLaVA-NeXT's base model with safety projector, safety tokens, safety head and condition table."""

    config_class = SafeLlavaNextConfig
    vllm_gap = None

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        image_sizes: torch.Tensor | None = None,
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
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
            return_dict=True,
            **kwargs,
        )
        return self.judge_first_tiles(outputs, pixel_values, safety_inputs)


class SafeLlavaNextForConditionalGeneration(
    SafeForConditionalGenerationMixin, SafePreTrainedModelMixin, LlavaNextForConditionalGeneration
):
    """LLaVA-NeXT that sees the image, gets the verdict, chooses the condition, and answers under it."""

    config_class = SafeLlavaNextConfig
    safe_model_class = SafeLlavaNextModel


class SafeLlavaNextProcessor(SafeProcessorMixin, LlavaNextProcessor):
    """[`LlavaNextProcessor`] that makes room for the image block, as [`SafeProcessorMixin`] says."""

    config_class = SafeLlavaNextConfig

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        patch_size=None,
        vision_feature_select_strategy=None,
        chat_template=None,
        image_token="<image>",
        num_additional_image_tokens=0,
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
            patch_size=patch_size,
            vision_feature_select_strategy=vision_feature_select_strategy,
            chat_template=chat_template,
            image_token=image_token,
            num_additional_image_tokens=num_additional_image_tokens,
            **kwargs,
        )


__all__ = [
    "SafeLlavaNextConfig",
    "SafeLlavaNextForConditionalGeneration",
    "SafeLlavaNextModel",
    "SafeLlavaNextProcessor",
]
