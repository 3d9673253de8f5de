"""Generation with a verdict: what happens around `generate`, for any backbone."""

import inspect
import os
from dataclasses import replace
from functools import lru_cache

import torch
from transformers import GenerationConfig, GenerationMixin, LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import Cache
from transformers.generation import utils as generation_utils
from transformers.modeling_outputs import BaseModelOutputWithPooling, ModelOutput
from transformers.models.auto.tokenization_auto import AutoTokenizer
from transformers.utils import logging

from .configuration_safety import SafetyConfig
from .safety_audit import SafetyAudit, audit_lines
from .safety_cache import (
    Conversation,
    drop_record,
    generating,
    is_generating,
    read_record,
    read_state,
    write_record,
    write_state,
)
from .safety_inputs import SafetyImageOutput, SafetyInputs, SafetyOutput
from .safety_policy import ACTIONS, DEFAULT_POLICY, SafetyPolicy, condition_category, is_readable, verdicts_from_logits
from .safety_refusals import ForcedRefusal, refusal_ids


logger = logging.get_logger(__name__)

PREPARE_ARGUMENTS = inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
CACHE = "cache" if "cache" in PREPARE_ARGUMENTS else "past_key_values"  # its name before transformers 5.24
GENERATE_ARGUMENTS = list(inspect.signature(GenerationMixin.generate).parameters)[2:]  # after self and inputs
AUDIT_VARIABLE = "SAFEVLM_AUDIT"  # environment variable: file of the audit trail
# What the library hands on to attention: it decides which positions see which.
ATTENTION_ARGUMENTS = (
    "position_ids",
    "is_causal",
    "seq_idx",
    "cu_seq_lens_q",
    "cu_seq_lens_k",
    "max_length_q",
    "max_length_k",
)
UNJUDGED = ("pixel_values_videos", "input_features", "audio_values")  # arguments with video or audio
ALL_AGAIN = "pass the `pixel_values` of all images again together with the `input_ids` of the whole conversation"
UNKNOWN_CACHE = (
    "The cache holds images whose verdict is not known for this batch, or was filled where nobody saw what it holds, "
    f"and not by `generate` alone: {ALL_AGAIN}, or start without a cache."
)


