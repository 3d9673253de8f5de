"""Judges, and the judgement of an answer."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...items import Answer, Item
from ...strict_data import digest, shorten
from .prompts import JudgePrompt


@dataclass(frozen=True)
class Judgement:
    """One answer's judgement: a label, a score, or nothing that can be used.

    Attributes:
        item_id: the item's `id`.
        source: the judge's name.
        label: one of a set in `labels.py`, as `"refusal"`, `"care"` or `"answer"` of a judge of refusals.
        score: on the judge's scale, higher is better.
        failure: why there is neither: an outcome of its own, which every figure counts.
        reply: what a judge that reads said, word for word.

    Raises:
        ValueError: it is not exactly one of label, score and failure, or the score is no finite number.
    """

    item_id: str
    source: str
    label: str | None = None
    score: float | None = None
    failure: str | None = None
    reply: str | None = None

    def __post_init__(self):
        if sum(one is not None for one in (self.label, self.score, self.failure)) != 1:
            raise ValueError(f"a judgement of {shorten(self.item_id)} needs one of label, score and failure")
        if self.score is not None and not math.isfinite(self.score):
            raise ValueError(f"the score of {shorten(self.item_id)} is {self.score}, expected a finite number")

    @property
    def said(self) -> str | float:
        """Return the label or the score.

        Raises:
            ValueError: it is a failure.
        """
        if self.label is not None:
            return self.label
        if self.score is not None:
            return self.score
        raise ValueError(f"a judgement of {shorten(self.item_id)} has neither label nor score: {self.failure}")


class Judge(ABC):
    """Anything that judges answers. What decides its judgements is in `settings`, and nothing else is.

    Args:
        name: what tables call it, the same in `Judgement.source` and in `Protocol.judges`.

    Attributes:
        prompt: what it is asked in words; `None` for one that does not read.
    """

    prompt: JudgePrompt | None = None

    def __init__(self, name: str):
        self.name = name

    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """Return everything that decides its judgements, as JSON has it: kind, model, prompt, rubrics, lists."""

    @abstractmethod
    def judge(self, items: Sequence[Item], answers: Sequence[Answer]) -> list[Judgement]:
        """Return one judgement per answer, in their order. `answers[i]` is the answer to `items[i]`.

        Raises:
            ValueError: an answer stands in the place of another one.
        """

    def check(self):  # noqa: B027  most judges ask nobody
        """Raise what would keep it from judging anything: a run looks before its models answer.

        Raises:
            RuntimeError: it cannot be asked.
        """

    def fingerprint(self) -> str:
        """Return the SHA-256 of `settings`, in hex: judges that share it judge alike, whatever they are called."""
        return digest(self.settings())


class TextJudge(Judge):
    """A judge that looks at the answer's text alone, one by one. An answer without a text is a failure."""

    @abstractmethod
    def classify(self, text: str) -> str:
        """Return the label of an answer."""

    def judge(self, items: Sequence[Item], answers: Sequence[Answer]) -> list[Judgement]:
        return [
            no_answer(answer, self.name)
            if answer.text is None
            else Judgement(answer.item_id, self.name, label=self.classify(answer.text))
            for _, answer in check_pairs(items, answers)
        ]


def check_pairs(items: Sequence[Item], answers: Sequence[Answer]) -> list[tuple[Item, Answer]]:
    """Return items with their answers.

    Raises:
        ValueError: lengths differ, or an answer is to another item than the one in its place.
    """
    if len(items) != len(answers):
        raise ValueError(f"{len(items)} items but {len(answers)} answers, expected one answer per item")
    for item, answer in zip(items, answers):
        if item.id != answer.item_id:
            found, place = shorten(answer.item_id), shorten(item.id)
            raise ValueError(f"an answer to {found} stands in the place of {place}: sort the answers like the items")
    return list(zip(items, answers))


def no_answer(answer: Answer, judge: str) -> Judgement:
    """Return the judgement of an answer that is not there."""
    return Judgement(answer.item_id, judge, failure=f"no answer to judge: {answer.failure or 'it has no text'}")
