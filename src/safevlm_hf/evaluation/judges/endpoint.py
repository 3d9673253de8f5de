"""A model behind an OpenAI-compatible endpoint as a judge."""

import base64
import io
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from ...data.records import load_image
from ...extras import needs_extra
from ...strict_data import digest
from ..protocol.cache import JsonLinesCache
from .prompts import JudgePrompt
from .reading_judge import ReadingJudge, Reply, Request


IMAGE_SIZE = 1024
"""Longest side of a picture as it is sent, in pixels. Smaller ones are sent as they are."""
LONGEST_REASON = 300  # characters of a server's error that are kept
PROBE = "Reply with the number 1 and nothing else."
"""What a server is asked to find out whether it can be asked. Any reply will do."""


class JudgeUnavailable(RuntimeError, OSError):
    """A server that cannot be asked at all."""


class EndpointJudge(ReadingJudge):
    """Judge that asks `chat/completions` of a server once about each answer; pictures travel as data URLs.

    The `openai` client repeats a call after 408, 409, 429, 5xx, a timeout or a lost connection, up to `max_retries`
    times, with exponential backoff and jitter, or after what the server says in `Retry-After` (up to two minutes).

    Args:
        name, prompt, cache, sends_images, max_new_tokens, prices: as for `ReadingJudge`.
        model: as the server calls it.
        base_url: the server's address, such as `"http://localhost:8000/v1"`; OpenAI's if unset. A name and a password
            in it are not shown or written anywhere.
        key_variable: environment variable that holds the key; `None` for a server that needs none.
        options: further arguments of the call, such as `{"reasoning_effort": "none"}`. The temperature is 0 unless
            they say otherwise; an option that is `None` is not sent.
        concurrency: calls at once.
        timeout: seconds for one try.
        max_retries: further tries of one call.

    Raises:
        ImportError: the `openai` client is not installed.
        ValueError: the key is not set, the address is none, or a number is not positive.
    """

    def __init__(
        self,
        name: str,
        model: str,
        prompt: JudgePrompt,
        cache: str | os.PathLike,
        base_url: str | None = None,
        key_variable: str | None = "OPENAI_API_KEY",
        sends_images: bool = True,
        max_new_tokens: int = 16,
        prices: Mapping[str, float] | None = None,
        options: Mapping[str, Any] | None = None,
        concurrency: int = 8,
        timeout: float = 60.0,
        max_retries: int = 6,
    ):
        super().__init__(name, prompt, cache, sends_images, max_new_tokens, prices)
        if concurrency < 1 or timeout <= 0 or max_retries < 0:
            raise ValueError(
                f"judge {name!r}: expected a concurrency of at least 1, a timeout over 0 and max_retries from 0, got "
                f"{concurrency}, {timeout} and {max_retries}"
            )
        self.model = model
        self.base_url = base_url
        self.options = {"temperature": 0, "max_tokens": max_new_tokens, **(options or {})}
        self.concurrency = concurrency
        self._client = _client(name, base_url, key_variable, timeout, max_retries)

    def check(self):
        """Ask one short question, whose reply is kept, so that the next run on the same cache need not ask.

        Raises:
            RuntimeError: another run has the cache open, or the server cannot be asked (`JudgeUnavailable`): it is not
                there, refuses the key, does not know the model, or takes no such call.
        """
        with needs_extra("judge"):
            import openai

        # The reply is kept like any other, so that a second run asks nothing.
        key = digest([self.fingerprint(), PROBE])
        with JsonLinesCache(self.cache) as cache:
            if key in cache:
                return
            try:
                cache.put(key, self._complete(Request(key, PROBE, ())))
            except (openai.OpenAIError, ValueError) as error:
                raise self._cannot_be_asked(error) from None

    def _model_settings(self) -> Mapping[str, Any]:
        server = without_userinfo(self.base_url or "https://api.openai.com/v1").rstrip("/")
        return {"kind": "endpoint", "model": self.model, "server": server, "options": self.options, "size": IMAGE_SIZE}

    def _ask(self, requests: Sequence[Request], keep: Callable[[Request, str], Any]) -> Iterator[Reply]:
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="judge")
        try:
            for future in as_completed([pool.submit(self._ask_one, request, keep) for request in requests]):
                yield future.result()
        finally:
            # Where the run is stopped, nothing more is sent, and what is under way is waited for and kept.
            pool.shutdown(cancel_futures=True)

    def _ask_one(self, request: Request, keep: Callable[[Request, str], Any]) -> Reply:
        with needs_extra("judge"):
            import openai

        try:
            text = self._complete(request)
        except (openai.AuthenticationError, openai.NotFoundError) as error:
            raise self._cannot_be_asked(error) from None
        # Broken JSON, a picture that cannot be read, or 403, by which some servers filter a single question.
        except (openai.OpenAIError, ValueError, OSError) as error:
            return Reply(request, failure=f"no reply: {_reason(error)}")
        keep(request, text)
        return Reply(request)

    def _complete(self, request: Request) -> str:
        """Return the server's reply."""
        content: list[dict] = [{"type": "text", "text": request.text}]
        content += [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in request.images]
        options = {name: value for name, value in self.options.items() if value is not None}
        completion = self._client.chat.completions.create(
            model=self.model, messages=[{"role": "user", "content": content}], **options
        )
        return _reply_text(completion)

    def _cannot_be_asked(self, error: Exception) -> JudgeUnavailable:
        server = without_userinfo(self.base_url or "OpenAI")
        advice = "Check that the server runs at this address, and takes such a call"
        status = getattr(error, "status_code", None)
        if status in (401, 403):
            advice = (
                "Put a key that it accepts into an environment variable, and name that: `--judge-key` (`key_variable`)"
            )
        elif status == 404:
            advice = "Check the model's name and the address, which ends with /v1 on most servers"
        return JudgeUnavailable(
            f"judge {self.name!r} cannot be asked: expected a reply from {self.model!r} at {server}, found "
            f"{_reason(error).rstrip('.')}. {advice}"
        )


