"""`safevlm serve`: transformers' own server with one safe checkpoint, and `POST /v1/moderations`.

The app, its chat handler, its streams and its inference thread are transformers'. What is ours is the door: which
routes there are, which fields a request may have and how large it may be. A client can name neither a policy nor a
checkpoint, a template, a file or an address. Nor is a client believed about who said what: all of its texts, in any
role, are the question that a verdict is about. Only the operator's own system prompt is not.
"""

import asyncio
import base64
import binascii
import inspect
import io
import json
import logging
import os
import re
import socket
import time
from collections import deque
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Literal

from jinja2 import TemplateError
from PIL import Image
from transformers import BatchFeature, PreTrainedModel, ProcessorMixin

from .modeling import SafetyAudit, SafetyPolicy
from .modeling.configuration_safety import SAFE
from .modeling.generation_safety import AUDIT_VARIABLE
from .modeling.image_loading import to_rgb
from .modeling.safety_policy import ACTIONS, SafetyVerdict
from .operator_prompt import system_message


try:
    import openai  # noqa: F401  transformers' server needs it, and says so late
    import uvicorn
    from fastapi import FastAPI, HTTPException, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
    from starlette.exceptions import HTTPException as StarletteHTTPException
    from transformers.cli.serving.chat_completion import ChatCompletionHandler
    from transformers.cli.serving.server import build_server
    from transformers.cli.serving.utils import GenerationState
except ImportError as error:
    raise ImportError(f"Serving needs more packages ({error}): pip install 'safevlm_hf[serve]'.") from error


ROUTES = {
    "/v1/chat/completions",
    "/v1/models",
    "/health",
}  # of transformers' server; its others load and unload models
FORMATS = ["BMP", "GIF", "JPEG", "PNG", "WEBP"]  # Pillow reads others by running programs
DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,")
STREAM_ERROR = 'data: {"error": '  # how transformers' stream begins an error
GRACE = 30  # seconds that open requests have when the server is asked to stop

logger = logging.getLogger("uvicorn.error")


@dataclass(frozen=True)
class Limits:
    """How large things may be.

    Args:
        body: bytes of a request.
        images: pictures in a request.
        pixels: of all pictures in a request together.
        characters: of all texts in a request together.
        new_tokens: of an answer.
        connections: open ones; more are told 503.
    """

    body: int = 16 * 2**20
    images: int = 16
    pixels: int = 2**25
    characters: int = 2**18
    new_tokens: int = 1024
    connections: int = 256


# --------------------------------------------------------------------------------------------------
# What a request may say
# --------------------------------------------------------------------------------------------------


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _check_unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair is no character") from None
    return text


Text = Annotated[str, AfterValidator(_check_unicode)]


class TextPart(_Strict):
    type: Literal["text"]
    text: Text


class ImageUrl(_Strict):
    url: str
    detail: Literal["auto", "low", "high"] | None = None  # the model has one size


class ImagePart(_Strict):
    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]
Parts = Annotated[list[Part], Field(min_length=1)]


class UserMessage(_Strict):
    role: Literal["user"]
    content: Text | Parts


class OtherMessage(_Strict):
    role: Literal["system", "assistant"]
    content: Text | Annotated[list[TextPart], Field(min_length=1)]


StopString = Annotated[Text, Field(min_length=1, max_length=64)]


class ChatRequest(_Strict):
    """The fields of OpenAI's that mean something here; any other is refused, not ignored."""

    messages: Annotated[
        list[Annotated[UserMessage | OtherMessage, Field(discriminator="role")]], Field(min_length=1, max_length=1000)
    ]
    model: str | None = None
    stream: bool | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stop: StopString | Annotated[list[StopString], Field(min_length=1, max_length=4)] | None = None
    n: Literal[1] | None = None
    user: str | None = None
    stream_options: dict[Literal["include_usage"], bool] | None = None  # a stream always ends with its usage


class ModerationRequest(_Strict):
    input: str | Annotated[list[str], Field(min_length=1)] | Parts
    model: str | None = None


def _read(schema: type[_Strict], body: dict):
    try:
        return schema.model_validate(body)
    except ValidationError as error:
        raise HTTPException(422, _reasons(error.errors())) from None


def _reasons(errors: list[dict]) -> str:
    """Where and why, without what was sent."""
    found = [f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in errors[:5]]
    return "; ".join(found + [f"and {len(errors) - 5} more"] * (len(errors) > 5))


