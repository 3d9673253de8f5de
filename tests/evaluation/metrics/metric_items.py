"""Items and answers for the tests of metrics: nothing but what a metric reads."""

from safevlm_hf.intervals.bootstrap import Bootstrap
from safevlm_hf.items import Answer, Item


LEVELS = ("safe", "low", "medium", "high")
FEW = Bootstrap(num_resamples=60)


def make_items(values, label="is_risky", groups=None, **more):
    """One item per value of the label; further labels are columns."""
    groups = groups or [None] * len(values)
    columns = {label: values, **more}
    return [
        Item(
            id=f"{number:05}",
            images=(),
            messages=(),
            labels={name: column[number] for name, column in columns.items() if column[number] is not None},
            group=groups[number],
        )
        for number in range(len(values))
    ]


def make_answers(items, field, values):
    return [Answer(item.id, "Blue.", **{field: value}) for item, value in zip(items, values, strict=True)]
