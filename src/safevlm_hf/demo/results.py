"""Results of a run of the demo."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..intervals.figure import Figure
from ..items import Answer, Item, is_right_verdict
from .control import PolicyTrial
from .figures import held_out_figures
from .rows import RowResult, row_figures
from .targets import ALONE_TARGETS, Target


@dataclass
class DemoResults:
    """Everything that a report is written from.

    Attributes:
        items: the held-out questions that stand alone.
        answers: column to its answers, one per item, in the order of the columns: base first, safe last.
        categories, levels: names in the order of their ids.
        targets: bounds on the figures.
        logs: stage to its `Trainer.state.log_history`.
        facts: what was run: command, seed, machine, minutes, versions.
        first_pooling: figures of a head with `head_pooling="first"`, beside the pairs.
        trials: policies at work, on the first of the same items.
        explanations: drawings of verdicts, as PNG.
        localisation: how well the last column's maps find the risky region (`riskcards_localisation`).
        robustness: what rows with surroundings and changed pictures gave (`measure_rows`).
    """

    items: Sequence[Item]
    answers: Mapping[str, Sequence[Answer]]
    categories: Sequence[str]
    levels: Sequence[str]
    targets: Sequence[Target] = ALONE_TARGETS
    logs: Mapping[str, Sequence[Mapping]] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    first_pooling: Mapping[str, Figure] | None = None
    trials: Sequence[PolicyTrial] = ()
    explanations: Sequence[bytes] = ()
    localisation: Mapping[str, Mapping[str, Any]] | None = None
    robustness: Sequence[RowResult] = ()

    def __post_init__(self):
        ids = [item.id for item in self.items]
        for column, answers in self.answers.items():
            if [answer.item_id for answer in answers] != ids:
                raise ValueError(f"the answers of {column!r} are not to the same {len(ids)} items, in their order")
        self.figures = {column: held_out_figures(self.items, answers) for column, answers in self.answers.items()}
        region = (self.localisation or {}).get("pictogram_region")
        if region is not None and self.figures:
            low, high = region.get("interval", (None, None))
            ratio = Figure("map_ratio", region["mass_ratio"], low, high, region["num_samples"])
            # The maps were made by the model of the last column.
            self.figures[list(self.figures)[-1]]["map_ratio"] = ratio

    @property
    def values(self) -> dict[str, dict[str, float | None]]:
        """Return column to figure to value, of questions that stand alone."""
        return {
            column: {name: figure.value for name, figure in figures.items()}
            for column, figures in self.figures.items()
        }

    @property
    def targets_met(self) -> list[bool | None]:
        """Tell whether each target is met; `None` where a figure is missing."""
        alone, by_row = self.values, row_figures(self.robustness)
        measured = {
            column: {**alone.get(column, {}), **by_row.get(column, {})} for column in dict.fromkeys((*alone, *by_row))
        }
        return [target.is_met(measured) for target in self.targets]

    @property
    def rows(self) -> list[tuple[Item, Answer]]:
        """Return the items with the answers of the last column, after the stages."""
        return list(zip(self.items, list(self.answers.values())[-1], strict=True)) if self.answers else []

    @property
    def judged(self) -> list[tuple[Item, Answer]]:
        """Return the rows that have a verdict and labels."""
        return [row for row in self.rows if is_right_verdict(*row) is not None]

    def texts(self, index: int) -> dict[str, str]:
        """Return column to answer, for the item at this index."""
        return {column: answers[index].text or "" for column, answers in self.answers.items()}
