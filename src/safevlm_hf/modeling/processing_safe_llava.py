"""Processor of SafeLlava: room for the image block in the prompt, and verdicts by name."""

import re
from collections.abc import Mapping

from transformers import PreTrainedConfig
from transformers.image_utils import make_flat_list_of_images
from transformers.models.llava.processing_llava import LlavaProcessor
from transformers.processing_utils import MultiModalData

from .configuration_safe_llava import AUTO_MAP, CarriesCodeMixin, SafetyConfig, save_code
from .image_loading import load_images
from .safety_policy import SafetyVerdict, verdicts_from_logits


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
SAFETY_FIELDS = ("categories", "levels", "num_safety_tokens", "num_condition_tokens")


class SafeLlavaProcessor(LlavaProcessor, CarriesCodeMixin):
    r"""
    [`LlavaProcessor`] that expands each `<image>` to SafeLlava's block, [ s(2) | h_i | c ], and pads on the left.
    Images (paths, URLs, base64, PIL) are read upright, with 8 bits, the first frame, on white; what cannot be read
    raises.

    Args:
        categories (`list[str]`, *optional*), levels (`list[str]`, *optional*): names, as in [`SafetyConfig`].
        num_safety_tokens (`int`, *optional*), num_condition_tokens (`int`, *optional*): as in [`SafetyConfig`].
            `from_pretrained` reads all four from the checkpoint's own `config.json`: processor and model agree.
    """

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
        given = {
            "categories": categories,
            "levels": levels,
            "num_safety_tokens": num_safety_tokens,
            "num_condition_tokens": num_condition_tokens,
        }
        safety_config = SafetyConfig(**{name: value for name, value in given.items() if value is not None})
        for name in SAFETY_FIELDS:
            setattr(self, name, getattr(safety_config, name))
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
        self.tokenizer.padding_side = "left"

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path, *args, safety_config: SafetyConfig | None = None, **kwargs
    ):
        """As [`ProcessorMixin.from_pretrained`]; `safety_config` is for a model that has not been saved yet."""
        processor = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        for name in SAFETY_FIELDS if safety_config is not None else ():
            setattr(processor, name, getattr(safety_config, name))
        return processor

    @classmethod
    def get_processor_dict(cls, pretrained_model_name_or_path, **kwargs):
        processor_dict, kwargs = super().get_processor_dict(pretrained_model_name_or_path, **kwargs)
        hub_kwargs = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
        try:
            config, _ = PreTrainedConfig.get_config_dict(
                pretrained_model_name_or_path, **{name: kwargs[name] for name in hub_kwargs if name in kwargs}
            )
        except OSError:  # a folder that holds a processor alone
            config = {}
        safety_config = config.get("safety_config") or {}
        processor_dict.update({name: safety_config[name] for name in SAFETY_FIELDS if name in safety_config})
        return processor_dict, kwargs

    def save_pretrained(self, save_directory, **kwargs):
        save_code(save_directory)
        self.auto_map = {"AutoProcessor": AUTO_MAP["AutoProcessor"]}
        try:
            return super().save_pretrained(save_directory, **kwargs)
        finally:
            del self.auto_map

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs) -> str:
        extra = self.num_safety_tokens + self.num_condition_tokens
        return super().replace_image_token(image_inputs, image_idx, **kwargs) + self.image_token * extra

    def _get_num_multimodal_tokens(self, image_sizes=None, **kwargs):
        data = super()._get_num_multimodal_tokens(image_sizes=image_sizes, **kwargs)
        if image_sizes is None:
            return data
        extra = self.num_safety_tokens + self.num_condition_tokens
        return MultiModalData(
            num_image_tokens=[tokens + extra for tokens in data.num_image_tokens],
            num_image_patches=data.num_image_patches,
        )

    def prepare_inputs_layout(self, images=None, text=None, videos=None, audio=None, **kwargs):
        # The library's own loading depends on the version and on the form of an image: saturated 16 bits, every frame
        # of an animation, EXIF now and then.
        images = None if images is None else load_images(images)
        return super().prepare_inputs_layout(images=images, text=text, videos=videos, audio=audio, **kwargs)

    def validate_inputs(self, images=None, text=None, videos=None, audio=None, **kwargs):
        self._check_image_counts(images, text)
        super().validate_inputs(images=images, text=text, videos=videos, audio=audio, **kwargs)

    def _check_image_counts(self, images, text):
        if text is None or not all(isinstance(sample, str) for sample in text):
            return
        text = [text] if isinstance(text, str) else text
        in_text = [sample.count(self.image_token) for sample in text]
        nested = isinstance(images, (list, tuple)) and len(images) == len(text)
        if nested and all(isinstance(of_sample, (list, tuple)) for of_sample in images):
            given = [len(of_sample) for of_sample in images]
        else:
            in_text, given = sum(in_text), len(make_flat_list_of_images(images)) if images is not None else 0
        if in_text != given:
            raise ValueError(
                f"The number of {self.image_token} tokens in the prompts should be the same as the number of images "
                f"passed, got {in_text} tokens and {given} images. Text typed by a user may hold none: "
                "`apply_chat_template` makes such text harmless."
            )

    def apply_chat_template(self, conversation, chat_template=None, **kwargs):
        """As [`ProcessorMixin.apply_chat_template`]; special tokens inside the messages' text are made plain text, so
        that no text adds an image position, moves one, or ends a turn."""
        for name in ("tools", "documents"):
            if kwargs.get(name) is not None:
                kwargs[name] = self._neutralise(kwargs[name])
        return super().apply_chat_template(self._neutralise(conversation), chat_template, **kwargs)

    def _neutralise(self, value):
        if isinstance(value, str):
            return self._neutralise_text(value)
        if isinstance(value, Mapping):
            # Of an image part every value but `text` says where the pixels are; templates print none of it.
            is_image = str(value.get("type")).startswith("image")
            kept = set(value) - {"text"} if is_image else {"type"}
            return {name: item if name in kept else self._neutralise(item) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._neutralise(item) for item in value]
        return value

    def _neutralise_text(self, text: str) -> str:
        added = [token.content for token in self.tokenizer.added_tokens_decoder.values()]
        tokens = {token for token in [self.image_token, *self.tokenizer.all_special_tokens, *added] if len(token) > 1}
        # A run of blanks stays one however it is broken, and means nothing to a prompt.
        tokens = {token for token in tokens if token not in f"{token[0]} {token[1:]}"}
        pattern = re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True)))
        # A space after the first character breaks a token; broken ones may leave another to find.
        broken = pattern.sub(_break, text)
        while broken != text:
            text, broken = broken, pattern.sub(_break, broken)
        return text

    def post_process_safety(self, outputs) -> list[SafetyVerdict]:
        """
        Verdicts by name.

        Args:
            outputs: what `assess`, `generate(..., return_dict_in_generate=True)` or `forward` returned.

        Returns:
            One [`SafetyVerdict`] an image, in the order of the images; none where no image was seen.
        """
        level_logits = getattr(outputs, "safety_level_logits", None)
        if level_logits is None:
            return []
        category_logits = outputs.safety_category_logits
        config = SafetyConfig(**{name: getattr(self, name) for name in SAFETY_FIELDS})
        if level_logits.shape[-1] != len(self.levels) or category_logits.shape[-1] != len(self.categories):
            raise ValueError(
                f"The verdicts have {level_logits.shape[-1]} levels and {category_logits.shape[-1]} categories, this "
                f"processor names {len(self.levels)} and {len(self.categories)}: load it from the model's checkpoint."
            )
        rows = getattr(outputs, "safety_image_rows", None)
        conditions = getattr(outputs, "safety_condition_ids", None)
        return verdicts_from_logits(
            level_logits,
            category_logits,
            samples=list(range(len(level_logits))) if rows is None else rows.tolist(),
            config=config,
            policy=getattr(outputs, "safety_policy", None),
            condition_ids=None if conditions is None else conditions.tolist(),
        )


def _break(match: re.Match) -> str:
    return f"{match[0][0]} {match[0][1:]}"


__all__ = ["SafeLlavaProcessor"]
