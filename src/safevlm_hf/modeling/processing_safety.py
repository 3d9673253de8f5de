"""Processor of a safe model, for any backbone: positions for the image block in the prompt, and verdicts by name."""

import re
from contextvars import ContextVar
from functools import partial

import numpy as np
import torch
from transformers import BatchFeature, PreTrainedConfig
from transformers.image_utils import make_flat_list_of_images
from transformers.processing_utils import MultiModalData, ProcessingKwargs, TextKwargs, Unpack

from .configuration_safety import SafeConfigMixin, SafetyConfig
from .image_loading import load_images
from .plain_text import PlainText, is_batch
from .question_mask import (
    CHANGED_BY_TEMPLATE,
    QuestionSpans,
    expand_spans,
    find_answers,
    find_question,
    has_texts,
    token_turns,
    warn_that_all_counts,
)
from .safety_code import RemoteCodeMixin, auto_map, save_code
from .safety_decision import verdicts_from_logits
from .safety_policy import SafetyVerdict
from .safety_words import SafetyWords, fill_up, load_words


SAFETY_FIELDS = ("categories", "levels", "num_safety_tokens", "num_condition_tokens")
SOURCE = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
OFFSETS = {"return_offsets_mapping": "offset_mapping", "return_text_replacement_offsets": "text_replacement_offsets"}
# Options of `apply_chat_template` that have no part in the rendering.
TOKENIZING_OPTIONS = {
    "tokenize",
    "return_dict",
    "return_tensors",
    "return_assistant_tokens_mask",
    "processor_kwargs",
    *TextKwargs.__annotations__,
}

NO_VIDEO = "There is no verdict on video and audio yet: pass pictures, as single frames of a video."

# `apply_chat_template` leaves here what it knows about the prompts that `__call__` tokenizes for it, one entry per
# conversation. These are context variables, because the library's method in between hands on its own arguments alone.
_conversation_spans: ContextVar[list[QuestionSpans | None] | None] = ContextVar("conversation_spans", default=None)
_answer_spans: ContextVar[list[QuestionSpans | None] | None] = ContextVar("answer_spans", default=None)


