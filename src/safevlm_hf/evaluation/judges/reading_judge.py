"""Judges that read: a model is asked once about each answer, and its replies are kept on disk."""

import os
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm.auto import tqdm

from ...items import Answer, Item
from ...strict_data import digest, shorten
from ..protocol.cache import JsonLinesCache
from ..protocol.fingerprints import prompt_hash
from .base import Judge, Judgement, check_pairs, no_answer
from .prompts import JudgePrompt, UnreadableReply, conversation


LONGEST_TEXT = 20_000
"""Characters of question and answer together. More is a failure: cut, a text could hide its harm behind the cut, and
whole, it costs at will."""
BYTES_PER_TOKEN = 4
TOKENS_PER_IMAGE = 1000


@dataclass(frozen=True)
class Request:
    """One question to a judge.

    Attributes:
        key: hash of everything that decides the reply.
        text: the prompt.
        images: references for `load_image`.
    """

    key: str
    text: str
    images: tuple[str, ...]


@dataclass(frozen=True)
class Reply:
    """A request that is done: its reply has been kept, or `failure` says why there is none."""

    request: Request
    failure: str | None = None


@dataclass(frozen=True)
class Cost:
    """Calls and tokens that judging will take.

    Attributes:
        calls: questions that the judge has not been asked yet.
        cached: judgements that are on disk.
        input_tokens: a rough estimate, of four bytes per token and a thousand tokens per picture.
        output_tokens: at most.
        money: in the currency of the prices; `None` without prices.
    """

    calls: int
    cached: int
    input_tokens: int
    output_tokens: int
    money: float | None = None

    def __add__(self, other: "Cost") -> "Cost":
        money = None if self.money is None or other.money is None else self.money + other.money
        return Cost(
            self.calls + other.calls,
            self.cached + other.cached,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            money,
        )

    def __str__(self) -> str:
        money = "" if self.money is None else f", about {self.money:.2f} at the given prices"
        return (
            f"{self.calls} calls ({self.cached} judgements are cached), about {self.input_tokens:,} tokens in and at "
            f"most {self.output_tokens:,} out{money}"
        )


