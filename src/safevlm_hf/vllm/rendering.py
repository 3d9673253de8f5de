"""Messages to prompts, in the engine's frontend, as `SafeLlavaProcessor.apply_chat_template` makes them."""

from dataclasses import replace

from vllm.renderers.hf import HfRenderer
from vllm.transformers_utils.processor import cached_processor_from_config


class SafeLlavaRenderer(HfRenderer):
    """Makes special tokens inside messages plain text, and begins a prompt with BOS where the tokenizer does."""

    def render_messages(self, messages, params):
        conversation, prompt = super().render_messages(*self._neutralise(messages, params))
        return conversation, self._tokenise(prompt)

    async def render_messages_async(self, messages, params):
        conversation, prompt = await super().render_messages_async(*self._neutralise(messages, params))
        return conversation, self._tokenise(prompt)

    def _neutralise(self, messages, params):
        processor = cached_processor_from_config(self.model_config)
        kwargs = {**processor._neutralise(params.chat_template_kwargs), "tokenize": False}
        # As parts, not as one string: where the images go is the template's business.
        params = replace(params, chat_template_kwargs=kwargs, chat_template_content_format="openai")
        return processor._neutralise(messages), params

    def _tokenise(self, prompt):
        tokenizer, text = self.get_tokenizer(), prompt["prompt"]
        has_bos = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
        return {**prompt, "prompt_token_ids": tokenizer(text, add_special_tokens=not has_bos)["input_ids"]}

    def _process_tokens(self, prompt, **kwargs):
        self._check_places(prompt)
        return super()._process_tokens(prompt, **kwargs)

    async def _process_tokens_async(self, prompt, **kwargs):
        self._check_places(prompt)
        return await super()._process_tokens_async(prompt, **kwargs)

    def _check_places(self, prompt):
        has_place = self.model_config.hf_config.image_token_id in prompt["prompt_token_ids"]
        if has_place and not prompt.get("multi_modal_data"):
            raise ValueError("The prompt has image tokens and no images.")