class SafeProcessorMixin(RemoteCodeMixin):
    r"""
    A backbone's processor that expands each image to a safe model's block, [ s(2) | h_i | c ], and pads on the left.
    It stands in front of the stock class. Images (paths, URLs, base64, PIL) are read upright, with 8 bits, the first
    frame, on white; what cannot be read raises.

    `apply_chat_template(..., tokenize=True, return_dict=True)` gives a `question_mask`, (batch, length), too: 0 on
    everything that no user said, and on a user's token the number of the user's turn, counted from the last one: 1, 2,
    ... All text of a conversation is the question where users said nothing, where a message has an unknown role, and
    where the template does not print the users' texts whole, once and in order.

    Args:
        categories (`list[str]`, *optional*), levels (`list[str]`, *optional*): names, as in [`SafetyConfig`].
        num_safety_tokens (`int`, *optional*), num_condition_tokens (`int`, *optional*): as in [`SafetyConfig`].
            `from_pretrained` reads all four from the checkpoint's own `config.json`: processor and model agree.

    Attributes:
        config_class: the family's configuration.
    """

    config_class: type[SafeConfigMixin]
    words: SafetyWords | None = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.tokenizer.padding_side = "left"

    def set_safety(self, categories, levels, num_safety_tokens, num_condition_tokens):
        """Take over the names and sizes of the safety modules; the family's where unset."""
        fields = dict(zip(SAFETY_FIELDS, (categories, levels, num_safety_tokens, num_condition_tokens)))
        given = {name: value for name, value in fields.items() if value is not None}
        safety_config = SafetyConfig(**{**self.config_class.default_safety, **given})
        for name in SAFETY_FIELDS:
            setattr(self, name, getattr(safety_config, name))

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path, *args, safety_config: SafetyConfig | None = None, **kwargs
    ):
        """Load as [`ProcessorMixin.from_pretrained`] does; `safety_config` is for a model that has not been saved
        yet."""
        processor = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        source = {name: kwargs[name] for name in SOURCE if name in kwargs}
        reading = _stored_safety(pretrained_model_name_or_path, source).get("head_reading")
        for name in SAFETY_FIELDS if safety_config is not None else ():
            setattr(processor, name, getattr(safety_config, name))
        if "words" in (reading, safety_config and safety_config.head_reading):
            processor.words = load_words(pretrained_model_name_or_path, is_required=reading == "words", **source)
        return processor

    @classmethod
    def get_processor_dict(cls, pretrained_model_name_or_path, **kwargs):
        source = {name: kwargs[name] for name in SOURCE if name in kwargs}  # the library takes them out
        processor_dict, kwargs = super().get_processor_dict(pretrained_model_name_or_path, **kwargs)
        safety_config = _stored_safety(pretrained_model_name_or_path, source)
        processor_dict.update({name: safety_config[name] for name in SAFETY_FIELDS if name in safety_config})
        return processor_dict, kwargs

    def save_pretrained(self, save_directory, **kwargs):
        family, prefix = self.config_class.model_type, self.config_class.class_prefix
        save_code(save_directory, family)
        if self.words is not None:
            self.words.save(save_directory)
        self.auto_map = {"AutoProcessor": auto_map(family, prefix)["AutoProcessor"]}
        try:
            return super().save_pretrained(save_directory, **kwargs)
        finally:
            del self.auto_map

    @property
    def placeholder(self) -> str:
        """Text at each position of a block. Some processors have `image_token` for a whole picture."""
        return self.image_token

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs) -> str:
        before, after = (self.placeholder * number for number in (self.num_safety_tokens, self.num_condition_tokens))
        return before + super().replace_image_token(image_inputs, image_idx, **kwargs) + after

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
        if text is not None and all(isinstance(sample, str) for sample in text):
            self._check_image_counts(images, text)
        super().validate_inputs(images=images, text=text, videos=videos, audio=audio, **kwargs)

    def _check_image_counts(self, images, text):
        text = [text] if isinstance(text, str) else text
        counts = [sample.count(self.image_token) for sample in text]
        in_text: list[int] | int = counts
        nested = isinstance(images, (list, tuple)) and len(images) == len(text)
        if nested and all(isinstance(own, (list, tuple)) for own in images):
            given: list[int] | int = [len(own) for own in images]
        else:
            in_text = sum(counts)
            given = 0 if images is None else len(make_flat_list_of_images(images))  # type: ignore[arg-type]
        if in_text != given:
            raise ValueError(
                f"The number of {self.image_token} tokens in the prompts should be the same as the number of images "
                f"passed, got {in_text} tokens and {given} images. Text typed by a user may hold none: "
                "`apply_chat_template` makes such text harmless."
            )

    @property
    def model_input_names(self) -> list[str]:
        return [*super().model_input_names, "question_mask", *(["question_ids"] if self.words is not None else [])]

    def apply_chat_template(
        self,
        conversation,
        chat_template=None,
        tools=None,
        documents=None,
        *,
        operator_messages: int | None = None,
        **kwargs,
    ):
        """
        Render as [`ProcessorMixin.apply_chat_template`] does, with two differences. Special tokens inside texts of the
        messages, tools, documents and template variables are made plain text, so that no text adds an image position,
        moves one, or ends a turn; texts that spell one together, or with the template's own words, raise `ValueError`.
        And with `tokenize=True, return_dict=True` the result has a `question_mask`, (batch, length): it marks what
        users said.

        Args:
            conversation: messages, or a list of conversations.
            operator_messages (`int`, *optional*): for a server, which cannot trust roles that a client writes: only so
                many messages at the start are the operator's. All other messages count as the question, whatever
                their role; and so does all text where tools, documents or template variables come with them. If unset,
                the caller vouches for the roles: what users said counts, and the final message if it is continued.
        """
        if operator_messages is not None and (type(operator_messages) is not int or operator_messages < 0):
            raise ValueError(f"operator_messages must be a count of messages, 0 or more, got {operator_messages!r}.")
        kwargs.pop("sanitize_control_tokens", None)  # done here for every conversation, in every supported version
        plain = self.plain_text()
        conversation = plain.conversation(conversation)
        variables = {"tools": tools, "documents": documents, **kwargs}
        variables = {name: plain.value(value) for name, value in variables.items() if name not in TOKENIZING_OPTIONS}
        rendering = {**variables, "chat_template": chat_template}
        options = {**kwargs, **rendering}
        conversations = conversation if is_batch(conversation) else [conversation]
        refuse_video_and_audio(conversations)
        self._check_renderings(plain, conversations, variables, chat_template)
        if not (kwargs.get("tokenize") and kwargs.get("return_dict")):
            return super().apply_chat_template(conversation, **options)
        spans = self._find_questions(conversations, operator_messages, rendering)
        answers = None
        if kwargs.get("return_assistant_tokens_mask") and not self._marks_answers(chat_template):
            del options["return_assistant_tokens_mask"]
            render = partial(super().apply_chat_template, **rendering)
            answers = [find_answers(messages, render) for messages in conversations]
        tokens = _conversation_spans.set(spans), _answer_spans.set(answers)
        try:
            return super().apply_chat_template(conversation, **options)
        finally:
            _conversation_spans.reset(tokens[0])
            _answer_spans.reset(tokens[1])

    def _find_questions(
        self, conversations: list, operator_messages: int | None, rendering: dict
    ) -> list[QuestionSpans | None]:
        """Find the question in the prompt of each conversation; `None` where all of its text is the question."""
        # Beside a client's messages, tools and the like are a client's, too, and nothing marks them in the prompt.
        if operator_messages is not None and has_texts({**rendering, "chat_template": None}):
            return [None] * len(conversations)
        render = partial(super().apply_chat_template, **rendering)
        is_continued = bool(rendering.get("continue_final_message"))
        return [find_question(messages, operator_messages, is_continued, render) for messages in conversations]

    def _check_renderings(self, plain: PlainText, conversations: list, variables: dict, chat_template: str | None):
        render = partial(super().apply_chat_template, chat_template=chat_template)
        # This option cuts the end of a prompt off, and a token there would not be found.
        variables = {name: value for name, value in variables.items() if name != "continue_final_message"}
        for messages in conversations:
            plain.check_rendering(render, messages, variables, self._template_source(chat_template))

    def _template_source(self, chat_template: str | None) -> str:
        """Return the template itself, of which callers may give the name."""
        named = self.chat_template if isinstance(self.chat_template, dict) else {"default": self.chat_template}
        chosen = "default" if chat_template is None else chat_template
        return named.get(chosen, chat_template) or ""

    def _marks_answers(self, chat_template: str | None) -> bool:
        """Tell whether the template says what the model has answered, which few do."""
        return re.search(r"{%-?\s*generation", self._template_source(chat_template)) is not None

    def __call__(self, images=None, text=None, videos=None, audio=None, **kwargs: Unpack[ProcessingKwargs]):
        if videos is not None or audio is not None:
            raise ValueError(NO_VIDEO)
        spans = _conversation_spans.get()
        if spans is None:
            inputs = super().__call__(images=images, text=text, videos=videos, audio=audio, **kwargs)
            return self._with_words(inputs, text, None)
        needed = dict.fromkeys(OFFSETS, True) if self.tokenizer.is_fast else {}
        inputs = super().__call__(images=images, text=text, videos=videos, audio=audio, **{**kwargs, **needed})
        texts = [text] if isinstance(text, str) else text
        inputs = self._with_words(inputs, texts, spans)
        inputs["question_mask"] = _in_form_of(inputs["input_ids"], self._question_mask(inputs, texts, spans))
        answers = _answer_spans.get()
        if answers is not None:
            inputs["assistant_masks"] = _in_form_of(inputs["input_ids"], self._answer_masks(inputs, texts, answers))
        for option, name in OFFSETS.items():
            if not kwargs.get(option):
                inputs.pop(name, None)
        return inputs

    def _with_words(self, inputs: BatchFeature, text, spans: list[QuestionSpans | None] | None) -> BatchFeature:
        """Add `question_ids`, (batch, words, 2), where the head reads words of its own."""
        texts = [text] if isinstance(text, str) else text
        if self.words is None or "input_ids" not in inputs or not all(isinstance(one, str) for one in texts):
            return inputs
        special, spans = self.special_texts, spans or [None] * len(texts)
        rows = [self.words.of_prompt(*row, special) for row in zip(texts, spans)]
        inputs["question_ids"] = _in_form_of(inputs["input_ids"], fill_up(rows))
        return inputs

    @property
    def special_texts(self) -> list[str]:
        """Texts that spell a token of their own in a prompt."""
        added = (token.content for token in self.tokenizer.added_tokens_decoder.values())
        return [self.image_token, *self.tokenizer.all_special_tokens, *added]

    def _question_mask(
        self, inputs: BatchFeature, texts: list[str], spans: list[QuestionSpans | None]
    ) -> list[list[int]]:
        """Return the turn of each token that users said, one row per row of `input_ids`."""
        ids, offsets = _as_lists(inputs["input_ids"]), _as_lists(inputs.get("offset_mapping"))
        pad_token_id = self.tokenizer.pad_token_id
        attended = _as_lists(inputs.get("attention_mask")) or [
            [int(one != pad_token_id) for one in row] for row in ids
        ]
        replaced = inputs.get("text_replacement_offsets") or [[] for _ in ids]
        if offsets is None:
            warn_that_all_counts("this tokenizer gives no character offsets")
        rows = []
        for number, row in enumerate(ids):
            turns = None
            if offsets is not None and spans[number] is not None:
                turns = self._turns_of_row(spans[number], texts[number], offsets[number], replaced[number])
            turns = attended[number] if turns is None else turns
            rows.append([0 if token in self.image_token_ids else turn for token, turn in zip(row, turns)])
        return rows

    def _answer_masks(
        self, inputs: BatchFeature, texts: list[str], spans: list[QuestionSpans | None]
    ) -> list[list[int]]:
        """Return 1 on the tokens of the model's answers, and on a special token that ends one; 0 where nothing was
        found."""
        ids, offsets = _as_lists(inputs["input_ids"]), _as_lists(inputs.get("offset_mapping"))
        replaced = inputs.get("text_replacement_offsets") or [[] for _ in ids]
        ends = {*self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder}
        rows = []
        for number, row in enumerate(ids):
            mask = [0] * len(row)
            if offsets is not None and spans[number] is not None and spans[number].text == texts[number]:
                found = token_turns(offsets[number], expand_spans(spans[number].spans, replaced[number]))
                mask = [int(turn > 0) for turn in found]
                is_end = [int(before and token in ends) for before, token in zip([0, *mask], row)]
                mask = [int(answer or end) for answer, end in zip(mask, is_end)]
            rows.append(mask)
        return rows

    def _turns_of_row(self, spans: QuestionSpans, text: str, offsets: list, replaced: list[dict]) -> list[int] | None:
        if spans.text != text:
            warn_that_all_counts(CHANGED_BY_TEMPLATE)
            return None
        turns = token_turns(offsets, expand_spans(spans.spans, replaced))
        # A picture without words, a question that was cut off, wrong offsets: what text there is, is judged.
        return turns if any(turns) else None

    def plain_text(self) -> PlainText:
        """Make the rule by which texts become plain, for the tokens that the tokenizer has now."""
        tokenizer = self.tokenizer
        normalizer = tokenizer.backend_tokenizer.normalizer if tokenizer.is_fast else None
        return PlainText(
            self.special_texts,
            normalizer and normalizer.normalize_str,
            [token.content for token in tokenizer.added_tokens_decoder.values() if token.normalized],
        )

    def question_tokens(self, inputs, row: int = 0) -> list[str]:
        """Return the texts whose weights an explanation of these inputs gives: the prompt's tokens or, where the head
        reads words of its own, these; a piece that goes on with the word before begins with "##"."""
        if "question_ids" in inputs:
            return self.words.tokens(_as_lists(inputs["question_ids"][row][:, 0]))
        return [self.tokenizer.decode(token) for token in _as_lists(inputs["input_ids"][row])]

    def post_process_safety(self, outputs) -> list[SafetyVerdict]:
        """
        Return verdicts by name.

        Args:
            outputs: what `assess`, `generate(..., return_dict_in_generate=True)` or `forward` returned.

        Returns:
            One [`SafetyVerdict`] per image, in the order of the images; none where no image was seen.
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


def _stored_safety(checkpoint, source: dict) -> dict:
    """Return the `safety_config` in a checkpoint's `config.json`."""
    try:
        config, _ = PreTrainedConfig.get_config_dict(checkpoint, **source)
    except OSError:  # a folder that holds a processor alone
        return {}
    return config.get("safety_config") or {}


