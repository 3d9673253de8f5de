"""A system's answers to a benchmark's items, in batches, kept on disk as they come."""

from collections.abc import Callable, Iterator, Sequence

import torch
from tqdm.auto import tqdm

from safevlm_hf.data.records import load_image
from safevlm_hf.evaluation.answering import verdicts_by_sample
from safevlm_hf.evaluation.items import Answer, Item
from safevlm_hf.evaluation.plain_texts import special_tokens, with_plain_texts
from safevlm_hf.evaluation.protocol.answer_cache import AnswerCache
from safevlm_hf.modeling.safety_policy import strictest_verdict


class PromptTooLong(ValueError):
    """A prompt and its answer have no room in the model's context."""


AnswerBatch = Callable[[Sequence[Item]], list[Answer]]


def answer_items(
    answer: AnswerBatch, items: Sequence[Item], cache: AnswerCache, batch_size: int, progress: bool = True
) -> list[Answer]:
    """One answer per item, in their order; those that the cache has are not asked again.

    A batch that does not fit into memory is asked in halves. One item that does not is a failure, an outcome of its
    own: an empty text would count as a refusal for one judge and as an attack's success for the next. So is one that
    is longer than the model's context.

    Args:
        answer: a batch of items to their answers.
        cache: where answers are kept as soon as they are there.
        batch_size: items per batch, at least 1.
    """
    found = {item.id: cache.get(item) for item in items}
    pending = [item for item in items if found[item.id] is None]
    with tqdm(total=len(items), initial=len(items) - len(pending), desc="answering", disable=not progress) as bar:
        for batch in _batches(pending, batch_size):
            for item, given in zip(batch, _answer_or_fail(answer, batch), strict=True):
                found[item.id] = cache.put(item, given)
            cache.flush()
            bar.update(len(batch))
    return [found[item.id] for item in items]


def model_answers(model, processor, max_new_tokens: int, safety_policy=None, **decoding) -> AnswerBatch:
    """Greedy answers of a model of transformers, safe or stock.

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

    @torch.no_grad()
    def answer(items: Sequence[Item]) -> list[Answer]:
        inputs = processor.apply_chat_template(
            [_conversation(with_plain_texts(item, tokens)) for item in items],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": "left"},
        )
        _check_length(model, inputs, max_new_tokens)
        outputs = model.generate(
            **inputs.to(model.device, model.dtype),
            max_new_tokens=max_new_tokens,
            return_dict_in_generate=True,
            **decoding,
        )
        texts = processor.batch_decode(outputs.sequences[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        verdicts = verdicts_by_sample(processor, outputs)
        return [_answer(item, text.strip(), strictest_verdict(verdicts[row]))
                for row, (item, text) in enumerate(zip(items, texts, strict=True))]  # fmt: skip

    return answer


def _check_length(model, inputs, max_new_tokens: int):
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest = int(inputs["attention_mask"].sum(dim=1).max())
    if most is not None and longest + max_new_tokens > most:
        raise PromptTooLong(
            f"the prompt has {longest} tokens, and the model's context of {most} has room for {most - max_new_tokens} "
            f"before an answer of {max_new_tokens}"
        )


def _answer(item: Item, text: str, verdict) -> Answer:
    if verdict is None:
        return Answer(item.id, text)
    return Answer(
        item_id=item.id,
        text=text,
        action=verdict.action,
        level=verdict.level,
        category=verdict.category,
        level_probabilities=dict(verdict.level_probabilities),
        category_probabilities=dict(verdict.category_probabilities),
        risk=verdict.risk,
    )


def _conversation(item: Item) -> list[dict]:
    """The item's messages with its images in their places."""
    images = iter(item.images)
    return [
        {
            "role": message["role"],
            "content": [
                {"type": "image", "image": load_image(next(images))} if part["type"] == "image" else dict(part)
                for part in message["content"]
            ],
        }
        for message in item.messages
    ]


def _batches(items: Sequence[Item], batch_size: int) -> Iterator[list[Item]]:
    """Items of like length together, the longest first, so that memory runs out early or not at all. Plain text is not
    mixed with pictures: stock processors take no batch of both."""
    for has_images in (True, False):
        chosen = [item for item in items if bool(item.images) is has_images]
        chosen.sort(key=lambda item: (-len(item.images), -len(str(item.messages)), item.id))
        for start in range(0, len(chosen), batch_size):
            yield chosen[start : start + batch_size]


def _answer_or_fail(answer: AnswerBatch, batch: Sequence[Item]) -> list[Answer]:
    try:
        return answer(batch)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        failure = "it does not fit into the device's memory"
    except PromptTooLong as error:
        failure = str(error)
    if len(batch) == 1:
        return [Answer(batch[0].id, None, failure=failure)]
    half = len(batch) // 2
    return _answer_or_fail(answer, batch[:half]) + _answer_or_fail(answer, batch[half:])
