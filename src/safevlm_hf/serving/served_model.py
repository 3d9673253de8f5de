"""The model that is served: turns requests into its inputs, and these into verdicts and answers."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from fastapi import HTTPException
from jinja2 import TemplateError
from transformers import BatchFeature
from transformers.cli.serving.utils import GenerateManager, GenerationState

from ..asking import encode
from ..checkpoints.families import SafeModel, SafeProcessor
from ..modeling.safety_policy import SafetyVerdict
from ..operator_prompt import system_message
from .errors import BadRequest, shorten
from .images import open_pictures
from .observation import Observation
from .requests import ImagePart, Message, TextPart, UserMessage, parts_of, role_of
from .settings import Limits, Settings


class ServedModel:
    """One checkpoint under one name, in place of transformers' `ModelManager`, which loads what a request names.

    Texts and pictures are prepared on one thread and the model runs on another, request by request: neither the
    tokenizer nor the model ever works on two requests at a time, and decoding a picture never blocks the event loop.
    Few requests are prepared ahead, because pictures take far more memory as pixels than as files.

    Transformers' handler also takes it for the model: `generate` moves inputs to the device when it is their turn.

    Args:
        model, processor, name, limits: as for [`create_app`].
        settings: the operator's.
    """

    def __init__(self, model: SafeModel, processor: SafeProcessor, name: str, limits: Limits, settings: Settings):
        self.model = model
        self.config = model.config
        self.processor = processor
        self.name = name
        self.limits = limits
        self.settings = settings
        prompt = settings.system_prompt
        self.operator_messages = [] if prompt is None else [system_message(processor, prompt)]
        self.created = int(time.time())
        self.context = model.config.get_text_config().max_position_embeddings
        self.generation_state = GenerationState()
        manager = self.generation_state.get_manager(name)
        assert isinstance(manager, GenerateManager), "not continuous batching, which takes no pixels"
        self.generate_manager = manager
        self._preparer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prepare")
        self._places = asyncio.Semaphore(limits.prepared)

    def get_gen_models(self) -> list[dict]:
        return [{"id": self.name, "object": "model", "created": self.created, "owned_by": "safevlm_hf"}]

    list_models = get_gen_models  # its name since transformers 5.24

    def shutdown(self):
        self._preparer.shutdown(wait=False, cancel_futures=True)

    def check_name(self, name: str | None):
        if name not in (None, self.name):
            raise HTTPException(404, f"There is no model {shorten(name)!r} here, only {self.name!r}.")

    def check_size(self, messages: Sequence[Message]):
        """Raise `BadRequest` for too many parts or characters, before the request waits in line."""
        parts, limits = _all_parts(messages), self.limits
        if len(parts) > limits.parts:
            raise BadRequest(f"The messages have {len(parts)} parts, more than {limits.parts}.")
        characters = sum(len(part.text) for part in parts if isinstance(part, TextPart))
        if characters > limits.characters:
            raise BadRequest(f"The texts have {characters} characters, more than {limits.characters}.")

    async def take_place(self) -> ExitStack:
        """Wait for one of the few places of requests whose pictures are in memory; closing it gives the place back."""
        await self._places.acquire()
        place = ExitStack()
        place.callback(self._places.release)
        return place

    def keep_until_generated(self, place: ExitStack):
        """Keep a place until the model's thread has done what it was handed last, however early the client leaves."""
        self.generate_manager.submit(asyncio.get_running_loop().call_soon_threadsafe, place.pop_all().close)

    async def prepare(self, messages: Sequence[Message]) -> BatchFeature:
        """Return the model's inputs. Raises `BadRequest` for a picture that is refused, or for a long prompt."""
        return await asyncio.get_running_loop().run_in_executor(self._preparer, self._prepare, messages)

    def _prepare(self, messages: Sequence[Message]) -> BatchFeature:
        urls = [part.image_url.url for part in _all_parts(messages) if isinstance(part, ImagePart)]
        images = iter(open_pictures(urls, self.limits))
        chat = self.operator_messages.copy()
        for message in messages:
            content = [
                {"type": "text", "text": part.text}
                if isinstance(part, TextPart)
                else {"type": "image", "image": next(images)}
                for part in parts_of(message)
            ]
            chat.append({"role": role_of(message), "content": content})
        # `None` believes the roles that a client gave its messages; a number believes the first ones alone.
        num_trusted = None if self.settings.trust_client_roles else len(self.operator_messages)
        try:
            inputs = encode(self.processor, [chat], operator_messages=num_trusted)
        except TemplateError as error:  # many templates want roles in a fixed order
            raise BadRequest(
                f"The model's chat template does not take these messages: {shorten(str(error), 300)}."
            ) from None
        length = inputs["input_ids"].shape[1]
        if length >= self.context:
            raise BadRequest(f"The prompt has {length} tokens, and the model's context ends at {self.context}.")
        return inputs

    def num_new_tokens(self, inputs: BatchFeature, wanted: int | None) -> int:
        """Return how many tokens the answer may have. Raises `BadRequest` where a client wants more."""
        most = min(self.limits.new_tokens, self.context - inputs["input_ids"].shape[1])
        if wanted is None:
            return min(self.model.generation_config.max_new_tokens or most, most)
        if wanted > most:
            raise BadRequest(
                f"`max_tokens` is {shorten(str(wanted))}, and this prompt leaves room for {most}.", "max_tokens"
            )
        return wanted

    async def assess(self, messages: list[UserMessage], observation: Observation) -> list[SafetyVerdict]:
        """Judge the pictures of a request that wants no answer."""
        self.check_size(messages)

        def judge(inputs: BatchFeature) -> list[SafetyVerdict]:
            outputs = self.model.assess(**self._on_device(inputs), safety_audit=observation)
            return self.processor.post_process_safety(outputs)

        with await self.take_place():
            # The model's own thread judges, in turn with answers.
            return await self.generate_manager.async_submit(judge, await self.prepare(messages))

    def generate(self, **inputs):
        """Call the model's `generate`. Transformers' handler does so on the model's thread."""
        return self.model.generate(**self._on_device(inputs))

    def _on_device(self, inputs: Mapping) -> BatchFeature:
        return BatchFeature(dict(inputs)).to(self.model.device, self.model.dtype)


def _all_parts(messages: Sequence[Message]) -> list[TextPart | ImagePart]:
    return [part for message in messages for part in parts_of(message)]
