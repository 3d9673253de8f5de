"""Greedy answers and verdicts to records, or verdicts alone."""

from collections.abc import Iterable, Sequence

from ..asking import ask_records, assess_records, encode_prompts, generate, last_answer, to_answer, verdicts_by_row
from ..items import Answer
from ..modeling.safety_policy import SafetyVerdict
from .judges.rules import AnswerClass, classify_answer


def give_answers(
    model,
    processor,
    records: Sequence[dict],
    batch_size: int = 16,
    max_new_tokens: int = 32,
    progress: bool = True,
    question_mask: bool = True,
    **generate_kwargs,
) -> list[Answer]:
    """Answer the last question of each record greedily, in batches of like length with left padding.

    Args:
        model, processor: a safe model's, or a stock model's, which gives no verdicts.
        records: as `load_records` gives them.
        max_new_tokens: longest answer, in tokens.
        question_mask: as for `encode_prompts`.
        generate_kwargs: for `generate`, as `safety_policy`.

    Returns:
        One answer per record, in their order; the id of each is the number of its record, as in `Item`s of these.
    """

    def answer(batch: Sequence[dict]) -> list[tuple[str, list]]:
        inputs = encode_prompts(processor, batch, question_mask)
        return _answer(model, processor, inputs, max_new_tokens=max_new_tokens, **generate_kwargs)

    return _as_answers(ask_records(answer, model, records, batch_size, "answering", progress))


def give_verdicts(
    model,
    processor,
    records: Sequence[dict],
    batch_size: int = 32,
    progress: bool = True,
    question_mask: bool = True,
    safety_policy=None,
) -> list[Answer]:
    """Give the verdict on each record without an answer, by `model.assess`. No language model is run.

    Args:
        model, processor: a safe model's.
        records: as `load_records` gives them, each with an image.
        question_mask: as for `encode_prompts`.
        safety_policy: as for `assess`.

    Returns:
        As `give_answers`, without a text.
    """

    def judge(batch: Sequence[dict]) -> list[tuple[None, list]]:
        outputs = assess_records(model, processor, batch, question_mask, safety_policy)
        return [(None, found) for found in verdicts_by_row(processor, outputs, len(batch))]

    return _as_answers(ask_records(judge, model, records, batch_size, "judging", progress))


def answer_encoded(model, processor, inputs, **generate_kwargs) -> list[Answer]:
    """Return greedy answers to records that are encoded already, as by `encode_prompts`."""
    return _as_answers(_answer(model, processor, inputs, **generate_kwargs))


def answer_class(answer: Answer) -> AnswerClass | None:
    """Return what our rules make of an answer: a refusal, an answer with care, or a plain one."""
    return None if answer.text is None else classify_answer(answer.text)


def item_id(number: int) -> str:
    """Return the id of the record in this place."""
    return f"{number:06d}"


def _answer(model, processor, inputs, **generate_kwargs) -> list[tuple[str, list]]:
    texts, verdicts = generate(model, processor, inputs, do_sample=False, num_beams=1, **generate_kwargs)
    return [(text.strip(), found) for text, found in zip(texts, verdicts, strict=True)]


def _as_answers(found: Iterable[tuple[str | None, Sequence[SafetyVerdict]]]) -> list[Answer]:
    return [to_answer(item_id(number), text, verdicts) for number, (text, verdicts) in enumerate(found)]


def last_text(record: dict, role: str) -> str:
    """Return what this role said last, up to the last answer."""
    messages = record["messages"][: last_answer(record) + 1]
    content: list[dict] = next((message["content"] for message in reversed(messages) if message["role"] == role), [])
    return " ".join(part["text"] for part in content if part["type"] == "text")
