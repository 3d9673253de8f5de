"""Items that a benchmark asks and answers that a system gave: the two record types of the evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


Label = str | int | float | bool


@dataclass(frozen=True)
class Item:
    """One question of a benchmark.

    Attributes:
        id: unique in the benchmark, the same on every machine.
        images: references for `load_image` (absolute paths), in the order of their places; empty for plain text.
        messages: the conversation up to the last user turn, as chat templates take it: `{"role", "content"}` with the
            parts `{"type": "image"}` and `{"type": "text", "text": ...}`.
        expected: the reference answer, a letter for multiple choice; `None` where the benchmark has none.
        labels: what the benchmark says about the item, as plain values: `"is_risky"` (bool) wherever it has a side,
            and the benchmark's own (`"type"`, `"category"`, `"level"`, `"action"`, ...).
        group: shared by items that are not independent: rotations of a question, questions about one picture, a pair.
            They stay together in the intervals' draws; a benchmark may count them as a whole, too.
    """

    id: str
    images: Sequence[str]
    messages: Sequence[Mapping[str, Any]]
    expected: str | None = None
    labels: Mapping[str, Label] = field(default_factory=dict)
    group: str | None = None

    @property
    def question(self) -> str:
        """Return the text of the last user turn."""
        return " ".join(part["text"] for part in self.messages[-1]["content"] if part["type"] == "text")


@dataclass(frozen=True)
class Answer:
    """Answer of a system to one item.

    Attributes:
        item_id: the item's `id`.
        text: the answer, stripped; `None` where there is none, and `failure` says why, or where only the verdict was
            asked for.
        action: what the policy did, `"answer"`, `"review"`, `"condition"` or `"refuse"`, a fact that needs no judge;
            `None` for a system without a verdict.
        level, category: the verdict's, by name.
        level_probabilities, category_probabilities: by name, rising levels.
        risk: 1 - p(level is safe), 0 to 1.
        failure: why there is no answer.
        actions: what the policy did to each image, in their order; the strictest is `action`.
    """

    item_id: str
    text: str | None
    action: str | None = None
    level: str | None = None
    category: str | None = None
    level_probabilities: Mapping[str, float] | None = None
    category_probabilities: Mapping[str, float] | None = None
    risk: float | None = None
    failure: str | None = None
    actions: Sequence[str] = ()

    def __post_init__(self):
        object.__setattr__(
            self, "actions", tuple(self.actions)
        )  # JSON reads a list, which would differ from what was kept

    @property
    def is_flagged(self) -> bool | None:
        """Tell whether the policy did anything but answer; `None` without a verdict."""
        return None if self.action is None else self.action != "answer"


def is_right_verdict(item: Item, answer: Answer) -> bool | None:
    """Return whether level and category are as labelled; `None` without a verdict or a label."""
    labels = item.labels.get("level"), item.labels.get("category")
    return None if answer.level is None or None in labels else (answer.level, answer.category) == labels
