"""Cost of an answer: calls of models, tokens in and out, and time to the first token, paired against a reference.

A defence that asks a model several times, or a second model, pays before the user reads a word. So the time ends where
the first token of the answer could be shown: at the first token of the last call, or at the end of it where that call
was only a check.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers.generation.streamers import BaseStreamer

from ..evaluation.answering_items import AnswerBatch
from ..intervals.bootstrap import Bootstrap
from ..intervals.figure import Figure
from ..items import Item


@dataclass(frozen=True)
class Call:
    """One call of a model.

    Attributes:
        rows: prompts, or pictures of a classifier.
        tokens_in: positions that are not padding, those of pictures included; of a classifier of pictures those of its
            texts, 0 where it takes none.
        tokens_out: new tokens up to the end of each answer, its end token included.
        first_token, end: `time.perf_counter()`, seconds.
        is_check: whether nobody reads what came out.
    """

    rows: int
    tokens_in: int
    tokens_out: int
    first_token: float
    end: float
    is_check: bool


@dataclass(frozen=True)
class Meter:
    """The calls of one system, in their order."""

    calls: list[Call] = field(default_factory=list)


class MeteredModel:
    """A model whose calls are written down. Everything else goes to the model itself.

    Args:
        model: of transformers; `generate` is measured, and a call of a classifier.
        meter: where the calls go. Models of one system share it.
        is_check: as of `Call`.
    """

    def __init__(self, model, meter: Meter, is_check: bool = False):
        self._model, self._meter, self._is_check = model, meter, is_check

    def __getattr__(self, name: str):
        return getattr(self._model, name)

    def generate(self, **inputs):
        clock = _FirstToken()
        outputs = self._model.generate(**inputs, streamer=clock)
        end = time.perf_counter()
        length = inputs["input_ids"].shape[1]
        new_tokens = getattr(outputs, "sequences", outputs)[:, length:]
        eos, num_new = self._model.generation_config.eos_token_id, new_tokens.numel()
        if eos is not None:
            # Each row counts up to its first end token, and with it. Padding follows.
            is_end = torch.isin(new_tokens, torch.as_tensor(eos, device=new_tokens.device)).long()
            num_new = int((is_end.cumsum(dim=1) - is_end == 0).sum())
        self._note(inputs, len(new_tokens), num_new, clock.time or end, end)
        return outputs

    def __call__(self, **inputs):
        outputs = self._model(**inputs)
        end = time.perf_counter()
        self._note(inputs, len(inputs["pixel_values"]), 0, end, end)
        return outputs

    def _note(self, inputs: Mapping[str, torch.Tensor], rows: int, tokens_out: int, first_token: float, end: float):
        mask = inputs.get("attention_mask")
        tokens_in = 0 if mask is None else int(mask.sum())
        self._meter.calls.append(Call(rows, tokens_in, tokens_out, first_token, end, self._is_check))


class _FirstToken(BaseStreamer):
    """Note when the first new token came. `generate` hands over the prompt before it."""

    def __init__(self):
        self.time = None
        self._has_prompt = False

    def put(self, value):
        if self._has_prompt and self.time is None:
            self.time = time.perf_counter()
        self._has_prompt = True

    def end(self):
        pass


# --------------------------------------------------------------------------------------------------
# Measuring
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Metered:
    """A system whose models are metered."""

    answer: AnswerBatch
    meter: Meter


@dataclass(frozen=True)
class Cost:
    """Cost of a system at one batch size. Calls and tokens are means over the items that were asked.

    Attributes:
        batch_size: items at once.
        calls: of models, per item.
        tokens_in, tokens_out: as of `Call`, per item.
        first_token_ms: median over rounds, milliseconds until the batch's last answer can begin to be shown, with the
            bootstrap interval of the median.
        ratio: median over rounds of this time over the reference's in the same round, with its interval.
    """

    batch_size: int
    calls: float
    tokens_in: float
    tokens_out: float
    first_token_ms: Figure
    ratio: Figure


def measure_costs(
    systems: Mapping[str, Metered],
    items: Sequence[Item],
    batch_size: int,
    rounds: int = 20,
    bootstrap: Bootstrap | None = None,
    progress: bool = True,
) -> dict[str, Cost]:
    """Measure all systems on the same batches, in turns in one process, so that other work on the machine slows all.

    Args:
        systems: name to system; the first is the reference.
        items: asked in their order, from the start again where they run out; those without a picture are left out,
            since no batch may hold both.
        batch_size: items at once.
        rounds: batches that count; one before them warms up.
        bootstrap: of the intervals, over rounds.

    Returns:
        Name to cost, in the order of the systems.

    Raises:
        ValueError: no system, no round, or fewer items with a picture than one batch.
    """
    items = [item for item in items if item.images]
    if not systems or rounds < 1 or not 1 <= batch_size <= len(items):
        raise ValueError(
            f"expected a system, a round and a batch of 1 to {len(items)} items, as many as have a picture; got "
            f"{len(systems)} systems, {rounds} rounds and a batch of {batch_size}"
        )
    times: dict[str, list[float]] = {name: [] for name in systems}
    calls: dict[str, list[Call]] = {name: [] for name in systems}
    names = list(systems)
    for number in tqdm(range(rounds + 1), desc=f"cost, batch of {batch_size}", disable=not progress):
        batch = [items[(number * batch_size + place) % len(items)] for place in range(batch_size)]
        # The system that begins changes from round to round: the first after a change of models may find cold caches.
        start = number % len(names)
        for name in names[start:] + names[:start]:
            elapsed, made = _time_batch(systems[name], batch)
            # The first batch of each system warms up, and does not count.
            if number:
                times[name].append(elapsed)
                calls[name] += made
    reference = np.array(times[names[0]])
    num_items = rounds * batch_size
    return {
        name: _cost(batch_size, num_items, calls[name], np.array(times[name]), reference, bootstrap or Bootstrap())
        for name in names
    }


def _time_batch(system: Metered, batch: Sequence[Item]) -> tuple[float, list[Call]]:
    """Return the seconds until the last answer of the batch can begin to be shown, and the calls that were made."""
    calls = system.meter.calls
    calls.clear()
    start = time.perf_counter()
    system.answer(batch)
    shown = time.perf_counter()
    # An answer that a check follows is shown after the check; any other one from its first token on.
    if calls and not calls[-1].is_check:
        shown = calls[-1].first_token
    return shown - start, list(calls)


def _cost(batch_size, num_items, calls: Sequence[Call], times, reference, bootstrap: Bootstrap) -> Cost:
    return Cost(
        batch_size=batch_size,
        calls=sum(call.rows for call in calls) / num_items,
        tokens_in=sum(call.tokens_in for call in calls) / num_items,
        tokens_out=sum(call.tokens_out for call in calls) / num_items,
        first_token_ms=_median("first_token_ms", 1000 * times, bootstrap),
        ratio=_median("first_token_ratio", times / reference, bootstrap),
    )


def _median(name: str, values: np.ndarray, bootstrap: Bootstrap) -> Figure:
    low, high = bootstrap.interval(
        lambda weights: float(np.median(np.repeat(values, weights.astype(int)))), np.arange(len(values))
    )
    median, total = float(np.median(values)), len(values)
    if np.isnan(low):
        return Figure(name, median, None, None, total)
    return Figure(name, median, float(low), float(high), total)
