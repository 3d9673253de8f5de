"""SafeIdefics3: Idefics3 with the safety layer (arXiv 2405.13581)."""

from huggingface_hub.dataclasses import strict
from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Model, Idefics3Processor

from .configuration_safety import SHORT_BLOCK, SafeConfigMixin
from .modeling_safety import SafeForConditionalGenerationMixin, SafeModelMixin, SafePreTrainedModelMixin
from .processing_safety import SafeProcessorMixin, TextOffsetsMixin
from .safety_tiles import LastTileConfigMixin, PaddedTilesMixin, TiledProcessorMixin


@strict
class SafeIdefics3Config(LastTileConfigMixin, SafeConfigMixin, Idefics3Config):
    """A [`Idefics3Config`] with a `safety_config`; [`SafeConfigMixin`] names the further arguments."""

    model_type = "safe_idefics3"
    default_safety = SHORT_BLOCK


class SafeIdefics3Model(PaddedTilesMixin, SafeModelMixin, SafePreTrainedModelMixin, Idefics3Model):
    """Idefics3's base model with safety projector, safety tokens, safety head and condition table."""

    config_class = SafeIdefics3Config
    vllm_gap = None


class SafeIdefics3ForConditionalGeneration(
    SafeForConditionalGenerationMixin, SafePreTrainedModelMixin, Idefics3ForConditionalGeneration
):
    """Idefics3 that sees the image, gets the verdict, chooses the condition, and answers under it."""

    config_class = SafeIdefics3Config
    safe_model_class = SafeIdefics3Model

    def __init__(self, config: SafeIdefics3Config):
        super().__init__(config)
        self.image_token_id = config.image_token_id
        self.vocab_size = config.text_config.vocab_size


class SafeIdefics3Processor(TiledProcessorMixin, SafeProcessorMixin, TextOffsetsMixin, Idefics3Processor):
    """[`Idefics3Processor`] that makes room for the image block, as [`SafeProcessorMixin`] says."""

    config_class = SafeIdefics3Config

    def __init__(
        self,
        image_processor,
        tokenizer=None,
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
            image_processor, tokenizer, image_seq_len=image_seq_len, chat_template=chat_template, **kwargs
        )


__all__ = [
    "SafeIdefics3Config",
    "SafeIdefics3ForConditionalGeneration",
    "SafeIdefics3Model",
    "SafeIdefics3Processor",
]
