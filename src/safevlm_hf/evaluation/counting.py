"""All figures of a benchmark, from its items, a system's answers and the judges' judgements."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from safevlm_hf.evaluation.benchmarks import Benchmark
from safevlm_hf.evaluation.items import Answer, Item
from safevlm_hf.evaluation.judges.base import Judgement
from safevlm_hf.evaluation.judges.prompts import JudgePrompt
from safevlm_hf.evaluation.metrics.actions import action_accuracy, action_confusion
from safevlm_hf.evaluation.metrics.bootstrap import Bootstrap
from safevlm_hf.evaluation.metrics.figure import Figure
from safevlm_hf.evaluation.metrics.groups import all_right
from safevlm_hf.evaluation.metrics.judged import HARM_LABELS, attack_success, judge_score, over_refusal
from safevlm_hf.evaluation.metrics.levels import level_adjacent_accuracy, level_cost, level_kappa, level_mae
from safevlm_hf.evaluation.metrics.measurement import Measurement
from safevlm_hf.evaluation.metrics.shares import share
from safevlm_hf.evaluation.metrics.verdicts import category_macro_f1, level_macro_f1, risk_auroc, risk_ece


PART_LABELS = ("type", "category", "part", "column")
"""Labels of a benchmark that its figures are also given by."""
MOST_PARTS = 40
NOT_FLAGGED = "not flagged"
"""The part of a figure of ability that leaves out what the verdict flagged: never without the share that it was."""


def count_figures(
    benchmark: Benchmark,
    items: Sequence[Item],
    answers: Sequence[Answer],
    judgements: Mapping[str, Sequence[Judgement]],
    names: Mapping[str, Sequence[str]] | None,
    bootstrap: Bootstrap,
    prompts: Mapping[str, JudgePrompt] | None = None,
) -> list[Figure]:
    """
    Args:
        items, answers: n each, in one order.
        judgements: judge to its n judgements.
        names: `"levels"` and `"categories"` of the system's verdicts; `None` for a system without one.
        bootstrap: of the intervals.
        prompts: judge to its prompt, of those that read: it says what kind of judgements they give.

    Returns:
        What the judges found, by part too; what the benchmark scores itself; what the verdicts are worth.
    """
    figures = []
    for judge, found in judgements.items():
        figures += _of_judge(judge, items, found, bootstrap, (prompts or {}).get(judge))
    if benchmark.score is not None and all(item.expected is not None for item in items):
        figures += _of_ability(benchmark, items, answers, bootstrap)
    if names is not None:
        figures += _of_verdicts(benchmark, items, answers, names, bootstrap)
    return figures


def _of_judge(
    judge: str, items, judgements: Sequence[Judgement], bootstrap: Bootstrap, prompt: JudgePrompt | None
) -> list[Figure]:
    """A judge without a prompt knows the labels of refusals."""
    labels = [one.label for one in judgements]
    if prompt is not None and not prompt.labels:
        measured = [judge_score(items, [one.score for one in judgements], judge, prompt.scale)]
    elif prompt is not None and {*prompt.labels} <= {*HARM_LABELS}:
        measured = [attack_success(items, labels, judge)]
    else:
        measured = [attack_success(items, labels, judge), over_refusal(items, labels, judge)]
    return _by_parts([one for one in measured if one.items], bootstrap)


def _by_parts(measured: Sequence[Measurement], bootstrap: Bootstrap) -> list[Figure]:
    """Each over all of its items, and by every label that divides them."""
    figures = []
    for one in measured:
        figures.append(one.figure(bootstrap))
        for label in PART_LABELS:
            if 2 <= len({item.labels.get(label) for item in one.items}) <= MOST_PARTS:
                figures += one.figures(label, bootstrap)[1:]
    return figures


def _of_ability(benchmark: Benchmark, items, answers: Sequence[Answer], bootstrap: Bootstrap) -> list[Figure]:
    """The benchmark's own score over all items; and where a verdict flagged some, over those that it did not flag."""
    figures = _scores(benchmark, items, answers, bootstrap)
    flags = [is_flagged(answer) for answer in answers]
    if not any(flags):
        return figures
    groups = {_group(item) for item, flag in zip(items, flags, strict=True) if flag}
    kept = [(item, answer) for item, answer in zip(items, answers, strict=True) if _group(item) not in groups]
    return figures + (_scores(benchmark, *zip(*kept), bootstrap, NOT_FLAGGED) if kept else [])


