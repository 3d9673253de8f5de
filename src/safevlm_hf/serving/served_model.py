"""From a request to the model's inputs, and from them to a verdict."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from fastapi import HTTPException
from jinja2 import TemplateError
from transformers import BatchFeature, PreTrainedModel, ProcessorMixin
from transformers.cli.serving.utils import GenerationState

from ..modeling.safety_policy import SafetyVerdict
from ..operator_prompt import system_message
from .errors import BadRequest, shorten
from .images import open_pictures
from .observation import Observation
from .requests import ImagePart, Message, TextPart, UserMessage, parts_of
from .settings import Limits, Settings


class ServedModel:
    """One checkpoint under one name, in place of transformers' `ModelManager`, which loads what a request names.

    Texts and pictures are prepared on one thread and the model runs on another, request by request: neither the
    tokenizer nor the model is ever in two requests at a time, and the event loop waits for nobody's picture.

    Args:
        model, processor, name, limits: as for [`create_app`].
        settings: the operator's.
    """

    def __init__(
        self, model: PreTrainedModel, processor: ProcessorMixin, name: str, limits: Limits, settings: Settings
    ):
        self.model = model
        self.processor = processor
        self.name = name
        self.limits = limits
        self.settings = settings
        prompt = settings.system_prompt
        self.operator_messages = [] if prompt is None else [system_message(processor, prompt)]
        self.created = int(time.time())
        self.context = model.config.get_text_config().max_position_embeddings
        self.generation_state = GenerationState()  # no continuous batching: it takes no pixels
        self.generate_manager = self.generation_state.get_manager(name)
        self._preparer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prepare")

    def get_gen_models(self) -> list[dict]:
        return [{"id": self.name, "object": "model", "created": self.created, "owned_by": "safevlm_hf"}]

    list_models = get_gen_models  # its name since transformers 5.24

    def shutdown(self):
        self._preparer.shutdown(wait=False, cancel_futures=True)

    def check_name(self, name: str | None):
        if name not in (None, self.name):
            raise HTTPException(404, f"There is no model {shorten(name)!r} here, only {self.name!r}.")

    async def prepare(self, messages: list[Message]) -> BatchFeature:
        """The model's inputs. Raises `BadRequest` where a picture or the length does not do."""
        return await asyncio.get_running_loop().run_in_executor(self._preparer, self._prepare, messages)

    def _prepare(self, messages: list[Message]) -> BatchFeature:
        parts = [part for message in messages for part in parts_of(message)]
        self._check_text(sum(len(part.text) for part in parts if isinstance(part, TextPart)))
        urls = [part.image_url.url for part in parts if isinstance(part, ImagePart)]
        images = iter(open_pictures(urls, self.limits))
        chat = [
            {"role": message.role, "content": [_as_processor_part(part, images) for part in parts_of(message)]}
            for message in messages
        ]
        inputs = self._tokenize(self.operator_messages + chat)
        length = inputs["input_ids"].shape[1]
        if length >= self.context:
            raise BadRequest(f"The prompt has {length} tokens, and the model's context ends at {self.context}.")
        return inputs.to(self.model.device, self.model.dtype)

    def _tokenize(self, chat: list[dict]) -> BatchFeature:
        try:
            return self.processor.apply_chat_template(
                chat,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                operator_messages=None if self.settings.trust_client_roles else len(self.operator_messages),
            )
        except TemplateError as error:  # many templates want roles in a fixed order
            raise BadRequest(f"The model's chat template does not take these messages: {error}.") from None

    def _check_text(self, characters: int):
        if characters > self.limits.characters:
            raise BadRequest(f"The texts have {characters} characters, more than {self.limits.characters}.")

    def room(self, inputs: BatchFeature, wanted: int | None) -> int:
        """How many tokens the answer may have."""
        room = min(self.limits.new_tokens, self.context - inputs["input_ids"].shape[1])
        if wanted is None:
            return min(self.model.generation_config.max_new_tokens or room, room)
        if wanted > room:
            raise BadRequest(f"`max_tokens` is {wanted}, and this prompt leaves room for {room}.", "max_tokens")
        return wanted

    async def assess(self, messages: list[UserMessage], observation: Observation) -> list[SafetyVerdict]:
        inputs = await self.prepare(messages)
        return await self.generate_manager.async_submit(self._assess, inputs, observation)

    def _assess(self, inputs: BatchFeature, observation: Observation) -> list[SafetyVerdict]:
        return self.processor.post_process_safety(self.model.assess(**inputs, safety_audit=observation))


def _as_processor_part(part: TextPart | ImagePart, images) -> dict:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    return {"type": "image", "image": next(images)}
