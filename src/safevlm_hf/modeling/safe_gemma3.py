"""SafeGemma3: Gemma 3 with the safety layer (arXiv 2405.13581)."""

import torch
from huggingface_hub.dataclasses import strict
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3Model, Gemma3Processor
from transformers.utils.generic import can_return_tuple

from .configuration_safety import SafeConfigMixin
from .modeling_safety import SafeForConditionalGenerationMixin, SafeModelMixin, SafePreTrainedModelMixin
from .processing_safety import SafeProcessorMixin
from .safety_blocks import Layout
from .safety_inputs import SafetyInputs
from .safety_modules import to_squares
from .safety_outputs import SafetyImageOutput


@strict
class SafeGemma3Config(SafeConfigMixin, Gemma3Config):
    """A [`Gemma3Config`] with a `safety_config`; [`SafeConfigMixin`] names the further arguments."""

    model_type = "safe_gemma3"


class SafeGemma3Model(SafeModelMixin, SafePreTrainedModelMixin, Gemma3Model):
    """Gemma 3's base model with safety projector, safety tokens, safety head and condition table."""

    config_class = SafeGemma3Config
    pools_tensor = True
    has_structure_tokens = True
    places_images_by_prompt = True

    @can_return_tuple
    def get_image_features(
        self, pixel_values: torch.Tensor, safety_inputs: SafetyInputs | None = None, **kwargs
    ) -> tuple | SafetyImageOutput:
        """Encode images, give each its verdict, and build its block. The safety projector reads h_i."""
        self.check_images(pixel_values)
        outputs = super().get_image_features(pixel_values, return_dict=True, **kwargs)
        maps = to_squares(outputs.pooler_output)
        return self.judge_images(outputs, maps, self.split_pixels(pixel_values), safety_inputs)

    def block_layouts(self, num_features: int) -> list[Layout]:
        """Return the ways in which the processor may write a picture of so many positions."""
        between = [("\n", "\n", "<start_of_image>"), ("<end_of_image>", "\n", "\n")]
        return [Layout([0, num_features, 0], between)]

    def check_arguments(self, arguments: dict):
        # They say which positions see each other in both directions.
        self.check_given("token_type_ids", arguments.get("token_type_ids"))


class SafeGemma3ForConditionalGeneration(
    SafeForConditionalGenerationMixin, SafePreTrainedModelMixin, Gemma3ForConditionalGeneration
):
    """Gemma 3 that sees the image, gets the verdict, chooses the condition, and answers under it."""

    config_class = SafeGemma3Config
    safe_model_class = SafeGemma3Model


class SafeGemma3Processor(SafeProcessorMixin, Gemma3Processor):
    """[`Gemma3Processor`] that makes room for the image block, as [`SafeProcessorMixin`] says. It does not pan and
    scan: each crop would be a picture of its own, which nobody judges as a part of the whole."""

    config_class = SafeGemma3Config

    def __init__(
        self,
        image_processor,
        tokenizer,
        chat_template=None,
        image_seq_length: int = 256,
        categories=None,
        levels=None,
        num_safety_tokens=None,
        num_condition_tokens=None,
        **kwargs,
    ):
        self.set_safety(categories, levels, num_safety_tokens, num_condition_tokens)
        super().__init__(
            image_processor, tokenizer, chat_template=chat_template, image_seq_length=image_seq_length, **kwargs
        )

    @property
    def placeholder(self) -> str:
        return self.tokenizer.image_token

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs) -> str:
        if image_inputs["num_crops"][image_idx]:
            raise ValueError("There is no verdict on the crops of a picture: pass `do_pan_and_scan=False`.")
        return super().replace_image_token(image_inputs, image_idx, **kwargs)


__all__ = [
    "SafeGemma3Config",
    "SafeGemma3ForConditionalGeneration",
    "SafeGemma3Model",
    "SafeGemma3Processor",
]
