"""Check requests: they may have OpenAI's fields that mean something here, and the others as long as these ask for
nothing."""

import json
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import BadRequest
from .reasons import NO_CHARACTER, reasons_of


MAX_VALUES = 10_000  # values of a request, at any depth: pydantic gathers an error for each before it gives up
MAX_STOP_LENGTH = 32  # characters: transformers makes a table for them that is as wide as the texts are long


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def read_request(schema: type[Strict], body: dict):
    """Return the checked request. Raises `BadRequest` with the field and the reason."""
    _check_count(body)
    try:
        return schema.model_validate(body)
    except ValidationError as error:
        raise reasons_of(error.errors(include_url=False, include_input=False), body) from None


def _check_count(body: dict):
    """Raise `BadRequest` for more values than any request needs, without looking at all of them."""
    count, waiting = 0, [body]
    while waiting:
        value = waiting.pop()
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        count += len(inner)
        if count > MAX_VALUES:
            raise BadRequest(f"The request has more than {MAX_VALUES} values.")
        waiting += inner


def _check_unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(NO_CHARACTER) from None
    return text


def _only(*values) -> AfterValidator:
    """Accept only these values, for a field that clients send with its default and that nothing here obeys."""

    def check(value):
        if value not in values:
            raise ValueError(f"this server supports only {' or '.join(map(json.dumps, values))}")
        return value

    return AfterValidator(check)


Text = Annotated[str, AfterValidator(_check_unicode)]
Label = Annotated[str, Field(max_length=512)]  # about the caller, or a cache of OpenAI's; it is read by nobody


class TextPart(Strict):
    type: Literal["text"]
    text: Text


class ImageUrl(Strict):
    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None  # the model has one size


class ImagePart(Strict):
    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]
Parts = Annotated[list[Part], Field(min_length=1)]
TextParts = Annotated[list[TextPart], Field(min_length=1)]


class UserMessage(Strict):
    role: Literal["user"]
    content: Text | Parts
    name: Label | None = None


class SystemMessage(Strict):
    """Instructions that a client puts before a conversation; `developer` is OpenAI's newer name for the role."""

    role: Literal["system", "developer"]
    content: Text | TextParts
    name: Label | None = None


class AssistantMessage(Strict):
    """An answer, as a client got it. A refusal says the same as the content, and may take its place."""

    role: Literal["assistant"]
    content: Text | TextParts | None = None
    name: Label | None = None
    refusal: Text | None = None
    annotations: Annotated[list, _only([])] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: Annotated[list, _only([])] | None = None

    @model_validator(mode="after")
    def _check_content(self):
        if self.content is None and self.refusal is None:
            raise ValueError("an answer needs a `content`")
        return self


Message = Annotated[UserMessage | SystemMessage | AssistantMessage, Field(discriminator="role")]
StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH), AfterValidator(_check_unicode)]


class ResponseFormat(Strict):
    type: Annotated[str, _only("text")]


class ChatRequest(Strict):
    """Any field that is not here is refused, not ignored."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    model: str | None = None
    stream: bool | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=4)] | None = None
    # A stream always ends with its usage, and is never padded.
    stream_options: dict[Literal["include_usage", "include_obfuscation"], bool] | None = None

    # These are about the caller, or a cache of OpenAI's: they are accepted, and neither used nor kept.
    user: Label | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    prompt_cache_retention: Label | None = None
    metadata: Annotated[dict[Annotated[str, Field(max_length=64)], Label], Field(max_length=16)] | None = None

    # Clients send these with their defaults. Any other value would ask for something that this server cannot do.
    n: Annotated[int, _only(1)] | None = None
    presence_penalty: Annotated[float, _only(0)] | None = None
    frequency_penalty: Annotated[float, _only(0)] | None = None
    logit_bias: Annotated[dict, _only({})] | None = None
    logprobs: Annotated[bool, _only(False)] | None = None
    top_logprobs: Annotated[int, _only(0)] | None = None
    response_format: ResponseFormat | None = None
    modalities: Annotated[list, _only(["text"])] | None = None
    tools: Annotated[list, _only([])] | None = None
    tool_choice: Annotated[str, _only("none", "auto")] | None = None
    parallel_tool_calls: bool | None = None
    store: Annotated[bool, _only(False)] | None = None
    service_tier: Annotated[str, _only("auto", "default")] | None = None
    functions: Annotated[list, _only([])] | None = None
    function_call: Annotated[str, _only("none", "auto")] | None = None
    reasoning_effort: Annotated[str, _only("none")] | None = None  # the model does not think before it answers
    verbosity: Annotated[str, _only("medium")] | None = None
    audio: None = None
    moderation: None = None
    prediction: None = None
    prompt_cache_options: None = None
    web_search_options: None = None


class ModerationRequest(Strict):
    input: str | Annotated[list[str], Field(min_length=1)] | Parts
    model: str | None = None


def role_of(message: Message) -> str:
    """Return the role's name in chat templates."""
    return "system" if message.role == "developer" else message.role


def parts_of(message: Message) -> Sequence[TextPart | ImagePart]:
    content = (message.refusal or "") if message.content is None else message.content
    return [TextPart(type="text", text=content)] if isinstance(content, str) else content