# --------------------------------------------------------------------------------------------------
# From a request to the model's inputs
# --------------------------------------------------------------------------------------------------


class ServedModel:
    """One checkpoint under one name, in place of transformers' `ModelManager`, which loads what a request names.

    Texts and pictures are prepared on one thread and the model runs on another, request by request: neither the
    tokenizer nor the model is ever in two requests at a time, and the event loop waits for nobody's picture.

    Args:
        model, processor, name, limits, system_prompt, trust_client_roles: as for [`create_app`].
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        name: str,
        limits: Limits,
        system_prompt: str | None = None,
        trust_client_roles: bool = False,
    ):
        self.model = model
        self.processor = processor
        self.name = name
        self.limits = limits
        self.operator_messages = [] if system_prompt is None else [system_message(processor, system_prompt)]
        self.trust_client_roles = trust_client_roles
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
            raise HTTPException(404, f"There is no model {name!r} here, only {self.name!r}.")

    async def prepare(self, messages: list[UserMessage | OtherMessage]) -> BatchFeature:
        """The model's inputs. Raises `HTTPException` with 400 where a picture or the length does not do."""
        return await asyncio.get_running_loop().run_in_executor(self._preparer, self._prepare, messages)

    def _prepare(self, messages) -> BatchFeature:
        parts = [part for message in messages for part in _parts(message)]
        self._check_text(sum(len(part.text) for part in parts if isinstance(part, TextPart)))
        images = iter(self._open([part.image_url.url for part in parts if isinstance(part, ImagePart)]))
        chat = [
            {"role": message.role, "content": [_as_processor_part(part, images) for part in _parts(message)]}
            for message in messages
        ]
        inputs = self._tokenize(self.operator_messages + chat)
        length = inputs["input_ids"].shape[1]
        if length >= self.context:
            raise HTTPException(
                400, f"The prompt has {length} tokens, and the model's context ends at {self.context}."
            )
        return inputs.to(self.model.device, self.model.dtype)

    def _tokenize(self, chat: list[dict]) -> BatchFeature:
        try:
            return self.processor.apply_chat_template(
                chat,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                operator_messages=None if self.trust_client_roles else len(self.operator_messages),
            )
        except TemplateError as error:  # many templates want roles in a fixed order
            raise HTTPException(400, f"The model's chat template does not take these messages: {error}.") from None

    def _check_text(self, characters: int):
        if characters > self.limits.characters:
            raise HTTPException(400, f"The texts have {characters} characters, more than {self.limits.characters}.")

    def _open(self, urls: list[str]) -> list[Image.Image]:
        """RGB images of data URLs; their sizes are known before any is decoded."""
        if len(urls) > self.limits.images:
            raise HTTPException(400, f"The request has {len(urls)} pictures, more than {self.limits.images}.")
        opened = [_open_data_url(url, number) for number, url in enumerate(urls, start=1)]
        pixels = sum(image.width * image.height for image in opened)
        if pixels > self.limits.pixels:
            raise HTTPException(400, f"The pictures have {pixels} pixels, more than {self.limits.pixels} together.")
        return [_decode(image, number) for number, image in enumerate(opened, start=1)]

    def room(self, inputs: BatchFeature, wanted: int | None) -> int:
        """How many tokens the answer may have."""
        room = min(self.limits.new_tokens, self.context - inputs["input_ids"].shape[1])
        if wanted is None:
            return min(self.model.generation_config.max_new_tokens or room, room)
        if wanted > room:
            raise HTTPException(400, f"`max_tokens` is {wanted}, and this prompt leaves room for {room}.")
        return wanted

    async def assess(self, messages: list[UserMessage]) -> list[SafetyVerdict]:
        inputs = await self.prepare(messages)
        return await self.generate_manager.async_submit(self._assess, inputs)

    def _assess(self, inputs: BatchFeature) -> list[SafetyVerdict]:
        return self.processor.post_process_safety(self.model.assess(**inputs))


def _parts(message) -> list[TextPart | ImagePart]:
    content = message.content
    return [TextPart(type="text", text=content)] if isinstance(content, str) else content


def _as_processor_part(part: TextPart | ImagePart, images) -> dict:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    return {"type": "image", "image": next(images)}