def data_url(image: str) -> str:
    """Return a picture as it is sent: PNG in base64, `IMAGE_SIZE` pixels or less along its longest side.

    Raises:
        FileNotFoundError, ValueError: as `load_image`.
    """
    picture = load_image(image)
    picture.thumbnail((IMAGE_SIZE, IMAGE_SIZE))
    content = io.BytesIO()
    picture.save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"


def without_userinfo(address: str) -> str:
    """Return an address as it may be shown: without the name and the password that may stand in front of the host."""
    return re.sub(r"^([a-zA-Z][\w+.-]*://)?[^/?#]*@", r"\1", address)


def _client(name: str, base_url: str | None, key_variable: str | None, timeout: float, max_retries: int):
    with needs_extra("judge"):
        import openai
    key = "none" if key_variable is None else os.environ.get(key_variable)
    if not key:
        # A key that was given by mistake in place of the variable's name must not get into a log.
        variable = key_variable if re.fullmatch(r"[A-Z_][A-Z0-9_]*", key_variable or "") else "that you name"
        raise ValueError(
            f"judge {name!r} at {without_userinfo(base_url or 'OpenAI')} needs a key: expected it in the environment "
            f"variable {variable}, which is not set. Set it, or say that the server needs none (key_variable=None)"
        )
    try:
        return openai.OpenAI(api_key=key, base_url=base_url, timeout=timeout, max_retries=max_retries)
    except Exception:  # the client's own InvalidURL, which repeats parts of the address
        raise ValueError(f"judge {name!r}: expected an address such as http://localhost:8000/v1") from None


def _reply_text(completion) -> str:
    """Return the text of a completion, `""` where the model gave none. A server may have sent anything.

    Raises:
        ValueError: it is no chat completion.
    """
    try:
        text = completion.choices[0].message.content
    except (AttributeError, LookupError, TypeError):
        raise ValueError("the server's reply is no chat completion") from None
    if not (text is None or isinstance(text, str)):
        raise ValueError("the server's reply is no chat completion")
    return text or ""


def _reason(error: Exception) -> str:
    """Return an error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_REASON]
