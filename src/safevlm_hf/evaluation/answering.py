"""Greedy answers and verdicts for records, or verdicts alone, and the figures of a held-out split."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..asking import ask_records, assess_records, encode_prompts, generate, last_answer, verdicts_by_row
from ..data.records import IGNORE_INDEX
from ..modeling.safety_policy import strictest_verdict
from .judges.rules import AnswerClass, classify_answer


@dataclass(frozen=True)
class Prediction:
    """What a model answered to one record, and what was expected.

    Attributes:
        question: the last thing the user said.
        answer: the model's answer, stripped; `None` where only the verdict was asked for.
        expected: the record's answer.
        level, category: the labels, as ids; -100 where there are none.
        verdict: the `SafetyVerdict` on the record's strictest image; `None` without an image or a safety head.
        image: the record's first image, a reference for `load_image`.
        extra: the record's other fields.
        verdicts: those on all of its images, in their order.
        image_levels: the labelled level of each image, where they are labelled one by one.
    """

    question: str
    answer: str | None
    expected: str
    level: int = IGNORE_INDEX
    category: int = IGNORE_INDEX
    verdict: Any = None
    image: str | None = None
    extra: dict = field(default_factory=dict)
    verdicts: tuple = ()
    image_levels: tuple[int, ...] = ()

    @property
    def answer_class(self) -> AnswerClass | None:
        return None if self.answer is None else classify_answer(self.answer)

    @property
    def is_flagged(self) -> bool | None:
        """Whether the policy does anything but answer; `None` without a verdict."""
        return None if self.verdict is None else self.verdict.action != "answer"

    @property
    def verdict_level(self) -> int | None:
        """Id of the verdict's level; names are in the order of their ids."""
        return None if self.verdict is None else list(self.verdict.level_probabilities).index(self.verdict.level)

    @property
    def verdict_category(self) -> int | None:
        """Id of the verdict's category."""
        if self.verdict is None:
            return None
        return list(self.verdict.category_probabilities).index(self.verdict.category)

    @property
    def has_right_verdict(self) -> bool | None:
        """Whether level and category are as labelled; `None` without a verdict or labels."""
        if self.verdict is None or self.level < 0:
            return None
        return (self.verdict_level, self.verdict_category) == (self.level, self.category)


# --------------------------------------------------------------------------------------------------
# Answers
# --------------------------------------------------------------------------------------------------


def answer_records(
    model,
    processor,
    records: Sequence[dict],
    batch_size: int = 16,
    max_new_tokens: int = 32,
    progress: bool = True,
    question_mask: bool = True,
    **generate_kwargs,
) -> list[Prediction]:
    """Answers the last question of each record greedily, in batches of like length with left padding.

    Args:
        model, processor: a safe model's, or a stock model's, which gives no verdicts.
        records: as `load_records` gives them.
        max_new_tokens: longest answer, in tokens.
        question_mask: as for `encode_prompts`.
        generate_kwargs: for `generate`, as `safety_policy`.

    Returns:
        One prediction per record, in their order.
    """

    def answer(batch: Sequence[dict]) -> list[Prediction]:
        inputs = encode_prompts(processor, batch, question_mask)
        return answer_inputs(model, processor, batch, inputs, max_new_tokens=max_new_tokens, **generate_kwargs)

    return ask_records(answer, model, records, batch_size, "answering", progress)


def judge_records(
    model,
    processor,
    records: Sequence[dict],
    batch_size: int = 32,
    progress: bool = True,
    question_mask: bool = True,
    safety_policy=None,
) -> list[Prediction]:
    """The verdict on each record without an answer, by `model.assess`. No language model is run.

    Args:
        model, processor: a safe model's.
        records: as `load_records` gives them, each with an image.
        question_mask: as for `encode_prompts`.
        safety_policy: as for `assess`.

    Returns:
        One prediction per record, in their order, without an answer.
    """

    def judge(batch: Sequence[dict]) -> list[Prediction]:
        outputs = assess_records(model, processor, batch, question_mask, safety_policy)
        verdicts = verdicts_by_row(processor, outputs, len(batch))
        return [_prediction(record, None, found) for record, found in zip(batch, verdicts, strict=True)]

    return ask_records(judge, model, records, batch_size, "judging", progress)


def answer_inputs(model, processor, records: Sequence[dict], inputs, **generate_kwargs) -> list[Prediction]:
    """Return greedy answers to records that are encoded already, as by `encode_prompts`."""
    answers, verdicts = generate(model, processor, inputs, do_sample=False, num_beams=1, **generate_kwargs)
    return [
        _prediction(record, answer.strip(), found)
        for record, answer, found in zip(records, answers, verdicts, strict=True)
    ]


def _last_text(record: dict, role: str) -> str:
    """What this role said last, up to the last answer."""
    messages = record["messages"][: last_answer(record) + 1]
    content = next((message["content"] for message in reversed(messages) if message["role"] == role), [])
    return " ".join(part["text"] for part in content if part["type"] == "text")


def _prediction(record: dict, answer: str | None, verdicts: Sequence) -> Prediction:
    return Prediction(
        question=_last_text(record, "user"),
        answer=answer,
        expected=_last_text(record, "assistant"),
        level=record["safety_level"],
        category=record["safety_category"],
        verdict=strictest_verdict(verdicts),
        image=record["images"][0] if record["images"] else None,
        extra=json.loads(record.get("extra") or "{}"),
        verdicts=tuple(verdicts),
        image_levels=tuple(record.get("image_levels") or ()),
    )


# --------------------------------------------------------------------------------------------------
# Figures
# --------------------------------------------------------------------------------------------------
