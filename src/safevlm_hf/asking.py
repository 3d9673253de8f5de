"""Asking a model about pictures: messages with their pictures, inputs, batches, answers and verdicts.

Training, calibration, evaluation, the harness, the page, the server and the command line ask through this file. Models
and processors may be safe or stock ones, which give no verdicts.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers import BatchFeature

from .data.records import place_images
from .items import Answer
from .modeling.safety_policy import SafetyVerdict, strictest_verdict
from .progress import Progress


Ask = Callable[[Sequence], list]
"""Takes a batch of samples and returns one result for each."""
Fail = Callable[[Any, Exception], Any]
"""Make the result of one sample that does not fit even alone, or raises."""


class PromptTooLong(ValueError):
    """A prompt and its answer do not fit into the model's context."""


# --------------------------------------------------------------------------------------------------
# Inputs
# --------------------------------------------------------------------------------------------------


def encode(processor, conversations: Sequence[list[dict]], add_generation_prompt: bool = True, **options):
    """Return conversations as a model's inputs, padded on the left. One alone needs no padding, and no token for it.

    Args:
        processor: a model's processor, or the tokenizer of a model without pictures.
        options: for `apply_chat_template`.
    """
    if hasattr(processor, "tokenizer"):
        options["processor_kwargs"] = {"padding": len(conversations) > 1, "padding_side": "left"}
    else:
        options |= {"padding": len(conversations) > 1, "tokenizer_kwargs": {"padding_side": "left"}}
    return processor.apply_chat_template(
        list(conversations),
        add_generation_prompt=add_generation_prompt,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        **options,
    )


def encode_prompts(processor, records: Sequence[dict], question_mask: bool = True):
    """Return the last question of each record, and what comes before it, as a model's inputs.

    Args:
        records: as `load_records` gives them.
        question_mask: carry the processor's mask of the users' words, if it makes one. Without it all text counts.
    """
    prompts = [place_images(record["messages"][: last_answer(record)], record["images"]) for record in records]
    inputs = encode(processor, prompts)
    if not question_mask:
        for name in ("question_mask", "question_ids"):
            inputs.pop(name, None)
    return inputs


def last_answer(record: dict) -> int:
    """Return the index of the record's last answer among its messages."""
    return max(index for index, message in enumerate(record["messages"]) if message["role"] == "assistant")


def check_room(model, inputs, max_new_tokens: int):
    """Raise `PromptTooLong` where the model's context does not hold the longest prompt and its answer."""
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest = int(inputs["attention_mask"].sum(dim=1).max())
    if most is not None and longest + max_new_tokens > most:
        raise PromptTooLong(
            f"the prompt has {longest} tokens, and the model's context of {most} has room for {most - max_new_tokens} "
            f"before an answer of {max_new_tokens}"
        )


# --------------------------------------------------------------------------------------------------
# Answers and verdicts
# --------------------------------------------------------------------------------------------------


# In `inference_mode` training would fail: ZeRO-3 keeps weights that it gathers here, and goes on training with them.
@torch.no_grad()
def generate(model, processor, inputs: Mapping, **settings) -> tuple[list[str], list[list[SafetyVerdict]]]:
    """Return the answer to each prompt, and the verdicts on its images in their order.

    Args:
        inputs: as `encode` makes them, on any device.
        settings: for the model's `generate`.
    """
    inputs = BatchFeature(dict(inputs)).to(model.device, model.dtype)
    outputs = model.generate(**inputs, return_dict_in_generate=True, **settings)
    texts = processor.batch_decode(outputs.sequences[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts, verdicts_by_row(processor, outputs, len(texts))


@torch.no_grad()
def assess_records(model, processor, records: Sequence[dict], question_mask: bool = True, safety_policy=None):
    """Return `model.assess` of each record's last question: verdicts alone, no language model is run."""
    inputs = encode_prompts(processor, records, question_mask).to(model.device, model.dtype)
    return model.assess(**inputs, safety_policy=safety_policy)


def verdicts_by_row(processor, outputs, num_rows: int) -> list[list[SafetyVerdict]]:
    """Return the verdicts on the images of each row of a batch, in their order; none for a stock model."""
    rows: list[list[SafetyVerdict]] = [[] for _ in range(num_rows)]
    if hasattr(processor, "post_process_safety"):
        for verdict in processor.post_process_safety(outputs):
            rows[verdict.sample].append(verdict)
    return rows


def to_answer(item_id: str, text: str | None, verdicts: Sequence[SafetyVerdict]) -> Answer:
    """Return what was said of an item and the verdicts on its images, of which the strictest counts."""
    verdict = strictest_verdict(verdicts)
    if verdict is None:
        return Answer(item_id, text)
    return Answer(
        item_id=item_id,
        text=text,
        action=verdict.action,
        level=verdict.level,
        category=verdict.category,
        level_probabilities=dict(verdict.level_probabilities),
        category_probabilities=dict(verdict.category_probabilities),
        risk=verdict.risk,
        actions=[one.action for one in verdicts],
    )


# --------------------------------------------------------------------------------------------------
# Batches
# --------------------------------------------------------------------------------------------------


def ask_records(ask: Ask, model, records: Iterable[dict], batch_size: int, title: str, progress: bool) -> list:
    """Return one result per record, in their order, with the model in evaluation mode. `title` is that of the bar."""
    records = list(records)
    results: list = [None] * len(records)
    was_training = model.training
    model.eval()
    try:
        with Progress(len(records), title, "record", is_shown=progress) as bar:
            for rows, found in in_batches(ask, records, batch_size, _record_length):
                for row, result in zip(rows, found, strict=True):
                    results[row] = result
                bar.update(len(rows))
    finally:
        model.train(was_training)
    return results


def in_batches(
    ask: Ask, samples: Sequence, batch_size: int, length: Callable, fail: Fail | None = None
) -> Iterator[tuple[list[int], list]]:
    """Yield the rows of each batch and their results.

    Batches are of like length, so that there is little padding, and the longest come first, so that memory runs out
    early or not at all. Samples of one length keep their order.

    Args:
        ask, fail: as for `ask_or_halve`.
        length: a sample to what batches are sorted by.
    """
    order = sorted(range(len(samples)), key=lambda row: length(samples[row]), reverse=True)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        yield rows, ask_or_halve(ask, [samples[row] for row in rows], fail)


def ask_or_halve(ask: Ask, batch: Sequence, fail: Fail | None = None) -> list:
    """Return `ask(batch)`; a batch that does not fit into memory, or into the model's context, is asked in halves.

    What does not fit even alone is left to `fail`; if unset, the error is raised. Where several processes work on one
    model, it is always raised: they must make the same calls, or would wait for each other.
    """
    try:
        return ask(batch)
    except (torch.OutOfMemoryError, PromptTooLong) as error:
        if len(batch) == 1 and fail is not None:
            return [fail(batch[0], error)]
        if len(batch) == 1 or (torch.distributed.is_available() and torch.distributed.is_initialized()):
            raise
    torch.cuda.empty_cache()  # outside of the handler, whose error still holds the tensors
    half = len(batch) // 2
    return ask_or_halve(ask, batch[:half], fail) + ask_or_halve(ask, batch[half:], fail)


def _record_length(record: dict) -> tuple[int, int]:
    """Images and characters of a record: every image takes the same positions, more than most texts."""
    parts = [part for message in record["messages"] for part in message["content"]]
    return len(record["images"]), sum(len(part.get("text") or "") for part in parts)
