"""SafeMistral3: Mistral Small 3.1 and its like with the safety layer (arXiv 2405.13581)."""

import torch
from huggingface_hub.dataclasses import strict
from transformers import Mistral3Config, Mistral3ForConditionalGeneration, Mistral3Model, PixtralProcessor
from transformers.processing_utils import ProcessingKwargs
from transformers.utils.generic import can_return_tuple

from .configuration_safety import SafeConfigMixin
from .modeling_safety import SafeForConditionalGenerationMixin, SafeModelMixin, SafePreTrainedModelMixin
from .processing_safety import SafeProcessorMixin
from .safety_blocks import Layout, grids_of
from .safety_inputs import SafetyInputs
from .safety_judging import MAX_PIXEL
from .safety_outputs import SafetyImageOutput
from .safety_tiles import parts_of_large_maps


BREAK, END = ("[IMG_BREAK]",), ("[IMG_END]",)  # structure tokens at the ends of rows


@strict
class SafeMistral3Config(SafeConfigMixin, Mistral3Config):
    """A [`Mistral3Config`] with a `safety_config`; [`SafeConfigMixin`] names the further arguments."""

    model_type = "safe_mistral3"


class SafeMistral3Model(SafeModelMixin, SafePreTrainedModelMixin, Mistral3Model):
    """Mistral3's base model with safety projector, safety tokens, safety head and condition table."""

    config_class = SafeMistral3Config
    has_structure_tokens = True

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        image_sizes: torch.LongTensor | None = None,
        vision_feature_layer: int | list[int] | None = None,
        safety_inputs: SafetyInputs | None = None,
        **kwargs,
    ) -> tuple | SafetyImageOutput:
        r"""
        Encode images, give each its verdict, and build its block. The safety projector reads h_i, and its parts where
        an image has more positions than the projector's grid.

        Args:
            pixel_values: (images, channels, height, width), padded to the largest image.
            image_sizes: (images, 2), height and width of each image.
        """
        self.check_images(pixel_values)
        self.check_given("image_sizes", image_sizes)
        # The tower joins all pictures to one sequence: what is no number in one of them would reach the others.
        is_readable = (pixel_values.abs() <= MAX_PIXEL).flatten(1).all(dim=1)[:, None, None, None]
        outputs = super().get_image_features(
            torch.where(is_readable, pixel_values, 0.0),
            image_sizes=image_sizes,
            vision_feature_layer=vision_feature_layer,
            return_dict=True,
            **kwargs,
        )
        side = self.config.vision_config.patch_size * self.config.spatial_merge_size
        maps = [
            features.unflatten(0, (height // side, width // side))
            for features, (height, width) in zip(outputs.pooler_output, image_sizes.tolist())
        ]
        pixels = self.split_pixels(pixel_values, image_sizes)
        parts = parts_of_large_maps(maps, self.config.safety_grid_size)
        return self.judge_images(outputs, maps, pixels, safety_inputs, parts)

    def block_layouts(self, num_features: int) -> list[Layout]:
        """Return the ways in which the processor may write a picture of so many positions."""
        grids = grids_of(num_features)
        return [Layout([columns] * rows + [0], [BREAK] * (rows - 1) + [END]) for rows, columns in grids]

    def split_pixels(self, pixel_values, image_sizes: torch.LongTensor, **image_inputs):  # type: ignore[override]
        return [image[:, :height, :width] for image, (height, width) in zip(pixel_values, image_sizes.tolist())]


class SafeMistral3ForConditionalGeneration(
    SafeForConditionalGenerationMixin, SafePreTrainedModelMixin, Mistral3ForConditionalGeneration
):
    """Mistral3 that sees the image, gets the verdict, chooses the condition, and answers under it."""

    config_class = SafeMistral3Config
    safe_model_class = SafeMistral3Model


class SafeMistral3Processor(SafeProcessorMixin, PixtralProcessor):
    """[`PixtralProcessor`] that makes room for the image block, as [`SafeProcessorMixin`] says."""

    config_class = SafeMistral3Config
    # Before transformers 5.24 the stock one makes tensors even where it is asked not to, as in training.
    valid_processor_kwargs = ProcessingKwargs

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        patch_size: int = 16,
        spatial_merge_size: int = 1,
        chat_template=None,
        image_token="[IMG]",
        image_break_token="[IMG_BREAK]",
        image_end_token="[IMG_END]",
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
            spatial_merge_size=spatial_merge_size,
            chat_template=chat_template,
            image_token=image_token,
            image_break_token=image_break_token,
            image_end_token=image_end_token,
            **kwargs,
        )


__all__ = [
    "SafeMistral3Config",
    "SafeMistral3ForConditionalGeneration",
    "SafeMistral3Model",
    "SafeMistral3Processor",
]
