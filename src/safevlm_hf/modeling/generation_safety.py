"""`generate` under a verdict, for any backbone: what is in force in a call, and what its prompt asks.

What happens before and after the library's own `generate` is one [`SafetyCall`].
"""

import os
from dataclasses import replace

import torch
from transformers import GenerationConfig, LogitsProcessorList
from transformers.utils import logging

from .operator_policy import OF_CHECKPOINT, describe_silencing, merge_policies
from .safety_audit import SafetyAudit
from .safety_blocks import load_tokenizer
from .safety_cache import generating, is_generating
from .safety_call import NoImageTokens, SafetyCall
from .safety_checks import GENERATE_ARGUMENTS, check_question_ids, check_question_mask
from .safety_conversation import Conversation
from .safety_inputs import SafetyInputs
from .safety_policy import DEFAULT_POLICY, SafetyPolicy
from .safety_refusals import ForcedRefusal
from .safety_words import load_words


logger = logging.get_logger(__name__)

NO_WORDS = (
    "The words of the question are not known, because %s: its pictures are judged by themselves. Pass all that the "
    "processor gives."
)
AUDIT_VARIABLE = "SAFEVLM_AUDIT"  # environment variable: file of the audit trail


class SafetyGenerationMixin:
    """
    `generate` under a verdict, for a model whose base model makes one in `get_image_features`.

    A prompt comes with what users said, as the processor gives it. `question_mask`, (batch, length), is not 0 on their
    tokens: it is the users' turn, counted from the last one, 1. Without it all text is the question. `question_ids`,
    (batch, words, 2), is what they said in words of the head's own, each with its turn, for a model with
    `head_reading="words"`. Without them `generate` reads the words from `input_ids`, by the checkpoint's own
    tokenizer.
    """

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        *args,
        safety_policy=None,
        safety_audit=None,
        safety_shadow: bool = False,
        question_mask: torch.Tensor | None = None,
        question_ids: torch.LongTensor | None = None,
        **kwargs,
    ):
        """
        Generate as [`GenerationMixin.generate`] does: each image gets its verdict, and the answer its condition.

        Args:
            safety_policy ([`SafetyPolicy`] or `dict`, *optional*): overrides, name by name, the policy in
                `generation_config`. Without either, every category is on and a risk over 0.5 is conditioned.
            safety_audit ([`SafetyAudit`] or path, *optional*): where to write a line per sample, before its first
                token. By default the file that the environment variable `SAFEVLM_AUDIT` names, or none.
            safety_shadow (`bool`, *optional*): the policy decides, and nothing follows from it: the audit, which it
                needs, says what would have been done, and every image is answered as if it were safe.
            question_mask, question_ids (*optional*): what users said ([`SafetyGenerationMixin`]).
            tokenizer (*optional*): for a policy that refuses; by default the checkpoint's own is loaded.

        Returns:
            What [`GenerationMixin.generate`] returns. With `return_dict_in_generate=True` it also holds the fields of
            [`SafetyOutput`], where images were seen.

        Raises:
            `ValueError`: for image features or a cache that carry no verdict, a mask that hides part of an image,
                `position_ids` other than those that the model finds by itself, a question that is empty, or a policy
                that does not fit the model.
            `OSError`: where the audit line cannot be written, or the tokenizer of a refusing policy not be found.
        """
        for name in ("safety_conditions", "safety_inputs"):
            if kwargs.get(name) is not None:
                raise ValueError(f"`generate` takes no `{name}`: pass `safety_policy` to change what a verdict does.")
        kwargs = {**dict(zip(GENERATE_ARGUMENTS, args)), **kwargs}
        # A draft only proposes: the model whose images and cache these are verifies it under its own condition.
        if is_generating() and self.find_setting("is_assistant", kwargs) and kwargs.get("pixel_values") is None:
            return super().generate(inputs, **kwargs)
        policy = self.policy_in_force(safety_policy, kwargs.get("generation_config"))
        by_default = os.environ.get(AUDIT_VARIABLE) or None
        audit = SafetyAudit.create(by_default if safety_audit is None else safety_audit)
        _check_shadow(safety_shadow, audit)
        call = SafetyCall(self, inputs, kwargs, policy, audit, safety_shadow)
        call.begin(question_mask, question_ids)
        with generating():
            outputs = super().generate(inputs, **call.kwargs)
        return call.end(outputs)

    def _get_logits_processor(self, *args, **kwargs) -> LogitsProcessorList:
        """Put our processors last: the library appends samplers and watermarks to what a call brings."""
        processors = super()._get_logits_processor(*args, **kwargs)
        is_ours = (NoImageTokens, ForcedRefusal)
        return LogitsProcessorList(sorted(processors, key=lambda processor: isinstance(processor, is_ours)))

    def find_setting(self, name: str, kwargs: dict):
        """Return a setting of generation as the library finds it: from the call, its generation config, or the
        model's."""
        sources = (kwargs.get("generation_config"), self.generation_config)
        values = (kwargs.get(name), *(getattr(source, name, None) for source in sources))
        return next((value for value in values if value is not None), None)

    def policy_in_force(self, safety_policy, generation_config: GenerationConfig | None = None) -> SafetyPolicy:
        """Return the checkpoint's policy, with what the call sets in place of its own.

        Warns, once, where the call's policy refuses and what is kept could silence it. What a generation config holds
        counts as kept: nobody can tell whether it came with a checkpoint."""
        safety_config, policy = self.config.safety_config, DEFAULT_POLICY
        sources = (
            (OF_CHECKPOINT, self.kept_policy()),
            ("`safety_policy` of the call's `generation_config`", getattr(generation_config, "safety_policy", None)),
            ("`safety_policy` of the call", safety_policy),
        )
        for number, (_, given) in enumerate(sources, start=1):
            merged = merge_policies(sources[:number], safety_config)
            silenced = describe_silencing(policy, given, safety_config)
            if silenced is not None:
                logger.warning_once(silenced)
            policy = merged
        if policy.enabled is False:
            logger.warning_once("The safety policy is disabled (`enabled=False`): answers are not conditioned.")
        return policy

    def refusal_tokenizer(self):
        """Load the tokenizer that lies with the checkpoint, for a refusal's text. Raises `OSError` without one."""
        try:
            return self._load_tokenizer()
        except (OSError, ValueError) as error:
            raise OSError(
                "A safety policy that refuses needs the tokenizer, and none was found with the model "
                f"({self.name_or_path!r}): pass `generate(..., tokenizer=processor.tokenizer)`."
            ) from error

    def mask_padding(self, input_ids, settings: dict) -> torch.Tensor | None:
        """Return the mask of a prompt that comes without one, as the library infers it, or the head would read padding
        that the language model does not."""
        text_config = self.config.get_text_config()
        pad, eos = (
            getattr(text_config, name, None) if (found := self.find_setting(name, settings)) is None else found
            for name in ("pad_token_id", "eos_token_id")
        )
        is_eos = pad in eos if isinstance(eos, (list, tuple)) else pad == eos
        return None if pad is None or is_eos else input_ids != pad

    def unpadded_prompts(
        self, input_ids, inputs_embeds, attention_mask, settings: dict | None = None
    ) -> list[torch.Tensor]:
        """Return each sample's prompt, ids or embeddings, without padding; `settings` are the call's arguments."""
        prompts = input_ids if input_ids is not None else inputs_embeds
        if attention_mask is None and inputs_embeds is None:
            attention_mask = self.mask_padding(prompts, settings or {})
        if not isinstance(attention_mask, torch.Tensor) or attention_mask.ndim != 2:
            return list(prompts)
        kept = attention_mask[:, -prompts.shape[1] :].bool().to(prompts.device)
        return [prompt[is_kept] for prompt, is_kept in zip(prompts, kept)]

    def end_token_id(self, kwargs: dict) -> int:
        """Return EOS, the first of several; padding where there is none; 0 where there is neither."""
        text_config = self.config.get_text_config()
        for name in ("eos_token_id", "pad_token_id"):
            for value in (self.find_setting(name, kwargs), getattr(text_config, name, None)):
                if value is not None and value != -1:
                    return int(torch.as_tensor(value).flatten()[0])
        return 0

    def read_conversation(
        self,
        input_ids,
        inputs_embeds,
        attention_mask,
        question_mask=None,
        question_ids=None,
        settings: dict | None = None,
    ) -> tuple[Conversation, SafetyInputs]:
        """Return what the prompt says, and the inputs of its verdict without a policy."""
        if attention_mask is None and inputs_embeds is None:
            attention_mask = self.mask_padding(input_ids, settings or {})
        if question_mask is not None:
            prompt = input_ids if inputs_embeds is None else inputs_embeds
            check_question_mask(question_mask, tuple(prompt.shape[:2]))
        safety_inputs = self.model.prepare_safety_inputs(
            input_ids, inputs_embeds, attention_mask, question_mask=question_mask
        )
        turns = safety_inputs.text_mask.long()
        # The published head reads the first token of the prompt, whoever said it.
        is_masked = question_mask is not None and self.config.safety_config.head_pooling != "first"
        if is_masked:
            turns = turns * question_mask.long().to(turns.device)
        if question_ids is None and self.config.safety_config.reads_words:
            question_ids = self.read_words(input_ids if inputs_embeds is None else None, turns, settings or {})
        elif question_ids is not None:
            check_question_ids(question_ids, len(turns), self.config.safety_config)
        found = (safety_inputs.text_embeds, turns, safety_inputs.image_mask, is_masked, question_ids)
        return Conversation(*found), safety_inputs

    def read_words(self, input_ids, turns: torch.LongTensor, settings: dict) -> torch.LongTensor | None:
        """Return the question in the head's own words, of token ids by the tokenizer of the call or the checkpoint."""
        if input_ids is None:
            logger.warning_once(NO_WORDS % "there are embeddings and no `question_ids`")
            return None
        try:
            words = load_words(self.name_or_path, revision=getattr(self.config, "_commit_hash", None))
            tokenizer = settings.get("tokenizer") or self._load_tokenizer()
        except (OSError, ValueError) as error:
            logger.warning_once(NO_WORDS % f"{self.name_or_path!r} brings no tokenizer ({str(error)[:80]})")
            return None
        return words.of_tokens(tokenizer, input_ids, turns)

    def _load_tokenizer(self):
        return load_tokenizer(self.name_or_path, getattr(self.config, "_commit_hash", None))

    def verdict_inputs(
        self, conversation: Conversation, policy: SafetyPolicy, safety_inputs: SafetyInputs
    ) -> SafetyInputs:
        """Return the inputs of a verdict on a whole conversation."""
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
            question_ids=conversation.words(policy.remembered_turns),
        )


def _check_shadow(is_shadow: bool, audit: SafetyAudit | None):
    # Neither a policy nor a checkpoint can ask for shadow mode, only the call: it answers whatever a verdict says.
    if not isinstance(is_shadow, bool):
        raise ValueError(f"`safety_shadow` must be true or false, got {is_shadow!r}.")
    if is_shadow and audit is None:
        raise ValueError(
            "`safety_shadow=True` does nothing with a verdict but write it down: pass `safety_audit`, too, or the "
            "images would be answered without a trace of it."
        )
    if is_shadow:
        logger.warning_once(
            "Shadow mode (`safety_shadow=True`): verdicts are written down, and every image is answered."
        )
