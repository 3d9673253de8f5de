"""SafeInternVL: InternVL 2.5, 3 and 3.5 with the safety layer (arXiv 2405.13581)."""

import torch
from huggingface_hub.dataclasses import strict
from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLModel, InternVLProcessor
from transformers.utils.generic import can_return_tuple

from .configuration_safety import SafeConfigMixin
from .modeling_safety import SafeForConditionalGenerationMixin, SafeModelMixin, SafePreTrainedModelMixin
from .processing_safety import SafeProcessorMixin, TextOffsetsMixin
from .safety_blocks import Layout
from .safety_inputs import SafetyInputs
from .safety_outputs import SafetyImageOutput
from .safety_tiles import LastTileConfigMixin, LastTileMixin, TiledProcessorMixin


@strict
class SafeInternVLConfig(LastTileConfigMixin, SafeConfigMixin, InternVLConfig):
    """An [`InternVLConfig`] with a `safety_config`; [`SafeConfigMixin`] names the further arguments."""

    model_type = "safe_internvl"

    @property
    def tile_side(self) -> int:
        tower = self.vision_config
        return int(tower.image_size[0] // tower.patch_size[0] * self.downsample_ratio)


class SafeInternVLModel(LastTileMixin, SafeModelMixin, SafePreTrainedModelMixin, InternVLModel):
    """InternVL's base model with safety projector, safety tokens, safety head and condition table."""

    config_class = SafeInternVLConfig
    vllm_gap = None

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        safety_num_tiles: torch.LongTensor | None = None,
        safety_inputs: SafetyInputs | None = None,
        **kwargs,
    ) -> tuple | SafetyImageOutput:
        r"""
        Encode images, give each its verdict, and build its block. The safety projector reads the whole picture and its
        tiles, where small print can be read (h_i).

        Args:
            pixel_values: (tiles of all images, channels, height, width).
            safety_num_tiles: (images,), tiles of each image.
        """
        self.check_images(pixel_values)
        pixels = self.split_pixels(pixel_values, safety_num_tiles)
        outputs = super().get_image_features(
            pixel_values,
            vision_feature_layer=vision_feature_layer,
            vision_feature_select_strategy=vision_feature_select_strategy,
            return_dict=True,
            **kwargs,
        )
        return self.judge_last_tiles(outputs, outputs.pooler_output, pixels, safety_inputs)

    def block_layouts(self, num_features: int) -> list[Layout]:
        """Return the ways in which the processor may write a picture of so many positions."""
        return [Layout([0, num_features, 0], [("<img>",), ("</img>",)])]

    def split_pixels(
        self, pixel_values: torch.Tensor, safety_num_tiles: torch.LongTensor | None = None, **image_inputs
    ) -> list[torch.Tensor]:
        return self.split_tiles(pixel_values, safety_num_tiles)


class SafeInternVLForConditionalGeneration(
    SafeForConditionalGenerationMixin, SafePreTrainedModelMixin, InternVLForConditionalGeneration
):
    """InternVL that sees the image, gets the verdict, chooses the condition, and answers under it."""

    config_class = SafeInternVLConfig
    safe_model_class = SafeInternVLModel


class SafeInternVLProcessor(TiledProcessorMixin, SafeProcessorMixin, TextOffsetsMixin, InternVLProcessor):
    """[`InternVLProcessor`] that makes room for the image block, as [`SafeProcessorMixin`] says."""

    config_class = SafeInternVLConfig

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        video_processor=None,
        image_seq_length: int = 256,
        chat_template=None,
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
            video_processor,
            image_seq_length=image_seq_length,
            chat_template=chat_template,
            **kwargs,
        )

    def count_tiles(self, processed: dict) -> list[int]:
        return [int(number) for number in processed["num_patches"]]


__all__ = [
    "SafeInternVLConfig",
    "SafeInternVLForConditionalGeneration",
    "SafeInternVLModel",
    "SafeInternVLProcessor",
]