class SafetyGenerationMixin:
    """`generate` under a verdict, for a model whose base model makes one in `get_image_features`."""

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        *args,
        safety_policy=None,
        safety_audit=None,
        question_mask: torch.Tensor | None = None,
        **kwargs,
    ):
        """
        As [`GenerationMixin.generate`]: each image gets its verdict, and the answer is given under its condition.

        Args:
            safety_policy ([`SafetyPolicy`] or `dict`, *optional*): overrides, name by name, the policy in
                `generation_config`. Without either, every category is on and a risk over 0.5 is conditioned.
            safety_audit ([`SafetyAudit`] or path, *optional*): where to write a line a sample, before its first token.
                By default the file that the environment variable `SAFEVLM_AUDIT` names, or none.
            question_mask (`torch.Tensor` of shape `(batch, length)`, *optional*): not 0 on what users said, as the
                processor gives it: the users' turn counted from the last one, 1. Without it, all text is the question.
            tokenizer (*optional*): for a policy that refuses; by default the checkpoint's own is loaded.

        Returns:
            What [`GenerationMixin.generate`] returns. With `return_dict_in_generate=True` it also holds the fields of
            [`SafetyOutput`], where images were seen.

        Raises:
            `ValueError`: for image features or a cache that carry no verdict, a mask or positions that hide part of an
                image, a question that is empty, or a policy that does not fit the model.
            `OSError`: where the audit line cannot be written, or the tokenizer of a refusing policy not be found.
        """
        for name in ("safety_conditions", "safety_inputs"):
            if kwargs.get(name) is not None:
                raise ValueError(f"`generate` takes no `{name}`: pass `safety_policy` to change what a verdict does.")
        kwargs = {**dict(zip(GENERATE_ARGUMENTS, args)), **kwargs}
        # A draft model only proposes. The model that it drafts for, whose images and cache these are, verifies under
        # its own condition.
        if is_generating() and self._setting("is_assistant", kwargs) and kwargs.get("pixel_values") is None:
            return super().generate(inputs, **kwargs)

        policy = self._policy(safety_policy, kwargs.get("generation_config"))
        call = SafetyCall(self, inputs, kwargs, policy, SafetyAudit.create(_audit(safety_audit)))
        call.begin(question_mask)
        drop_record(call.cache)
        with generating():
            outputs = super().generate(inputs, **call.kwargs)
        return call.end(outputs)

    def _setting(self, name: str, kwargs: dict):
        """A setting of generation as the library finds it: in the call, its generation config, or the model's."""
        sources = (kwargs.get("generation_config"), self.generation_config)
        values = (kwargs.get(name), *(getattr(source, name, None) for source in sources))
        return next((value for value in values if value is not None), None)

    def _policy(self, safety_policy, generation_config: GenerationConfig | None = None) -> SafetyPolicy:
        """The checkpoint's policy, with what the call sets in place of its own."""
        safety_config, policy = self.config.safety_config, DEFAULT_POLICY
        for given in (self.kept_policy(), getattr(generation_config, "safety_policy", None), safety_policy):
            SafetyPolicy.create(given, safety_config)  # an error names the policy that it is in
            policy = policy.override(given, safety_config)
        if policy.enabled is False:
            logger.warning_once("The safety policy is disabled (`enabled=False`): answers are not conditioned.")
        return policy

    def _tokenizer(self):
        try:
            return _load_tokenizer(self.name_or_path, getattr(self.config, "_commit_hash", None))
        except (OSError, ValueError) as error:
            raise OSError(
                "A safety policy that refuses needs the tokenizer, and none was found with the model "
                f"({self.name_or_path!r}): pass `generate(..., tokenizer=processor.tokenizer)`."
            ) from error

    def _mask_padding(self, input_ids, generation_config) -> torch.Tensor | None:
        # As the library infers it, or the head would read padding that the language model does not.
        sources = [generation_config, self.generation_config, self.config.get_text_config()]
        pad, eos = (
            next((found for source in sources if (found := getattr(source, name, None)) is not None), None)
            for name in ("pad_token_id", "eos_token_id")
        )
        is_eos = pad in eos if isinstance(eos, (list, tuple)) else pad == eos
        return None if pad is None or is_eos else input_ids != pad

    def _conversation(
        self, input_ids, inputs_embeds, attention_mask, generation_config=None, question_mask=None
    ) -> tuple[Conversation, SafetyInputs]:
        """What the prompt says, and the inputs of its verdict without a policy."""
        if attention_mask is None and inputs_embeds is None:
            attention_mask = self._mask_padding(input_ids, generation_config)
        if question_mask is not None:
            prompt = input_ids if inputs_embeds is None else inputs_embeds
            _check_question_mask(question_mask, tuple(prompt.shape[:2]))
        safety_inputs = self.model.prepare_safety_inputs(
            input_ids, inputs_embeds, attention_mask, question_mask=question_mask
        )
        turns = safety_inputs.text_mask.long()
        # The published head reads the first token of the prompt, whoever said it.
        is_masked = question_mask is not None and self.config.safety_config.head_pooling != "first"
        if is_masked:
            turns = turns * question_mask.long().to(turns.device)
        return Conversation(safety_inputs.text_embeds, turns, safety_inputs.image_mask, is_masked), safety_inputs

    def _judged(self, conversation: Conversation, policy: SafetyPolicy, safety_inputs: SafetyInputs) -> SafetyInputs:
        """The inputs of a verdict on a whole conversation."""
        has_no_question = conversation.is_image.any(dim=1) & ~(conversation.turns != 0).any(dim=1)
        if conversation.is_masked and bool(has_no_question.any()):
            rows = has_no_question.nonzero().flatten().tolist()
            raise ValueError(
                f"`question_mask` is 0 everywhere in the samples {rows}, so their images would be judged without a "
                "question: mark what users said, or leave the mask out, then all text is the question."
            )
        return replace(
            safety_inputs,
            text_embeds=conversation.embeds,
            text_mask=conversation.question(policy.remembered_turns),
            image_token_counts=conversation.is_image.sum(dim=1),
            image_mask=conversation.is_image,
            policy=policy,
        )

    def _safety_inputs(
        self,
        input_ids,
        inputs_embeds,
        attention_mask,
        policy: SafetyPolicy,
        generation_config=None,
        question_mask=None,
    ) -> SafetyInputs:
        conversation, safety_inputs = self._conversation(
            input_ids, inputs_embeds, attention_mask, generation_config, question_mask
        )
        return self._judged(conversation, policy, safety_inputs)