def _open_data_url(url: str, number: int) -> Image.Image:
    found = DATA_URL.match(url)
    if not found:
        raise HTTPException(
            400,
            f"Picture {number} must be a data URL, `data:image/png;base64,...`: this server fetches no address and "
            "opens no file.",
        )
    try:
        return Image.open(io.BytesIO(base64.b64decode(url[found.end() :], validate=True)), formats=FORMATS)
    except binascii.Error as error:
        raise HTTPException(400, f"Picture {number} is no base64: {error}.") from None
    except Image.DecompressionBombError:
        raise HTTPException(400, f"Picture {number} has too many pixels.") from None
    except Exception:  # Pillow's errors are of many types, and name an address in memory
        raise HTTPException(400, f"Picture {number} is none of {', '.join(FORMATS)}, or it is broken.") from None


def _decode(image: Image.Image, number: int) -> Image.Image:
    try:
        return to_rgb(image)
    except ValueError as error:
        raise HTTPException(400, f"Picture {number} cannot be read: {error.__cause__ or error}.") from None


# --------------------------------------------------------------------------------------------------
# Chat
# --------------------------------------------------------------------------------------------------


class SafeChatHandler(ChatCompletionHandler):
    """transformers' handler, with a request that was read by us."""

    def __init__(self, served: ServedModel):
        super().__init__(served, served.generation_state)
        self.served = served

    async def handle_request(self, body: dict, request_id: str):
        served, request = self.served, _read(ChatRequest, body)
        served.check_name(request.model)
        inputs = await served.prepare(request.messages)
        options = request.model_dump(include={"top_p", "seed", "stop"})
        if request.temperature:
            options["temperature"] = request.temperature
        options["max_tokens"] = served.room(inputs, request.max_completion_tokens or request.max_tokens)
        config = self._build_generation_config(options, served.model.generation_config)
        if request.temperature is not None:
            config.do_sample = request.temperature > 0
        # The tokenizer, not the processor: a refusal is a text, which a processor would take for an image.
        arguments = (request_id, served.model, served.processor.tokenizer, served.name, inputs, config)
        if not request.stream:
            return await self._non_streaming(*arguments, gen_manager=served.generate_manager)
        response = self._streaming(*arguments, gen_manager=served.generate_manager)
        response.body_iterator = _end_stream(response.body_iterator)
        return response


async def _end_stream(chunks: AsyncGenerator[str]) -> AsyncGenerator[str]:
    """The stream with OpenAI's last line. An error is logged; the client learns that there was one."""
    async with aclosing(chunks):  # where the client has gone, transformers' stream stops the model
        async for chunk in chunks:
            sent, found, reason = chunk.partition(STREAM_ERROR)
            if found:
                logger.error("A stream ended with an error: %s", reason.strip())
                yield f"{sent}data: {json.dumps(_error(500, 'The answer could not be finished.'))}\n\n"
                return
            yield chunk
    yield "data: [DONE]\n\n"


# --------------------------------------------------------------------------------------------------
# Moderation
# --------------------------------------------------------------------------------------------------


async def _moderate(served: ServedModel, body: dict, request_id: str) -> dict:
    request = _read(ModerationRequest, body)
    served.check_name(request.model)
    parts = [] if isinstance(request.input, str) else request.input
    if not any(isinstance(part, ImagePart) for part in parts):
        raise HTTPException(
            400,
            "A text without a picture has no verdict here. `input` must be a list with an `image_url` part, and "
            "`text` parts with what is asked about it.",
        )
    verdicts = await served.assess([UserMessage(role="user", content=parts)])
    has_text = any(isinstance(part, TextPart) and part.text.strip() for part in parts)
    result = _moderation_result(verdicts, ["image", "text"] if has_text else ["image"])
    return {"id": f"modr-{request_id}", "model": served.name, "results": [result]}


def _moderation_result(verdicts: list[SafetyVerdict], input_types: list[str]) -> dict:
    """In OpenAI's shape, with our level and action. Of several pictures each category has its highest score, and the
    strictest one gives level and action."""
    strictest = max(verdicts, key=lambda verdict: (ACTIONS.index(verdict.action), verdict.risk))
    flagged = {name for verdict in verdicts for name in verdict.flagged_categories}
    names = [name for name in strictest.category_probabilities if name != SAFE]
    return {
        # A picture that the model cannot read is acted on without a category.
        "flagged": bool(flagged) or strictest.action in ("condition", "refuse"),
        "categories": {name: name in flagged for name in names},
        "category_scores": {name: max(one.category_probabilities[name] for one in verdicts) for name in names},
        "category_applied_input_types": dict.fromkeys(names, input_types),
        "level": strictest.level,
        "level_scores": strictest.level_probabilities,
        "action": strictest.action,
    }