class ReadingJudge(Judge):
    """A model that is asked about each answer.

    A reply is kept as soon as it is there, so a run that was stopped goes on where it was and asks nothing twice. A
    reply that cannot be read is kept, too, and is a failure. Where no reply came (the server was busy or is broken),
    the failure is not kept, and the next run asks again.

    Args:
        name: what tables call it.
        prompt: what it is asked.
        cache: file for the replies, a `JsonLinesCache`; judges may share it, one run at a time.
        sends_images: show the item's pictures.
        max_new_tokens: longest reply.
        prices: of a million tokens, `{"input": ..., "output": ...}`; `None` where they are not known.
    """

    prompt: JudgePrompt

    def __init__(
        self,
        name: str,
        prompt: JudgePrompt,
        cache: str | os.PathLike,
        sends_images: bool = True,
        max_new_tokens: int = 16,
        prices: Mapping[str, float] | None = None,
    ):
        super().__init__(name)
        if prices is not None and {*prices} != {"input", "output"}:
            raise ValueError(f"the prices of judge {name!r} are for {sorted(prices)}, expected 'input' and 'output'")
        self.prompt = prompt
        self.cache = cache
        self.sends_images = sends_images
        self.max_new_tokens = max_new_tokens
        self.prices = prices

    @abstractmethod
    def _model_settings(self) -> Mapping[str, Any]:
        """Return what decides the replies besides the prompt: kind, model, decoding."""

    @abstractmethod
    def _ask(self, requests: Sequence[Request], keep: Callable[[Request, str], Any]) -> Iterator[Reply]:
        """Ask each request, keep each reply as soon as it is there, and yield it, in any order."""

    def settings(self) -> Mapping[str, Any]:
        return {
            **self._model_settings(),
            "prompt": self.prompt.digest(),
            "sends_images": self.sends_images,
            "max_new_tokens": self.max_new_tokens,
        }

    def estimate(self, items: Sequence[Item], answers: Sequence[Answer]) -> Cost:
        """Estimate what `judge` would take now. Nothing is asked.

        Raises:
            ValueError: as `judge`.
        """
        requests = self._requests(check_pairs(items, answers))
        with JsonLinesCache(self.cache) as cache:
            return self._cost(requests, cache)

    def judge(self, items: Sequence[Item], answers: Sequence[Answer], progress: bool = True) -> list[Judgement]:
        """Return one judgement per answer, in their order. The cost is shown first.

        Args:
            progress: show cost and progress on stderr.

        Raises:
            RuntimeError: another run has the cache open, or the judge cannot be asked at all (a wrong key or model).
            ValueError: an answer stands in the place of another one, an item has no rubric, an image is not there, or
                the cache holds something else. Nothing has been asked then.
        """
        pairs = check_pairs(items, answers)
        requests = self._requests(pairs)
        with JsonLinesCache(self.cache) as cache:
            # Equal questions share a key, and are asked once.
            pending = list({one.key: one for one in requests if one and one.key not in cache}.values())
            if progress and pending:
                tqdm.write(f"judge {self.name}: {self._cost(requests, cache)}", file=sys.stderr)
            replies = self._ask(pending, lambda one, text: cache.put(one.key, text)) if pending else ()
            bar = tqdm(replies, f"judge {self.name}", len(pending), unit="answer", disable=not progress)
            failures = {reply.request.key: reply.failure for reply in bar if reply.failure is not None}
            return [self._judgement(*pair, request, cache, failures) for pair, request in zip(pairs, requests)]

    def _requests(self, pairs: Sequence[tuple[Item, Answer]]) -> list[Request | None]:
        """Return a request per answer; `None` for an answer that is not there or too long."""
        fingerprint = self.fingerprint()
        requests: list[Request | None] = []
        for item, answer in pairs:
            if answer.text is None or _length(item, answer.text) > LONGEST_TEXT:
                requests.append(None)
                continue
            text = self.prompt.text(item, answer.text)
            images = tuple(item.images) if self.sends_images else ()
            # Pictures count by their bytes, wherever they lie.
            key = digest([fingerprint, text, prompt_hash(item) if images else None])
            requests.append(Request(key, text, images))
        return requests

    def _judgement(
        self, item: Item, answer: Answer, request: Request | None, cache: JsonLinesCache, failures: Mapping[str, str]
    ) -> Judgement:
        if answer.text is None:
            return no_answer(answer, self.name)
        if request is None:
            found = f"question and answer have {_length(item, answer.text)} characters"
            return Judgement(item.id, self.name, failure=f"{found}, more than the {LONGEST_TEXT} that are judged")
        if request.key in failures:
            return Judgement(item.id, self.name, failure=failures[request.key])
        reply = cache.get(request.key)
        if not isinstance(reply, str):
            raise ValueError(f"{self.cache}: expected a reply of a judge, found {shorten(reply)}: name another file")
        try:
            value = self.prompt.parse(reply, item)
        except UnreadableReply as error:
            return Judgement(item.id, self.name, failure=f"unreadable reply: {error}", reply=reply)
        if isinstance(value, str):
            return Judgement(item.id, self.name, label=value, reply=reply)
        return Judgement(item.id, self.name, score=value, reply=reply)

    def _cost(self, requests: Sequence[Request | None], cache: JsonLinesCache) -> Cost:
        asked = [one for one in requests if one]
        pending = {one.key: one for one in asked if one.key not in cache}.values()
        tokens = sum(
            len(one.text.encode("utf-8", "replace")) // BYTES_PER_TOKEN + len(one.images) * TOKENS_PER_IMAGE
            for one in pending
        )
        replies = len(pending) * self.max_new_tokens
        prices = self.prices
        money = (tokens * prices["input"] + replies * prices["output"]) / 1e6 if prices else None
        return Cost(len(pending), sum(one.key in cache for one in asked), tokens, replies, money)


def _length(item: Item, answer: str) -> int:
    return len(conversation(item)) + len(answer)
