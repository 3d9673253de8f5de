"""SafeSmolVLM: SmolVLM with the safety layer (arXiv 2405.13581)."""

from huggingface_hub.dataclasses import strict
from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMModel, SmolVLMProcessor
from transformers.processing_utils import MultiModalData

from .configuration_safety import SHORT_BLOCK, SafeConfigMixin
from .modeling_safety import SafeForConditionalGenerationMixin, SafeModelMixin, SafePreTrainedModelMixin
from .processing_safety import SafeProcessorMixin
from .safety_tiles import LastTileConfigMixin, PaddedTilesMixin, TiledProcessorMixin


@strict
class SafeSmolVLMConfig(LastTileConfigMixin, SafeConfigMixin, SmolVLMConfig):
    """A [`SmolVLMConfig`] with a `safety_config`; [`SafeConfigMixin`] names the further arguments."""

    model_type = "safe_smolvlm"
    default_safety = SHORT_BLOCK


class SafeSmolVLMModel(PaddedTilesMixin, SafeModelMixin, SafePreTrainedModelMixin, SmolVLMModel):
    """SmolVLM's base model with safety projector, safety tokens, safety head and condition table."""

    config_class = SafeSmolVLMConfig
    vllm_gap = None


class SafeSmolVLMForConditionalGeneration(
    SafeForConditionalGenerationMixin, SafePreTrainedModelMixin, SmolVLMForConditionalGeneration
):
    """SmolVLM that sees the image, gets the verdict, chooses the condition, and answers under it."""

    config_class = SafeSmolVLMConfig
    safe_model_class = SafeSmolVLMModel

    def __init__(self, config: SafeSmolVLMConfig):
        super().__init__(config)
        self.image_token_id = config.image_token_id
        self.vocab_size = config.text_config.vocab_size


class SafeSmolVLMProcessor(TiledProcessorMixin, SafeProcessorMixin, SmolVLMProcessor):
    """[`SmolVLMProcessor`] that makes room for the image block, as [`SafeProcessorMixin`] says."""

    config_class = SafeSmolVLMConfig

    def __init__(
        self,
        image_processor,
        tokenizer=None,
        video_processor=None,
        image_seq_len: int = 169,
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
            image_seq_len=image_seq_len,
            chat_template=chat_template,
            **kwargs,
        )

    def _get_num_multimodal_tokens(self, image_sizes=None, **kwargs) -> MultiModalData:
        """Count positions for engines, as other processors do; `image_sizes` are (height, width) pairs."""
        if image_sizes is None:
            return MultiModalData()
        grids = [self.image_processor.get_number_of_image_patches(*size, kwargs)[1:] for size in image_sizes]
        texts = [self.replace_image_token({"rows": [[rows]], "cols": [[columns]]}, 0) for rows, columns in grids]
        return MultiModalData(
            num_image_tokens=[len(self.tokenizer.encode(text, add_special_tokens=False)) for text in texts],
            num_image_patches=[rows * columns + 1 for rows, columns in grids],
        )


__all__ = [
    "SafeSmolVLMConfig",
    "SafeSmolVLMForConditionalGeneration",
    "SafeSmolVLMModel",
    "SafeSmolVLMProcessor",
]