# --------------------------------------------------------------------------------------------------
# The app
# --------------------------------------------------------------------------------------------------


def create_app(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    name: str,
    policy: SafetyPolicy | dict | None = None,
    limits: Limits | None = None,
    system_prompt: str | None = None,
    trust_client_roles: bool = False,
) -> FastAPI:
    """
    The server's app.

    Args:
        model: a trained checkpoint; its policy becomes the one that is served.
        name: of the model, in requests and answers.
        policy: laid over the checkpoint's own. No request can change it.
        limits: the default ones if unset.
        system_prompt: the operator's words. They stand in front of every conversation, and no verdict is about them.
        trust_client_roles: whether clients are believed about who said what. By default a client's system prompts and
            answers count as the question, because whoever writes a request can put anything into any role.

    Raises:
        `ValueError`: for an untrained head, a policy that does not fit, or a system prompt that the template does not
            take.
    """
    if not model.config.safety_config.is_trained:
        raise ValueError(f"{name} has an untrained safety head, its verdicts mean nothing: `safevlm train` first.")
    limits = limits or Limits()
    own = SafetyPolicy.create(model.kept_policy(), model.config.safety_config)
    model.generation_config.safety_policy = own.override(policy, model.config.safety_config).to_dict()
    served = ServedModel(model.eval(), processor, name, limits, system_prompt, trust_client_roles)

    given = {"model_manager": served, "chat_handler": SafeChatHandler(served)}
    others = dict.fromkeys(inspect.signature(build_server).parameters)
    app = build_server(**{**others, **given, "generation_state": served.generation_state, "enable_cors": False})
    app.router.routes[:] = [route for route in app.router.routes if route.path in ROUTES]

    @app.post("/v1/moderations")
    async def moderations(request: Request, body: dict):
        return await _moderate(served, body, request.state.request_id)

    app.add_middleware(_BodyLimit, limit=limits.body)
    app.add_exception_handler(StarletteHTTPException, _answer_http_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(Exception, _answer_failure)
    return app


class _BodyLimit:
    """Hands on a body that is not longer than the limit; of a longer one nothing is kept."""

    def __init__(self, app, limit: int):
        self.app = app
        self.limit = limit

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        messages, length, more = deque(), 0, True
        while more:  # to the end, or the client would not hear the answer
            message = await receive()
            length += len(message.get("body", b""))
            messages.append(message) if length <= self.limit else messages.clear()
            more = message.get("more_body", False)
        if length > self.limit:
            return await _answer(413, f"The request has more than {self.limit} bytes.")(scope, receive, send)

        async def replay():
            return messages.popleft() if messages else await receive()

        await self.app(scope, replay, send)


def _error(status: int, reason: str) -> dict:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": reason, "type": kind, "param": None, "code": status}}


def _answer(status: int, reason: str, headers: dict | None = None) -> JSONResponse:
    return JSONResponse(_error(status, reason), status, headers)


async def _answer_http_error(request: Request, error: StarletteHTTPException) -> JSONResponse:
    return _answer(error.status_code, str(error.detail), error.headers)


async def _answer_invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    return _answer(422, _reasons(error.errors()))


async def _answer_failure(request: Request, error: Exception) -> JSONResponse:
    return _answer(500, "The request could not be answered.")  # the server's log says why


def serve(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    name: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    policy: SafetyPolicy | dict | None = None,
    audit: str | os.PathLike | None = None,
    limits: Limits | None = None,
    system_prompt: str | None = None,
    trust_client_roles: bool = False,
):
    """
    Serve until interrupted.

    Args:
        model, processor, name, policy, limits, system_prompt, trust_client_roles: as for [`create_app`].
        port: 0 takes a free one.
        audit: JSON lines of what was seen and done, for every answer of this process.

    Raises:
        `OSError`: where the port is taken, or the audit cannot be written.
    """
    limits = limits or Limits()
    app = create_app(model, processor, name, policy, limits, system_prompt, trust_client_roles)
    if audit is not None:
        SafetyAudit(audit).append([])  # fails now, and ends a line that a killed server left
        os.environ[AUDIT_VARIABLE] = str(audit)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listener:
        address = f"[{host}]" if family == socket.AF_INET6 else host
        print(f"{name} on http://{address}:{listener.getsockname()[1]}", flush=True)
        config = uvicorn.Config(
            app, limit_concurrency=limits.connections, timeout_graceful_shutdown=GRACE, access_log=False
        )
        uvicorn.Server(config).run(sockets=[listener])