def refuse_video_and_audio(conversations: list):
    """Raise `ValueError` for parts that nobody judges. Some processors would render them with another template."""
    contents = [message.get("content") for messages in conversations for message in messages]
    lists = (content for content in contents if isinstance(content, list))
    parts = (part for content in lists for part in content if isinstance(part, dict))
    if any(kind in str(part.get("type")) for part in parts for kind in ("video", "audio")):
        raise ValueError(NO_VIDEO)


class TextOffsetsMixin:
    """For a stock processor that makes tensors by itself, of offsets in the text, too, and fails at them or at rows
    without an image; between [`SafeProcessorMixin`] and that processor."""

    def __call__(self, images=None, text=None, **kwargs):
        text_kwargs = dict(kwargs.pop("text_kwargs", None) or {})
        tensors = kwargs.pop("return_tensors", text_kwargs.pop("return_tensors", None))
        inputs = super().__call__(images=images, text=text, text_kwargs=text_kwargs, **kwargs)
        return inputs.convert_to_tensors(tensors, skip_tensor_conversion=["text_replacement_offsets"])


def _as_lists(value) -> list | None:
    return value.tolist() if hasattr(value, "tolist") else value


def _in_form_of(ids, rows: list):
    if isinstance(ids, torch.Tensor):
        return torch.tensor(rows, device=ids.device)
    return np.array(rows) if isinstance(ids, np.ndarray) else rows