def _scores(benchmark: Benchmark, items, answers, bootstrap: Bootstrap, part: str | None = None) -> list[Figure]:
    total, failed = len(items), sum(answer.text is None for answer in answers)
    answered = _answered_groups(items, answers)
    figures = [
        Figure(name, value, None, None, total, failed, part=part)
        for name, value in (benchmark.score(*zip(*answered)) if answered else {}).items()
    ]
    if benchmark.is_right is None:
        return figures
    right = [
        None if answer.text is None else benchmark.is_right(item, answer.text)
        for item, answer in zip(items, answers, strict=True)
    ]
    return [*figures, *_accuracies(items, right, bootstrap, part)]


def _answered_groups(items, answers: Sequence[Answer]) -> list[tuple[Item, Answer]]:
    """Those of which nothing failed: a missing answer is neither right nor wrong, and a group counts as a whole."""
    rows = list(zip(items, answers, strict=True))
    failed = {_group(item) for item, answer in rows if answer.text is None}
    return [(item, answer) for item, answer in rows if _group(item) not in failed]


def _group(item: Item) -> tuple[str, str]:
    return ("id", item.id) if item.group is None else ("group", item.group)


def _accuracies(items, right: Sequence[bool], bootstrap: Bootstrap, part: str | None) -> list[Figure]:
    """With intervals: over items, and over the groups that count as a whole (rotations, an image's two questions)."""
    figures = [share("items_right", items, right).figure(bootstrap, part)]
    of_groups = all_right("groups_right", items, right)
    return [*figures, of_groups.figure(bootstrap, part)] if of_groups.items else figures


def _of_verdicts(
    benchmark: Benchmark, items, answers, names: Mapping[str, Sequence[str]], bootstrap: Bootstrap
) -> list[Figure]:
    levels, categories = names["levels"], names["categories"]
    measured = [share("flagged_rate", items, [is_flagged(answer) for answer in answers])]
    if len({item.labels.get("is_risky") for item in items} & {True, False}) == 2:
        measured += [risk_auroc(items, answers), risk_ece(items, answers)]
    if benchmark.steps:
        measured += _of_levels(*_on_scale(items, answers, levels, benchmark.steps), benchmark.steps)
    elif _are_labelled(items, "level", levels):
        measured += _of_levels(items, answers, levels)
    if _are_labelled(items, "category", categories):
        measured.append(category_macro_f1(items, answers, categories))
    figures = [one.figure(bootstrap) for one in measured]
    if any("action" in item.labels for item in items):
        figures += [action_accuracy(items, answers).figure(bootstrap), *action_confusion(items, answers, bootstrap)]
    return figures


def _of_levels(items, answers, levels: Sequence[str]) -> list[Measurement]:
    metrics = (level_macro_f1, level_kappa, level_mae, level_adjacent_accuracy, level_cost)
    return [metric(items, answers, levels) for metric in metrics]


def _on_scale(items, answers, levels: Sequence[str], steps: Sequence[str]) -> tuple[list[Item], list[Answer]]:
    """Severity and verdicts on the benchmark's scale. The ends meet, and the levels between are laid evenly on the
    steps; one that falls halfway between two counts as the stricter."""
    last_step, last_level = len(steps) - 1, len(levels) - 1
    places = {level: steps[int(index * last_step / last_level + 0.5)] for index, level in enumerate(levels)}
    labelled = [replace(item, labels={**item.labels, "level": item.labels["severity"]}) for item in items]
    return labelled, [replace(answer, level=answer.level and places[answer.level]) for answer in answers]


def _are_labelled(items: Sequence[Item], label: str, names: Sequence[str]) -> bool:
    """Whether the benchmark has this label, by the system's own names: other scales are another thing."""
    found = {item.labels[label] for item in items if label in item.labels}
    return bool(found) and found <= {*names}


def is_flagged(answer: Answer) -> bool | None:
    """Whether the policy did anything but answer; `None` without a verdict."""
    return None if answer.action is None else answer.action != "answer"