class SafetyCall:
    """One call of `generate`: what has to be right before its first token, and what is written down after its last.

    Args:
        model: a model with [`SafetyGenerationMixin`].
        inputs, kwargs: the arguments of the call; `kwargs` are changed to those that the library gets.
        policy: in force in this call.
        audit: where to write its lines, if anywhere.
    """

    def __init__(self, model, inputs, kwargs: dict, policy: SafetyPolicy, audit: SafetyAudit | None):
        self.model, self.kwargs, self.policy, self.audit = model, kwargs, policy, audit
        self.input_ids = inputs if inputs is not None else kwargs.get("input_ids")
        self.inputs_embeds = kwargs.get("inputs_embeds")
        self.cache = _take_cache(kwargs)
        self.past_length = 0 if self.cache is None else int(self.cache.get_seq_length())
        self.conversation = (
            None  # of prompt and cache; unknown where neither has images and the cache is a foreign one
        )
        self.safety_inputs = None
        self.cached_images = None  # that stay in the cache as they are

    @property
    def has_prompt(self) -> bool:
        return self.input_ids is not None or self.inputs_embeds is not None

    @property
    def has_new_images(self) -> bool:
        return self.kwargs.get("pixel_values") is not None or _encoded_images(self.kwargs) is not None

    @property
    def has_images(self) -> bool:
        return self.has_new_images or self.cached_images is not None

    @property
    def is_whole(self) -> bool:
        """Whether the prompt holds what is in the cache, too, as the library tells it."""
        mask = self.kwargs.get("attention_mask")
        is_of_prompt = not isinstance(mask, torch.Tensor) or mask.shape[-1] == self.input_ids.shape[1]
        return self.inputs_embeds is not None or is_of_prompt

    # -- before ---------------------------------------------------------------------------------------------------

    def begin(self, question_mask: torch.Tensor | None):
        """Judge what is encoded already, and prepare the arguments so that nothing is answered past its verdict."""
        record = None if self.cache is None else read_record(self.cache)
        if not self.has_prompt:
            self._check_call_without_prompt(record)
            return
        check_modalities(self.kwargs)
        if self.inputs_embeds is not None:
            self._check_embeds()
        self.model.model.cache_state = read_state(self.cache, self.model.model.cache_state)
        self.conversation, self.safety_inputs = self.model._conversation(
            self.input_ids,
            self.inputs_embeds,
            self._readable_mask(),
            self.kwargs.get("generation_config"),
            question_mask,
        )
        encoded = _encoded_images(self.kwargs)
        cached = self._join_cache(record) if self.past_length else None
        if self.conversation is not None:
            self.safety_inputs = self.model._judged(self.conversation, self.policy, self.safety_inputs)
        if self.has_images or cached is not None:
            self._check_that_blocks_are_seen()
        if cached is not None:
            self._renew_cached_images(cached)
        if encoded is not None:
            self.kwargs["mm_encoder_outputs"] = {"image": self._renew_encoded_images(encoded)}
        if self.kwargs.get("pixel_values") is not None:
            self.kwargs["safety_inputs"] = self.safety_inputs
        if self.has_new_images:
            self.model.model.check_arguments({**self.kwargs, "input_ids": self.input_ids})
        if self.has_images:
            self.model._warn_weak_safety()
            self._check_that_images_are_seen()
        self._act_on_verdicts()

    def _readable_mask(self) -> torch.Tensor | None:
        """The mask, where it is one that a question can be read through; with images others raise, further below."""
        mask, prompt = self.kwargs.get("attention_mask"), self.inputs_embeds
        length = (self.input_ids if prompt is None else prompt).shape[1]
        return mask if isinstance(mask, torch.Tensor) and mask.ndim == 2 and 0 < length <= mask.shape[1] else None

    def _check_call_without_prompt(self, record):
        if self.audit is not None:
            raise ValueError("An audit line needs a prompt: pass `input_ids` or `inputs_embeds`.")
        if self.past_length and (record is None or record.images is not None):
            raise ValueError(
                "The cache may hold images, and without a prompt they would be answered without a verdict: pass "
                "`input_ids`, or start without a cache."
            )

    def _check_embeds(self):
        """Raise where image blocks stand in the embeddings already; s(2), which begins each of them, tells."""
        first = self.model.model.safety_tokens()[1][0].to(self.inputs_embeds)
        if bool((self.inputs_embeds == first).all(dim=-1).any()):
            raise ValueError(
                "`inputs_embeds` holds image features, so these images would be answered without a verdict for this "
                "question: leave the image token's embeddings there and pass `pixel_values`."
            )

    def _join_cache(self, record) -> SafetyImageOutput | None:
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
        self.conversation = earlier.followed_by(self.conversation)
        return record.images

    def _check_beginning(self, images: SafetyImageOutput | None, earlier: Conversation | None):
        """A whole prompt: the cache is gone on with where it holds the prompt's beginning."""
        if self.has_new_images and images is not None:
            self._empty_cache()
            return None
        is_beginning = earlier is not None and self.conversation.begins_with(earlier)
        if not is_beginning or self.conversation.shape[1] <= self.past_length:
            self._empty_cache()
        return images

    def _empty_cache(self):
        self.cache.reset()
        self.past_length = 0

    def _check_that_blocks_are_seen(self):
        """Raise where a mask or positions would hide part of an image block, as its condition, from the answer."""
        for name in ATTENTION_ARGUMENTS:
            if self.kwargs.get(name) is not None:
                raise ValueError(
                    f"`{name}` could move an image's safety condition out of the answer's sight: with images leave it "
                    "out, the library finds it by itself."
                )
        mask, is_image = self.kwargs.get("attention_mask"), self.conversation.is_image
        if mask is None:
            return
        if not isinstance(mask, torch.Tensor) or mask.shape != is_image.shape:
            found = tuple(mask.shape) if isinstance(mask, torch.Tensor) else type(mask).__name__
            raise ValueError(
                f"With images `attention_mask` must be of shape (batch, length), here {tuple(is_image.shape)}, got "
                f"{found}: another one could hide an image's safety condition."
            )
        if bool((is_image & ~mask.bool().to(is_image.device)).any()):
            raise ValueError(
                "`attention_mask` is 0 inside an image block, so that its safety condition could be hidden: it must "
                "be 1 at image positions, as the processor gives it."
            )

    def _renew_encoded_images(self, encoded: BaseModelOutputWithPooling) -> SafetyImageOutput:
        """Images encoded before the call get a verdict for this call's question."""
        if getattr(encoded, "safety_features", None) is None:
            raise ValueError(
                "`mm_encoder_outputs['image']` carries no safety features, so the images would be answered without a "
                "verdict: pass `pixel_values`, or what `model.get_image_features` returned."
            )
        return self.model.model.condition_image_features(encoded, self.safety_inputs)

    def _renew_cached_images(self, cached: SafetyImageOutput):
        """Images in a cache get a verdict for the whole conversation. Where it differs from the one that they were
        cached under, the cache is filled anew."""
        counts = self.conversation.is_image.sum(dim=1)
        lengths = torch.tensor([len(block) for block in cached.pooler_output], device=counts.device)
        cached_counts = torch.zeros_like(counts).index_add(0, cached.safety_image_rows.to(counts.device), lengths)
        if not torch.equal(counts, cached_counts):
            raise ValueError(
                f"The prompts hold {counts.tolist()} image positions a row, the images in the cache take "
                f"{cached_counts.tolist()}: {ALL_AGAIN}."
            )
        renewed = self.model.model.condition_image_features(cached, self.safety_inputs)
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

    def _check_that_images_are_seen(self):
        """Raise where the library would run the prompt without its images, and so without their verdict."""
        names = ("cache_implementation", "token_healing", "prefill_chunk_size", "is_assistant")
        settings = {name: self.model._setting(name, self.kwargs) for name in names}
        drops_images = {
            "cache_implementation": settings["cache_implementation"] == "paged",
            # It makes the prompt anew from its text, without image tokens, and with whatever users spelt like tokens.
            "token_healing": bool(settings["token_healing"]),
            # Until it learned to slice image features, the library dropped them.
            "prefill_chunk_size": self.has_new_images
            and settings["prefill_chunk_size"] is not None
            and not hasattr(generation_utils, "_slice_mm_encoder_output"),
            "is_assistant": self.has_new_images and bool(settings["is_assistant"]),
        }
        for name in filter(drops_images.get, drops_images):
            raise ValueError(
                f"`{name}={settings[name]}` leaves the images out in this version of transformers, so their verdict "
                "would not apply: generate without it."
            )

    def _act_on_verdicts(self):
        """Add the processors that keep image tokens out of the answer, write the audit trail and force refusals."""
        may_refuse = self.has_images and self.policy.refuses(self.model.config.safety_config)
        is_certain = self.audit is not None or may_refuse
        self._check_loop(is_certain)
        processors = [*(self.kwargs.get("logits_processor") or [])]
        if self.has_images:
            processors.append(NoImageTokens(self.model.config.image_token_id))
        if is_certain:
            processors.append(self._forced_refusal(may_refuse))
        if self.has_images or is_certain:
            self.kwargs["logits_processor"] = LogitsProcessorList(processors)

    def _check_loop(self, is_certain: bool):
        """Raise for a decoding loop of somebody else's in which it is not certain what the policy asks for."""
        custom = self.kwargs.get("custom_generate")
        is_loaded = isinstance(custom, (str, os.PathLike)) or (custom is None and self._loads_loop())
        is_foreign = self.has_images and is_loaded and self.policy != DEFAULT_POLICY
        if (is_certain and (custom is not None or is_loaded)) or is_foreign:
            raise ValueError(
                "`custom_generate`, or a way of decoding that is loaded from the Hub (`penalty_alpha`, `dola_layers`, "
                "...), brings a loop of its own, in which a refusal, an audit line or a policy other than the default "
                "is not certain: generate without one of the two."
            )

    def _loads_loop(self) -> bool:
        """Whether the library would load the loop for these settings from the Hub; it refuses to without the trust."""
        if not self.kwargs.get("trust_remote_code"):
            return False
        settings = {name: value for name, value in self.kwargs.items() if name not in GENERATE_ARGUMENTS}
        config, _ = self.model._prepare_generation_config(self.kwargs.get("generation_config"), **settings)
        mode = config.get_generation_mode(self.kwargs.get("assistant_model"))
        return "/" in generation_utils.GENERATION_MODES_MAPPING[mode]

    def _forced_refusal(self, may_refuse: bool) -> ForcedRefusal:
        vocab_size = self.model.config.get_text_config().vocab_size
        if may_refuse:
            self._check_vocabulary(vocab_size)
        tokenizer = self.kwargs.get("tokenizer") or self.model._tokenizer() if may_refuse else None

        def at_first_step() -> list[list[int] | None]:
            if self.has_images and not self.safety_inputs.record:
                raise RuntimeError("The images of this call were not judged before its first token.")
            decisions = decide_samples(self.safety_inputs, self.model.config.safety_config)
            if self.audit is not None:
                self.audit.append(self._audit_lines(decisions))
            return [
                refusal_ids(tokenizer, self.policy.refusal(category)) if ACTIONS[action] == "refuse" else None
                for action, _, category in decisions
            ]

        return ForcedRefusal(
            at_first_step,
            batch_size=len(self.safety_inputs.text_mask),
            prompt_length=0 if self.input_ids is None else self.input_ids.shape[1],
            end_token_id=self._end_token_id(),
            vocab_size=vocab_size,
            has_draft=self.kwargs.get("assistant_model") is not None,
        )

    def _check_vocabulary(self, vocab_size: int):
        """Raise where the output layer has other outputs than the config says: a refusal tells a draft's scores, which
        it leaves alone, from the model's by their number."""
        head = self.model.get_output_embeddings()
        outputs = getattr(head, "out_features", None) or len(head.weight)
        if outputs != vocab_size:
            raise ValueError(
                f"The output layer has {outputs} outputs, and the config a `vocab_size` of {vocab_size}: a refusal "
                f"would not be certain. Call `model.resize_token_embeddings({outputs})`."
            )

    def _end_token_id(self) -> int:
        """EOS, the first of several; padding where there is none; 0 where there is neither."""
        text_config = self.model.config.get_text_config()
        for name in ("eos_token_id", "pad_token_id"):
            for value in (self.model._setting(name, self.kwargs), getattr(text_config, name, None)):
                if value is not None and value != -1:
                    return int(torch.as_tensor(value).flatten()[0])
        return 0

    def _audit_lines(self, decisions) -> list[dict]:
        verdicts = []
        for encoded in self.safety_inputs.record:
            verdicts += verdicts_from_logits(
                encoded.safety_level_logits,
                encoded.safety_category_logits,
                encoded.safety_image_rows.tolist(),
                self.model.config.safety_config,
                self.policy,
                encoded.safety_condition_ids.tolist(),
            )
        images, pixel_values = None, self.kwargs.get("pixel_values")
        if pixel_values is not None:
            names = self.model.model.image_arguments
            images = self.model.model.split_pixels(
                pixel_values, **{name: self.kwargs[name] for name in names if name in self.kwargs}
            )
        return audit_lines(
            self.audit,
            model=self.model.name_or_path,
            revision=getattr(self.model.config, "_commit_hash", None),
            policy=self.policy,
            actions=[ACTIONS[action] for action, _, _ in decisions],
            verdicts=verdicts,
            prompts=self._prompts(),
            images=images if images is not None and len(images) == len(verdicts) else None,
        )

    def _prompts(self) -> list[torch.Tensor]:
        """What each sample's prompt holds, ids or embeddings, without padding."""
        prompts = self.input_ids if self.input_ids is not None else self.inputs_embeds
        mask = self.kwargs.get("attention_mask")
        if mask is None and self.inputs_embeds is None:
            mask = self.model._mask_padding(prompts, self.kwargs.get("generation_config"))
        if not isinstance(mask, torch.Tensor) or mask.ndim != 2:
            return list(prompts)
        return [prompt[kept] for prompt, kept in zip(prompts, mask[:, -prompts.shape[1] :].bool().to(prompts.device))]

    # -- after ----------------------------------------------------------------------------------------------------

    def end(self, outputs):
        """Write down what the caches hold now, and add the verdicts to the outputs."""
        if not self.has_prompt:
            return outputs
        seen = self.safety_inputs.record[-1] if self.safety_inputs.record else None
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
                continue
            write_state(cache, self.model.model.cache_state)
            length = int(cache.get_seq_length())
            is_known = conversation is not None and length <= conversation.shape[1]
            # Beams and several answers a prompt give the cache other rows than the verdicts have.
            if is_known or images is None:
                known = conversation.first(length) if is_known else None
                write_record(cache, images, known)

    def _with_answer(self, sequences: torch.LongTensor) -> Conversation | None:
        """The conversation with the answer, which is question only where nobody said what is."""
        conversation = self.conversation
        if conversation is None or len(sequences) != len(conversation.turns):
            return None
        answer = sequences[:, 0 if self.input_ids is None else self.input_ids.shape[1] :]
        turns = torch.zeros_like(answer) if conversation.is_masked else torch.ones_like(answer)
        embeds, is_image = self.model.get_input_embeddings()(answer), torch.zeros_like(answer, dtype=torch.bool)
        return conversation.followed_by(Conversation(embeds, turns, is_image, conversation.is_masked))


