"""`POST /v1/chat/completions`: transformers' handler, with requests that are checked here."""

import json
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi.responses import JSONResponse
from transformers.cli.serving.chat_completion import ChatCompletionHandler

from .errors import error_body
from .metrics import Metrics
from .observation import Observation
from .requests import ChatRequest, read_request
from .routes import CHAT
from .served_model import ServedModel


STREAM_ERROR = 'data: {"error": '  # how transformers' stream begins an error
DATA = "data: "
COLDEST = 0.01  # a lower temperature is none: scores divided by less overflow, and a GPU does not recover from that

logger = logging.getLogger("uvicorn.error")


class SafeChatHandler(ChatCompletionHandler):
    """Answer chats. `generate` makes the verdict, so no answer goes around it; a client learns of it what the operator
    allows."""

    def __init__(self, served: ServedModel, metrics: Metrics):
        # `served` takes the places of transformers' manager of models and of the model.
        super().__init__(served, served.generation_state)  # type: ignore[arg-type]
        self.served, self.metrics = served, metrics

    async def handle_request(self, body: dict, request_id: str):
        served, request = self.served, read_request(ChatRequest, body)
        served.check_name(request.model)
        served.check_size(request.messages)
        observation = Observation(request_id, CHAT, served.settings, self.metrics)
        with await served.take_place() as place:
            inputs = await served.prepare(request.messages)
            max_tokens = served.num_new_tokens(inputs, request.max_completion_tokens or request.max_tokens)
            config = self._config(request, max_tokens)
            observed = {**inputs, "safety_audit": observation, "safety_shadow": served.settings.shadow}
            # The handler gets the tokenizer, not the processor, which would take a refusal's text for an image.
            arguments = (request_id, served, served.processor.tokenizer, served.name, observed, config)
            if not request.stream:
                response = await self._non_streaming(*arguments, gen_manager=served.generate_manager)  # type: ignore[arg-type]
                return JSONResponse(self._tell(json.loads(bytes(response.body)), observation))
            stream = self._streaming(*arguments, gen_manager=served.generate_manager)  # type: ignore[arg-type]
            served.keep_until_generated(place)
        # It is transformers' generator of texts, and a response's may be any iterator.
        stream.body_iterator = self._finish_stream(stream.body_iterator, observation)  # type: ignore[arg-type]
        return stream

    def _config(self, request: ChatRequest, max_tokens: int):
        options = request.model_dump(include={"top_p", "seed"})
        # Transformers' builder knows a temperature above 0 alone; at 0 the answer must be the likeliest one.
        is_warm = request.temperature is not None and request.temperature >= COLDEST
        if is_warm:
            options["temperature"] = request.temperature
        options["max_tokens"], options["stop"] = max_tokens, request.stop or None  # an empty list is none
        config = self._build_generation_config(options, self.served.model.generation_config)
        if request.temperature is not None:
            config.do_sample = is_warm
        return config

    def _tell(self, body: dict, observation: Observation) -> dict:
        """Add to an answer, or to a part of a stream, what the client may know of the decision.

        A forced refusal stays in `content`, where every client looks, and is in `refusal`, too, as OpenAI has it."""
        (choice,) = body["choices"]
        said = choice.get("message") or choice["delta"]
        if observation.is_refused:
            if said.get("content"):
                said["refusal"] = said["content"]
            if choice.get("finish_reason"):
                choice["finish_reason"] = "content_filter"
        verdict = observation.verdict()
        if choice.get("finish_reason") and self.served.settings.expose_verdict and verdict is not None:
            body["safety"] = verdict
        return body

    async def _finish_stream(self, chunks: AsyncGenerator[str], observation: Observation) -> AsyncGenerator[str]:
        """Pass on the stream and OpenAI's last line. An error is logged; the client only learns that there was one."""
        async with aclosing(chunks):  # where the client has gone, transformers' stream stops the model
            async for chunk in chunks:
                sent, found, reason = chunk.partition(STREAM_ERROR)
                if sent:
                    bodies = [json.loads(event.removeprefix(DATA)) for event in sent.split("\n\n") if event]
                    yield "".join(_event(self._tell(body, observation)) for body in bodies)
                if found:
                    self.metrics.broken_streams.inc()
                    logger.error("A stream ended with an error: %r", reason.strip())
                    yield _event(error_body(500, "The answer could not be finished."))
                    return
        yield f"{DATA}[DONE]\n\n"


def _event(body: dict) -> str:
    return f"{DATA}{json.dumps(body, ensure_ascii=False)}\n\n"
