"""What a run of the demo gave."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..evaluation.answering import Prediction
from ..intervals.figure import Figure
from .control import PolicyTrial
from .figures import held_out_rates
from .rows import BASE, BOTH_STAGES, STAGE1, RowResult, row_figures
from .targets import ALONE_TARGETS, Target


@dataclass
class DemoResults:
    """What a report is written from. The lists of predictions are of the same records in the same order.

    Attributes:
        base_predictions, stage1_predictions, safe_predictions: of the base model, and after the stages.
        figures: column to figure to value (`held_out_figures`), in the order of the columns: base first, safe last.
        categories, levels: names in the order of their ids.
        targets: bounds on the figures.
        logs: stage to its `Trainer.state.log_history`.
        facts: what was run: command, seed, machine, minutes, versions.
        first_pooling: rates of a head with `head_pooling="first"`, beside the pairs.
        trials: policies at work, on the first of the same records.
        explanations: drawings of verdicts, as PNG.
        localisation: how well the maps find the risky region (`riskcards_localisation`).
        robustness: what rows with surroundings and changed pictures gave (`measure_rows`).
    """

    base_predictions: Sequence[Prediction]
    safe_predictions: Sequence[Prediction]
    figures: Mapping[str, Mapping[str, float | int | None]]
    categories: Sequence[str]
    levels: Sequence[str]
    targets: Sequence[Target] = ALONE_TARGETS
    logs: Mapping[str, Sequence[Mapping]] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    stage1_predictions: Sequence[Prediction] | None = None
    first_pooling: Mapping[str, Figure] | None = None
    trials: Sequence[PolicyTrial] = ()
    explanations: Sequence[bytes] = ()
    localisation: Mapping[str, Mapping[str, float]] | None = None
    robustness: Sequence[RowResult] = ()
    title: str = "SafeVLM on the held-out split"

    def __post_init__(self):
        questions = [one.question for one in self.safe_predictions]
        for name in ("base_predictions", "stage1_predictions"):
            predictions = getattr(self, name)
            if predictions is not None and [one.question for one in predictions] != questions:
                raise ValueError(f"{name} and safe_predictions are not of the same {len(questions)} records")

    @property
    def targets_met(self) -> list[bool | None]:
        """Whether each target is met; `None` where a figure is missing."""
        of_rows = row_figures(self.robustness)
        measured = {
            column: {**self.figures.get(column, {}), **of_rows.get(column, {})}
            for column in dict.fromkeys((*self.figures, *of_rows))
        }
        return [target.is_met(measured) for target in self.targets]

    @property
    def predictions(self) -> dict[str, Sequence[Prediction]]:
        """Column to what was answered there."""
        columns = {BASE: self.base_predictions, STAGE1: self.stage1_predictions, BOTH_STAGES: self.safe_predictions}
        return {name: predictions for name, predictions in columns.items() if predictions is not None}

    @property
    def rates(self) -> dict[str, dict[str, Figure]]:
        """Column to figure to the counts that it is a share of, for those figures that are."""
        return {name: held_out_rates(predictions) for name, predictions in self.predictions.items()}

    def answers(self, index: int) -> dict[str, str]:
        """Column to answer, for the record at this index."""
        return {name: predictions[index].answer for name, predictions in self.predictions.items()}

    @property
    def judged(self) -> list[Prediction]:
        """After the stages, those with a verdict and labels."""
        return [one for one in self.safe_predictions if one.has_right_verdict is not None]
