"""Verdicts in one call of `generate`: what has to be right before its first token, and what is written down after its
last."""

from dataclasses import replace

import torch
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPooling, ModelOutput
from transformers.utils import logging

from .safety_audit import AuditedCall, SafetyAudit, audit_lines
from .safety_cache import (
    CACHE,
    CacheRecord,
    drop_record,
    read_record,
    read_state,
    take_cache,
    write_record,
    write_state,
)
from .safety_checks import (
    check_blocks_are_seen,
    check_drafts,
    check_embeds,
    check_images_are_seen,
    check_loop,
    check_modalities,
    check_positions,
    check_vocabulary,
)
from .safety_conversation import Conversation
from .safety_inputs import SafetyInputs
from .safety_outputs import SafetyImageOutput, decide_samples, verdict_output
from .safety_policy import ACTIONS, DEFAULT_POLICY, SafetyPolicy
from .safety_refusals import ForcedRefusal, all_refusal_ids


logger = logging.get_logger(__name__)

ALL_AGAIN = "pass the `pixel_values` of all images again together with the `input_ids` of the whole conversation"
UNKNOWN_CACHE = (
    "The cache holds images whose verdict is not known for this batch, or was filled where nobody saw what it holds, "
    f"and not by `generate` alone: {ALL_AGAIN}, or start without a cache."
)