class NoImageTokens(LogitsProcessor):
    """Keeps the image token out of an answer: it would be taken for the place of an image that is not there."""

    def __init__(self, image_token_id: int):
        self.image_token_id = image_token_id

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if self.image_token_id >= scores.shape[-1]:
            return scores
        scores = scores.clone()
        scores[:, self.image_token_id] = -torch.inf
        return scores


def verdict_output(encoded: SafetyImageOutput, policy: SafetyPolicy) -> SafetyOutput:
    names = [name for name in SafetyOutput.__dataclass_fields__ if name != "safety_policy"]
    return SafetyOutput(**{name: getattr(encoded, name) for name in names}, safety_policy=policy.to_dict())


def decide_samples(safety_inputs: SafetyInputs, config: SafetyConfig) -> list[tuple[int, float, str | None]]:
    """Action id, risk and category of each sample's strictest image, by action, then by level, then by risk; no
    category where the image cannot be read."""
    strictest = [((0, 0, 0.0), None)] * len(safety_inputs.text_mask)
    for encoded in safety_inputs.record:
        level_logits, category_logits = encoded.safety_level_logits, encoded.safety_category_logits
        readable = is_readable(level_logits, category_logits)
        risks = torch.where(readable, safety_inputs.policy.risks(level_logits), torch.inf)
        columns = (
            encoded.safety_image_rows,
            encoded.safety_action_ids,
            encoded.safety_level_ids,
            risks,
            encoded.safety_condition_ids,
            readable,
        )
        for row, *strictness, condition, is_read in zip(*(column.tolist() for column in columns)):
            if tuple(strictness) > strictest[row][0]:
                category = condition_category(condition, config) if is_read else None
                strictest[row] = (tuple(strictness), category)
    return [(action, min(risk, 1.0), category) for (action, _, risk), category in strictest]


