"""SafeLlava: LLaVA-1.5 with the safety layer (arXiv 2405.13581, on the paper's own backbone)."""

import torch
from huggingface_hub.dataclasses import strict
from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaModel
from transformers.models.llava.processing_llava import LlavaProcessor
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults

from .configuration_safety import SafeConfigMixin
from .modeling_safety import SafeForConditionalGenerationMixin, SafeModelMixin, SafePreTrainedModelMixin
from .processing_safety import SafeProcessorMixin
from .safety_inputs import SafetyInputs
from .safety_modules import to_squares
from .safety_outputs import SafetyImageOutput


# LLaVA-1.5's prompt; each answer ends with EOS, and the answer alone is marked for training.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'] | upper }}: {% endif %}"
    "{% if message['content'] is string %}{% set parts = [{'type': 'text', 'text': message['content']}] %}"
    "{% else %}{% set parts = message['content'] %}{% endif %}"
    "{% for part in parts if part['type'] == 'image' %}{{ '<image>\\n' }}{% endfor %}"
    "{% if message['role'] == 'assistant' %}{% generation %}"
    "{% for part in parts if part['type'] == 'text' %}{{ part['text'] if loop.first else ' ' + part['text'] }}"
    "{% endfor %}{{ eos_token }}{% endgeneration %}"
    "{% else %}{% for part in parts if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


@strict
class SafeLlavaConfig(SafeConfigMixin, LlavaConfig):
    r"""
    Configuration of [`SafeLlavaForConditionalGeneration`]: a [`LlavaConfig`] with a `safety_config`. The arguments are
    those of [`SafeConfigMixin`] and [`LlavaConfig`].

    Example:

    ```python
    >>> config = SafeLlavaConfig.from_base_config(LlavaConfig(), num_safety_tokens=32)
    >>> config.safety_config.num_safety_tokens
    32
    ```
    """

    model_type = "safe_llava"

    @property
    def safety_feature_size(self) -> int:
        """Width of what the safety projector reads, as published: the tower's features (h_o), of all layers."""
        layers = self.vision_feature_layer
        return self.vision_config.hidden_size * (1 if isinstance(layers, int) else len(layers))

    @property
    def safety_projector_hidden_size(self) -> int:
        """Width of the safety projector's stages."""
        if self.safety_config.projector_hidden_size is not None:
            return self.safety_config.projector_hidden_size
        return self.vision_config.hidden_size + self.safety_config.num_safety_tokens

    @property
    def safety_grid_size(self) -> int:
        """Side of the square of safety features (h_s)."""
        if self.safety_config.projector_grid_size is not None:
            return self.safety_config.projector_grid_size
        return _side(self.vision_config.image_size) // _side(self.vision_config.patch_size)


def _side(size) -> int:
    return size if isinstance(size, int) else size[0]


class SafeLlavaModel(SafeModelMixin, SafePreTrainedModelMixin, LlavaModel):
    """LLaVA's base model with safety projector, safety tokens, safety head and condition table."""

    config_class = SafeLlavaConfig
    vllm_gap = None

    @property
    def verdict_children(self) -> list[str]:
        # The safety projector reads h_o, in front of the connector.
        return ["vision_tower"]

    @merge_with_config_defaults
    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        image_sizes: torch.Tensor | None = None,
        safety_inputs: SafetyInputs | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | SafetyImageOutput:
        r"""
        Encode images, give each its verdict, and build its block. The safety projector reads h_o, as published.

        Args:
            pixel_values: (images, channels, height, width).
            safety_inputs ([`SafetyInputs`], *optional*): questions and policy. Without them the verdict is on the
                image alone, under the default policy.

        Returns:
            [`SafetyImageOutput`].
        """
        if image_sizes is not None:
            raise ValueError("SafeLlava takes images of one size, got `image_sizes`: resize them in the processor.")
        self.check_images(pixel_values)
        outputs = super().get_image_features(
            pixel_values,
            vision_feature_layer=vision_feature_layer,
            vision_feature_select_strategy=vision_feature_select_strategy,
            return_dict=True,
            **kwargs,
        )
        layers = [vision_feature_layer] if isinstance(vision_feature_layer, int) else vision_feature_layer
        vision_features = torch.cat([outputs.hidden_states[layer] for layer in layers], dim=-1)
        if vision_feature_select_strategy == "default":
            vision_features = vision_features[:, 1:]
        return self.judge_images(outputs, to_squares(vision_features), self.split_pixels(pixel_values), safety_inputs)


class SafeLlavaForConditionalGeneration(
    SafeForConditionalGenerationMixin, SafePreTrainedModelMixin, LlavaForConditionalGeneration
):
    """LLaVA that sees the image, gets the verdict, chooses the condition, and answers under it."""

    config_class = SafeLlavaConfig
    safe_model_class = SafeLlavaModel


class SafeLlavaProcessor(SafeProcessorMixin, LlavaProcessor):
    r"""
    [`LlavaProcessor`] that expands each `<image>` to SafeLlava's block, [ s(2) | h_i | c ]. The arguments are those of
    [`SafeProcessorMixin`] and [`LlavaProcessor`].
    """

    config_class = SafeLlavaConfig

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
            chat_template=chat_template or CHAT_TEMPLATE,
            image_token=image_token,
            num_additional_image_tokens=num_additional_image_tokens,
            **kwargs,
        )


__all__ = [
    "SafeLlavaConfig",
    "SafeLlavaForConditionalGeneration",
    "SafeLlavaModel",
    "SafeLlavaProcessor",
]
