"""Renderer of the engine's frontend: messages to prompts, as a safe processor's `apply_chat_template` makes them."""

from dataclasses import replace
from functools import partial

import numpy as np
from vllm.renderers.hf import (
    HfRenderer,
    resolve_chat_template,
    resolve_chat_template_kwargs,
    safe_apply_chat_template,
)
from vllm.transformers_utils.processor import cached_processor_from_config
from vllm.utils.async_utils import make_async

from ..modeling.question_mask import QuestionSpans, find_question, has_texts, token_turns
from ..modeling.safety_words import SafetyWords
from .prompts import QUESTION, RenderedQuestion, read_words, words_of_tokens
from .settings import read_operator, read_policy


UNPRINTED = ("chat_template", "tokenize", "continue_final_message")  # options of a rendering
TURNS = "question_turns"  # a rendered prompt holds the question mask here, one number per token
WORDS = "question_words"  # and here the question in the head's own words, (words, 2)


class SafeRenderer(HfRenderer):
    """
    Make special tokens inside messages plain text, begin a prompt with BOS where the tokenizer does, put the
    operator's prompt in front, and find the question: all that clients say in any role, or, where the operator trusts
    their roles, what users say.
    """

    def __init__(self, config, tokenizer):
        super().__init__(config, tokenizer)
        self.operator = read_operator(self.model_config)
        self.remembered_turns = read_policy(self.model_config).remembered_turns
        self.words = read_words(self.model_config.hf_config, self.model_config.model, self.model_config.revision)
        self._read_async = make_async(self._read, executor=self._executor)

    def render_messages(self, messages, params):
        messages, params = self._prepare(messages, params)
        conversation, prompt = super().render_messages(messages, params)
        return conversation, self._tokenise(prompt, self._read(conversation, params))

    async def render_messages_async(self, messages, params):
        messages, params = self._prepare(messages, params)
        conversation, prompt = await super().render_messages_async(messages, params)
        spans = await self._render_with_timeout(self._read_async(conversation, params))
        return conversation, self._tokenise(prompt, spans)

    def _prepare(self, messages, params):
        processor = cached_processor_from_config(self.model_config)
        plain = processor.plain_text()
        kwargs = {**plain.value(params.chat_template_kwargs), "tokenize": False}
        # Contents are handed over as parts, not as one string: where the images go is the template's business.
        params = replace(params, chat_template_kwargs=kwargs, chat_template_content_format="openai")
        return plain.conversation([*self.operator.messages, *messages]), params

    def _read(self, conversation, params) -> QuestionSpans | None:
        """Find the question in a conversation's prompt, in which no text of a client may have spelled a token. Return
        nothing where all of the prompt's text is the question."""
        options = params.get_apply_chat_template_kwargs()
        self._check_rendering(conversation, options)
        if not self.operator.trusts_client_roles and self._brings_texts(options):
            return None
        render = partial(safe_apply_chat_template, self.model_config, self.get_tokenizer(), **options)
        operator_messages = None if self.operator.trusts_client_roles else len(self.operator.messages)
        return find_question(conversation, operator_messages, bool(options.get("continue_final_message")), render)

    def _check_rendering(self, conversation, options: dict):
        tokenizer = self.get_tokenizer()
        chosen = options.get("chat_template")
        template = resolve_chat_template(tokenizer, chosen, options.get("tools"), model_config=self.model_config)
        if isinstance(tokenizer.chat_template, dict):  # the engine may return a name as it is
            template = tokenizer.chat_template.get(template, template)
        # An option that cuts the end of a prompt off would hide that end from the check.
        variables = {name: value for name, value in options.items() if name not in UNPRINTED}
        render = partial(safe_apply_chat_template, self.model_config, tokenizer, chat_template=chosen, tokenize=False)
        plain = cached_processor_from_config(self.model_config).plain_text()
        plain.check_rendering(render, conversation, variables, template)

    def _brings_texts(self, options: dict) -> bool:
        """Tell whether more than messages make the prompt. Variables that the template does not read do not count."""
        if options.get("chat_template") or options.get("tools"):
            return True
        tokenizer = self.get_tokenizer()
        template = resolve_chat_template(tokenizer, None, None, model_config=self.model_config)
        variables = {name: value for name, value in options.items() if name not in ("chat_template", "tokenize")}
        return has_texts(resolve_chat_template_kwargs(tokenizer, template, variables))

    def _tokenise(self, prompt, spans: QuestionSpans | None):
        tokenizer, text = self.get_tokenizer(), prompt["prompt"]
        has_bos = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
        found = spans if spans is not None and spans.text == text and tokenizer.is_fast else None
        encoded = tokenizer(text, add_special_tokens=not has_bos, return_offsets_mapping=found is not None)
        prompt = {**prompt, "prompt_token_ids": encoded["input_ids"]}
        if self.words is not None:
            special = cached_processor_from_config(self.model_config).special_texts
            prompt[WORDS] = self.words.of_prompt(text, spans, special)
        return prompt if found is None else {**prompt, TURNS: token_turns(encoded["offset_mapping"], found.spans)}

    def _process_tokens(self, prompt, **kwargs):
        return super()._process_tokens(self._with_question(prompt), **kwargs)

    async def _process_tokens_async(self, prompt, **kwargs):
        return await super()._process_tokens_async(self._with_question(prompt), **kwargs)

    def _with_question(self, prompt):
        """Add the question for the processor of images, which refuses all other arguments."""
        has_place = self.model_config.hf_config.image_token_id in prompt["prompt_token_ids"]
        if not prompt.get("multi_modal_data"):
            if has_place:
                raise ValueError("The prompt has image tokens and no images.")
            return prompt
        if self.words is not None:
            question = self._words(self.words, prompt["prompt_token_ids"], prompt.get(WORDS))
        else:
            question = self._question(prompt["prompt_token_ids"], prompt.get(TURNS))
        return {**prompt, "mm_processor_kwargs": {QUESTION: question, **(prompt.get("mm_processor_kwargs") or {})}}

    def _question(self, prompt_ids: list[int], turns: list[int] | None) -> RenderedQuestion:
        """Return the question's token ids, or those of all text where a prompt is raw, was cut, or no client
        speaks."""
        config = self.model_config.hf_config
        is_text = np.array(prompt_ids) != config.image_token_id
        if config.safety_config.head_pooling == "first":  # it reads the prompt, whoever said it
            return np.array(prompt_ids, dtype=int)[is_text].view(RenderedQuestion)
        is_whole = turns is not None and len(turns) == len(prompt_ids)
        counted = np.array(turns if is_whole else is_text, dtype=int) * is_text
        remembered = self._are_remembered(counted if counted.any() else is_text.astype(int))
        return np.array(prompt_ids, dtype=int)[remembered].view(RenderedQuestion)

    def _words(self, rule: SafetyWords, prompt_ids: list[int], words: list[list[int]] | None) -> RenderedQuestion:
        """Return the ids of the head's own words, as [`_question`] returns those of tokens."""
        if words is None:
            question = words_of_tokens(rule, self.get_tokenizer(), self.model_config.hf_config, prompt_ids)
            return question.view(RenderedQuestion)
        ids, turns = np.array(words, dtype=int).reshape(-1, 2).T
        return ids[self._are_remembered(turns)].view(RenderedQuestion)

    def _are_remembered(self, turns: np.ndarray) -> np.ndarray:
        """Tell by their turns which of these are the question: the last ones, as many as the policy remembers."""
        is_question = turns > 0
        if self.remembered_turns is not None and is_question.any():
            is_question &= turns < turns[is_question].min() + self.remembered_turns
        return is_question