def check_modalities(arguments: dict):
    """Raise `ValueError` for what nobody judges."""
    if arguments.get("image_hidden_states") is not None:
        # A name of `mm_encoder_outputs` before transformers 5.20, under which nobody would see the images.
        raise ValueError("`image_hidden_states` are images without a verdict: pass `pixel_values`.")
    encoded = arguments.get("mm_encoder_outputs") or {}
    given = {name for name in UNJUDGED if arguments.get(name) is not None}
    given |= {name for name, outputs in encoded.items() if name != "image" and outputs is not None}
    if given:
        raise ValueError(
            f"There is no verdict on video and audio yet, got {', '.join(sorted(given))}: pass pictures, as single "
            "frames of a video."
        )


def _check_question_mask(question_mask: torch.Tensor, shape: tuple[int, int]):
    found = f"{type(question_mask).__name__}"
    if isinstance(question_mask, torch.Tensor):
        found = f"{question_mask.dtype} of shape {tuple(question_mask.shape)}"
    is_mask = isinstance(question_mask, torch.Tensor) and not question_mask.is_floating_point()
    if not is_mask or tuple(question_mask.shape) != shape:
        raise ValueError(
            f"`question_mask` must hold whole numbers or bools and have the shape of the prompt, {shape}, got "
            f"{found}: pass it as the processor gave it, beside the same `input_ids`."
        )
    if question_mask.dtype != torch.bool and bool((question_mask < 0).any()):
        raise ValueError(
            "`question_mask` holds negative numbers: it must be 0 outside of the question, and 1 or the users' turn, "
            "counted from the last one, inside."
        )


def _take_cache(kwargs: dict) -> Cache | None:
    """The cache among the arguments, left under the name that transformers has for it now. Found by its type: a name
    that is not known here would let a conversation's images through without their verdict."""
    names = [name for name, value in kwargs.items() if isinstance(value, Cache)]
    if len(names) > 1:
        raise ValueError(f"`generate` takes one cache, got {len(names)}: {', '.join(names)}.")
    cache = kwargs.pop(names[0]) if names else None
    if cache is not None:
        kwargs[CACHE] = cache
    return cache


def _audit(safety_audit):
    return os.environ.get(AUDIT_VARIABLE) or None if safety_audit is None else safety_audit


@lru_cache(maxsize=4)
def _load_tokenizer(name_or_path: str, revision: str | None):
    return AutoTokenizer.from_pretrained(name_or_path, revision=revision)


def _encoded_images(kwargs: dict) -> BaseModelOutputWithPooling | None:
    return (kwargs.get("mm_encoder_outputs") or {}).get("image")


__all__ = ["SafetyGenerationMixin", "decide_samples"]