class SafetyCall:
    """The images of one call, whether they come as pixels, encoded or in a cache, each under its verdict.

    Args:
        model: a model with [`SafetyGenerationMixin`].
        inputs, kwargs: the arguments of the call; `kwargs` are changed to those that the library gets.
        policy: in force in this call.
        audit: where to write its lines, if anywhere.
        is_shadow: whether the decisions go to the audit alone: every image is answered as if it were safe.
    """

    def __init__(
        self,
        model,
        inputs,
        kwargs: dict,
        policy: SafetyPolicy,
        audit: SafetyAudit | None,
        is_shadow: bool = False,
    ):
        self.model, self.kwargs, self.policy, self.audit = model, kwargs, policy, audit
        self.is_shadow = is_shadow
        self.input_ids = inputs if inputs is not None else kwargs.get("input_ids")
        self.inputs_embeds = kwargs.get("inputs_embeds")
        self.cache = take_cache(kwargs)
        self.past_length = 0 if self.cache is None else int(self.cache.get_seq_length())
        # It covers prompt and cache; it is unknown where neither has images and the cache is a foreign one.
        self.conversation: Conversation | None = None
        self.safety_inputs: SafetyInputs | None = None
        self.cached_images: SafetyImageOutput | None = None  # these stay in the cache as they are

    @property
    def has_prompt(self) -> bool:
        return self.input_ids is not None or self.inputs_embeds is not None

    @property
    def encoded_images(self) -> BaseModelOutputWithPooling | None:
        """Images that were encoded before the call."""
        return (self.kwargs.get("mm_encoder_outputs") or {}).get("image")

    @property
    def has_new_images(self) -> bool:
        return self.kwargs.get("pixel_values") is not None or self.encoded_images is not None

    @property
    def has_images(self) -> bool:
        return self.has_new_images or self.cached_images is not None

    @property
    def is_whole(self) -> bool:
        """Tell whether the prompt holds what is in the cache, too, as the library finds out."""
        mask = self.kwargs.get("attention_mask")
        if self.inputs_embeds is not None or not isinstance(mask, torch.Tensor):
            return True
        return mask.shape[-1] == self.input_ids.shape[1]

    # -- before the first token -----------------------------------------------------------------------------------

    def begin(self, question_mask: torch.Tensor | None, question_ids: torch.LongTensor | None):
        """Judge what is encoded already, and prepare the arguments so that nothing is answered past its verdict."""
        record = None if self.cache is None else read_record(self.cache)
        if self.has_prompt:
            check_modalities(self.kwargs)
            if self.inputs_embeds is not None:
                check_embeds(self.inputs_embeds, self.model.model.safety_tokens()[1])
            self._prepare_images(record, question_mask, question_ids)
            self._install_processors()
        else:
            self._check_call_without_prompt(record)
        drop_record(self.cache)

    def _check_call_without_prompt(self, record: CacheRecord | None):
        if self.audit is not None:
            raise ValueError("An audit line needs a prompt: pass `input_ids` or `inputs_embeds`.")
        if self.past_length and (record is None or record.images is not None):
            raise ValueError(
                "The cache may hold images, and without a prompt they would be answered without a verdict: pass "
                "`input_ids`, or start without a cache."
            )

    def _prepare_images(
        self, record: CacheRecord | None, question_mask: torch.Tensor | None, question_ids: torch.LongTensor | None
    ):
        """Bring the images of the call under the question of its whole conversation. Those that come as pixels are
        judged where the library encodes them."""
        base_model = self.model.model
        base_model.cache_state = read_state(self.cache, base_model.cache_state)
        self.conversation, self.safety_inputs = self.model.read_conversation(
            self.input_ids,
            self.inputs_embeds,
            self._readable_mask(),
            question_mask,
            question_ids,
            self.kwargs,
        )
        encoded = self.encoded_images
        cached = self._join_cache(record) if self.past_length else None
        if not self.has_new_images and cached is None and bool(self.safety_inputs.image_mask.any()):
            self._miss_images()
        if self.conversation is not None:
            self.safety_inputs = self.model.verdict_inputs(self.conversation, self.policy, self.safety_inputs)
        if self.is_shadow:
            self.safety_inputs = replace(self.safety_inputs, condition_ids=torch.zeros(1, dtype=torch.long))
        position_ids = None
        if self.has_images or cached is not None:
            check_blocks_are_seen(self.kwargs, self.conversation.is_image)
            # They are compared, and never used: the library makes its own.
            position_ids = self.kwargs.pop("position_ids", None)
        if cached is not None:
            self._renew_cached_images(cached)
        if encoded is not None:
            self.kwargs["mm_encoder_outputs"] = {"image": self._renew_encoded_images(encoded)}
        if self.kwargs.get("pixel_values") is not None:
            # The library's `generate` judges these: it encodes pixels by `get_image_features`, whose argument this is.
            self.kwargs["safety_inputs"] = self.safety_inputs
        if self.has_new_images:
            base_model.check_arguments({**self.kwargs, "input_ids": self.input_ids})
        if self.has_images:
            self.model.config.safety_config.warn_if_weak()
            check_images_are_seen(self.model, self.kwargs, self.has_new_images)
        if position_ids is not None:
            self._check_positions(position_ids)

    def _check_positions(self, position_ids):
        """Raise for positions that the library would not find by itself in this call."""
        prompt = self.input_ids if self.inputs_embeds is None else self.inputs_embeds
        mask = self.kwargs.get("attention_mask")
        if mask is None:
            mask = None if self.inputs_embeds is not None else self.model.mask_padding(prompt, self.kwargs)
        if mask is None:
            mask = torch.ones(prompt.shape[:2], dtype=torch.long, device=prompt.device)
        given = {name: value for name, value in self.kwargs.items() if value is not None}
        base_model = self.model.model
        state = base_model.cache_state  # M-RoPE changes it as it finds them
        own = self.model._prepare_position_ids_for_generation(prompt, {**given, "attention_mask": mask})
        base_model.cache_state = state
        new = slice(self.past_length, None)
        check_positions(position_ids, own[..., new], mask[:, new])

    def _miss_images(self):
        """Raise for image tokens whose images did not come. Before stage 1 there is no verdict to lose: such a model
        answers as its base does, as the library's own tests demand, and warns once."""
        text = (
            "The prompt holds image tokens, and no images came with it, so that it would be answered without a "
            f"verdict: pass all that {self.model.config.class_prefix}Processor gives, `pixel_values` among it, or the "
            "cache of the conversation that holds the images. A prompt without images has no image tokens."
        )
        if self.model.config.safety_config.is_trained:
            raise ValueError(text)
        logger.warning_once(text)

    def _readable_mask(self) -> torch.Tensor | None:
        """Return the mask if a question can be read through it; with images other masks raise, further below."""
        mask, prompt = self.kwargs.get("attention_mask"), self.inputs_embeds
        length = (self.input_ids if prompt is None else prompt).shape[1]
        return mask if isinstance(mask, torch.Tensor) and mask.ndim == 2 and 0 < length <= mask.shape[1] else None

    def _renew_encoded_images(self, encoded: BaseModelOutputWithPooling) -> SafetyImageOutput:
        """Give images encoded before the call a verdict for this call's question."""
        if getattr(encoded, "safety_features", None) is None:
            raise ValueError(
                "`mm_encoder_outputs['image']` carries no safety features, so the images would be answered without a "
                "verdict: pass `pixel_values`, or what `model.get_image_features` returned."
            )
        return self.model.model.judge_and_condition(encoded, self.safety_inputs)

    # -- the cache ------------------------------------------------------------------------------------------------

    def _join_cache(self, record: CacheRecord | None) -> SafetyImageOutput | None:
        """Make the conversation whole with what the cache stands for. A cache that cannot be gone on with is emptied
        where the prompt holds everything. Returns the images that are in the cache."""
        if record is None:
            if not (self.has_new_images and self.is_whole):
                raise ValueError(UNKNOWN_CACHE)
            self._empty_cache()
            return None
        earlier = None if record.conversation is None else record.conversation.first(self.past_length)
        if earlier is not None and len(earlier.turns) != len(self.conversation.turns):
            earlier = None
        if record.images is None and not self.has_new_images:
            if not self.is_whole:
                self.conversation = None if earlier is None else earlier.followed_by(self.conversation)
            return None
        if earlier is None and not (self.is_whole and self.has_new_images):
            raise ValueError(UNKNOWN_CACHE)
        if self.is_whole:
            return self._check_beginning(record.images, earlier)
        if self.has_new_images and record.images is not None:
            raise ValueError(
                f"A sample has one condition for all of its images, and some are in the cache already: {ALL_AGAIN}."
            )
        if self.has_new_images and self.model.model.places_images_by_prompt:
            raise ValueError(
                f"{self.model.config.class_prefix} finds an image's place by the prompt from its beginning on, and "
                f"the text before this one is in the cache alone: {ALL_AGAIN}."
            )
        if earlier.question_ids is not None and self.conversation.question_ids is None:
            raise ValueError(
                "The words of the new text are not known, and without them those of the turns in the cache would be "
                "lost, too: pass `question_ids`, or a `tokenizer`, or load the model from a checkpoint that has one."
            )
        self.conversation = earlier.followed_by(self.conversation)
        return record.images

    def _check_beginning(self, images: SafetyImageOutput | None, earlier: Conversation | None):
        """Go on with the cache under a whole prompt where it holds the prompt's beginning; empty it otherwise."""
        # Some versions of transformers cut the prompt to its new tokens before they find the places.
        if self.has_new_images and (images is not None or self.model.model.places_images_by_prompt):
            self._empty_cache()
            return None
        is_beginning = earlier is not None and self.conversation.begins_with(earlier)
        if not is_beginning or self.conversation.shape[1] <= self.past_length:
            self._empty_cache()
        return images

    def _empty_cache(self):
        self.cache.reset()
        self.past_length = 0

    def _renew_cached_images(self, cached: SafetyImageOutput):
        """Give images in a cache a verdict for the whole conversation. Where it differs from the one that they were
        cached under, the cache is filled anew."""
        counts = self.conversation.is_image.sum(dim=1)
        lengths = torch.tensor([len(block) for block in cached.pooler_output], device=counts.device)
        cached_counts = torch.zeros_like(counts).index_add(0, cached.safety_image_rows.to(counts.device), lengths)
        if not torch.equal(counts, cached_counts):
            raise ValueError(
                f"The prompts hold {counts.tolist()} image positions per row, the images in the cache take "
                f"{cached_counts.tolist()}: {ALL_AGAIN}."
            )
        renewed = self.model.model.judge_and_condition(cached, self.safety_inputs)
        if self.past_length and torch.equal(renewed.safety_condition_ids, cached.safety_condition_ids):
            self.cached_images = renewed
            return
        if not self.is_whole:
            raise ValueError(
                "The new question changes the verdict on an image in the cache: pass the `input_ids` of the "
                "whole conversation, not only its last turn."
            )
        if self.past_length:
            self._empty_cache()
        self.kwargs["mm_encoder_outputs"] = {"image": renewed}

    # -- the first token ------------------------------------------------------------------------------------------

    def _install_processors(self):
        """Add the processors that keep image tokens out of the answer, write the audit trail and force refusals."""
        may_refuse = self.has_images and self.policy.refuses(self.model.config.safety_config) and not self.is_shadow
        is_certain = self.audit is not None or may_refuse
        has_policy = self.has_images and self.policy != DEFAULT_POLICY
        check_loop(self.model, self.kwargs, is_certain, has_policy)
        if self.has_images or is_certain:
            check_drafts(self.model, self.kwargs)
        processors = [*(self.kwargs.get("logits_processor") or [])]
        if self.has_images:
            has_image = self.conversation.is_image.any(dim=1)
            processors.append(NoImageTokens(self.model.config.image_token_id, has_image))
        if is_certain:
            processors.append(self._forced_refusal(may_refuse))
        if self.has_images or is_certain:
            self.kwargs["logits_processor"] = LogitsProcessorList(processors)

    def _forced_refusal(self, may_refuse: bool) -> ForcedRefusal:
        refusals = {}
        if may_refuse:
            check_vocabulary(self.model)
            tokenizer = self.kwargs.get("tokenizer") or self.model.refusal_tokenizer()
            # All of them are made, and now: the audit must not tell of a refusal that then cannot be given.
            refusals = all_refusal_ids(tokenizer, self.policy, self.model.config.safety_config.categories)

        def at_first_step() -> list[list[int] | None]:
            if self.has_images and not self.safety_inputs.outputs:
                raise RuntimeError("The images of this call were not judged before its first token.")
            decisions = decide_samples(self.safety_inputs, self.model.config.safety_config)
            if self.audit is not None:
                self.audit.append(self._audit_lines([ACTIONS[action] for action, _, _ in decisions]))
            is_refused = [may_refuse and ACTIONS[action] == "refuse" for action, _, _ in decisions]
            return [
                refusals[category] if refused else None for refused, (_, _, category) in zip(is_refused, decisions)
            ]

        return ForcedRefusal(
            at_first_step,
            batch_size=len(self.safety_inputs.text_mask),
            prompt_length=0 if self.input_ids is None else self.input_ids.shape[1],
            end_token_id=self.model.end_token_id(self.kwargs),
            vocab_size=self.model.config.get_text_config().vocab_size,
            has_draft=self.kwargs.get("assistant_model") is not None,
        )

    def _audit_lines(self, actions: list[str]) -> list[dict]:
        pixels, pixel_values = None, self.kwargs.get("pixel_values")
        if pixel_values is not None:
            names = self.model.model.image_arguments
            arguments = {name: self.kwargs[name] for name in names if name in self.kwargs}
            pixels = self.model.model.split_pixels(pixel_values, **arguments)
        prompts = self.model.unpadded_prompts(
            self.input_ids, self.inputs_embeds, self.kwargs.get("attention_mask"), self.kwargs
        )
        images = self.safety_inputs.outputs
        call = AuditedCall("generate", self.policy, actions, images, prompts, pixels, self.is_shadow)
        return audit_lines(self.audit, self.model, call)

    # -- after the last token -------------------------------------------------------------------------------------

    def end(self, outputs):
        """Write down what the caches hold now, and add the verdicts to the outputs."""
        if not self.has_prompt:
            return outputs
        seen = self.safety_inputs.outputs[-1] if self.safety_inputs.outputs else None
        self._record_caches(outputs, seen)
        if seen is not None and isinstance(outputs, ModelOutput):
            for name, value in verdict_output(seen, self.policy).items():
                outputs[name] = value
        return outputs

    def _record_caches(self, outputs, images: SafetyImageOutput | None):
        returned = outputs.get(CACHE) if isinstance(outputs, ModelOutput) else None
        caches = {id(cache): cache for cache in (self.cache, returned) if isinstance(cache, Cache)}
        if not caches:
            return
        sequences = outputs.sequences if isinstance(outputs, ModelOutput) else outputs
        conversation = self._with_answer(sequences)
        for cache in caches.values():
            if not int(cache.get_seq_length()):
                continue  # nothing was put into it
            write_state(cache, self.model.model.cache_state)
            length = int(cache.get_seq_length())
            is_known = conversation is not None and length <= conversation.shape[1]
            # Beams and several answers per prompt give the cache other rows than the verdicts have.
            if is_known or images is None:
                known = conversation.first(length) if is_known else None
                write_record(cache, images, known)

    def _with_answer(self, sequences: torch.LongTensor) -> Conversation | None:
        """Return the conversation with the answer, which is question only where nobody said what is."""
        conversation = self.conversation
        if conversation is None or len(sequences) != len(conversation.turns):
            return None
        answer = sequences[:, 0 if self.input_ids is None else self.input_ids.shape[1] :]
        turns = torch.zeros_like(answer) if conversation.is_masked else torch.ones_like(answer)
        embeds, is_image = self.model.get_input_embeddings()(answer), torch.zeros_like(answer, dtype=torch.bool)
        words = None
        if conversation.question_ids is not None:
            words = answer.new_zeros(len(answer), 0, 2)
            if not conversation.is_masked:
                words = self.model.read_words(answer, turns, self.kwargs)
        answered = Conversation(embeds, turns, is_image, conversation.is_masked, words)
        return conversation.followed_by(answered)


class NoImageTokens(LogitsProcessor):
    """Keep the image token out of an answer: it would be taken for the place of an image that is not there.

    Args:
        has_image: (batch,), true for the samples that it is kept out of; the others are decoded as they are alone.
    """

    def __init__(self, image_token_id: int, has_image: torch.BoolTensor):
        self.image_token_id = image_token_id
        self.has_image = has_image

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if self.image_token_id >= scores.shape[-1]:
            return scores
        # Beams and several answers per prompt give one sample several rows.
        has_image = self.has_image.to(scores.device).repeat_interleave(len(scores) // len(self.has_image))
        scores = scores.clone()
        scores[:, self.image_token_id] = scores[:, self.image_token_id].masked_fill(has_image, -torch.inf)
        return scores
