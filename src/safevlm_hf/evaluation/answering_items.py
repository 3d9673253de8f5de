"""A system's answers to a benchmark's items, in batches, kept on disk as they come."""

from collections.abc import Callable, Sequence

import torch
from tqdm.auto import tqdm

from ..asking import check_room, encode, generate, in_batches, to_answer
from ..data.records import place_images
from ..items import Answer, Item
from .plain_texts import special_tokens, with_plain_texts
from .protocol.answer_cache import AnswerCache


AnswerBatch = Callable[[Sequence[Item]], list[Answer]]


def answer_items(
    answer: AnswerBatch, items: Sequence[Item], cache: AnswerCache, batch_size: int, progress: bool = True
) -> list[Answer]:
    """Return one answer per item, in their order; those that the cache has are not asked again.

    A batch that does not fit into memory is asked in halves. One item that does not is a failure, an outcome of its
    own: an empty text would count as a refusal for one judge and as an attack's success for the next. So is one that
    is longer than the model's context.

    Args:
        answer: a batch of items to their answers.
        cache: where answers are kept as soon as they are there.
        batch_size: items per batch, at least 1.
    """
    found = {item.id: kept for item in items if (kept := cache.get(item)) is not None}
    # The order of the ids keeps the batches the same, whatever the order of the items.
    pending = sorted((item for item in items if item.id not in found), key=lambda item: item.id)
    with tqdm(total=len(items), initial=len(items) - len(pending), desc="answering", disable=not progress) as bar:
        for has_images in (True, False):  # apart: stock processors take no batch of both
            asked = [item for item in pending if bool(item.images) is has_images]
            for rows, answers in in_batches(
                answer, asked, batch_size, lambda item: (len(item.images), len(str(item.messages))), _failed
            ):
                for row, given in zip(rows, answers, strict=True):
                    found[asked[row].id] = cache.put(asked[row], given)
                cache.flush()
                bar.update(len(rows))
    return [found[item.id] for item in items]


def model_answers(model, processor, max_new_tokens: int, safety_policy=None, **decoding) -> AnswerBatch:
    """Return a function that gives greedy answers of a model of transformers, safe or stock.

    Args:
        max_new_tokens: longest answer, in tokens.
        safety_policy: over the checkpoint's own; for a safe model alone.
        decoding: further settings of `generate`.
    """
    if safety_policy is not None:
        decoding["safety_policy"] = safety_policy
    # A safe processor makes special tokens in a text plain. With a stock one they would count the images wrongly, or
    # end a turn, and the two would not be asked the same.
    tokens = () if hasattr(processor, "plain_text") else special_tokens(processor)

    def answer(items: Sequence[Item]) -> list[Answer]:
        plain = [with_plain_texts(item, tokens) for item in items]
        inputs = encode(processor, [place_images(item.messages, item.images) for item in plain])
        check_room(model, inputs, max_new_tokens)
        texts, verdicts = generate(model, processor, inputs, max_new_tokens=max_new_tokens, **decoding)
        return [
            to_answer(item.id, text.strip(), found) for item, text, found in zip(items, texts, verdicts, strict=True)
        ]

    return answer


def _failed(item: Item, error: Exception) -> Answer:
    is_full = isinstance(error, torch.OutOfMemoryError)
    return Answer(item.id, None, failure="it does not fit into the device's memory" if is_full else str(error))
