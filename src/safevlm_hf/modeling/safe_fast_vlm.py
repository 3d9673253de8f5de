"""SafeFastVlm: FastVLM with the safety layer (arXiv 2405.13581)."""

import torch
from huggingface_hub.dataclasses import strict
from transformers import FastVlmConfig, FastVlmForConditionalGeneration, FastVlmModel, LlavaProcessor
from transformers.utils.generic import can_return_tuple

from .configuration_safety import SafeConfigMixin
from .modeling_safety import SafeForConditionalGenerationMixin, SafeModelMixin, SafePreTrainedModelMixin
from .processing_safety import SafeProcessorMixin
from .safety_inputs import SafetyInputs
from .safety_modules import to_squares
from .safety_outputs import SafetyImageOutput


@strict
class SafeFastVlmConfig(SafeConfigMixin, FastVlmConfig):
    """A [`FastVlmConfig`] with a `safety_config`; [`SafeConfigMixin`] names the further arguments."""

    model_type = "safe_fast_vlm"


class SafeFastVlmModel(SafeModelMixin, SafePreTrainedModelMixin, FastVlmModel):
    """FastVLM's base model with safety projector, safety tokens, safety head and condition table."""

    config_class = SafeFastVlmConfig
    vllm_gap = None
    pools_tensor = True

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        safety_inputs: SafetyInputs | None = None,
        **kwargs,
    ) -> tuple | SafetyImageOutput:
        """Encode images, give each its verdict, and build its block. The safety projector reads h_i."""
        self.check_images(pixel_values)
        outputs = super().get_image_features(
            pixel_values,
            vision_feature_layer=vision_feature_layer,
            vision_feature_select_strategy=vision_feature_select_strategy,
            return_dict=True,
            **kwargs,
        )
        maps = to_squares(outputs.pooler_output)
        return self.judge_images(outputs, maps, self.split_pixels(pixel_values), safety_inputs)


class SafeFastVlmForConditionalGeneration(
    SafeForConditionalGenerationMixin, SafePreTrainedModelMixin, FastVlmForConditionalGeneration
):
    """FastVLM that sees the image, gets the verdict, chooses the condition, and answers under it."""

    config_class = SafeFastVlmConfig
    safe_model_class = SafeFastVlmModel


class SafeFastVlmProcessor(SafeProcessorMixin, LlavaProcessor):
    """[`LlavaProcessor`] that makes room for the image block, as [`SafeProcessorMixin`] says."""

    config_class = SafeFastVlmConfig

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
    "SafeFastVlmConfig",
    "SafeFastVlmForConditionalGeneration",
    "SafeFastVlmModel",
    "SafeFastVlmProcessor",
]
