"""Labels of the items, and verdicts, as numbers."""

import math
from collections.abc import Sequence

from ...items import Answer, Item
from ...strict_data import shorten
from .measurement import align


RISK_TOLERANCE = 1e-6  # of rounding, on either side of 0 and 1


def is_risky(item: Item) -> bool | None:
    """Return the item's side; `None` where it has none.

    Raises:
        ValueError: the label is neither true nor false.
    """
    side = item.labels.get("is_risky")
    if side is not None and not isinstance(side, bool):
        raise ValueError(f"is_risky of {shorten(item.id)} is {shorten(side)}, expected true or false")
    return side


def label_id(item: Item, label: str, names: Sequence[str]) -> int | None:
    """Return the index of the item's label in `names`; `None` where it has none. The label is a name, or the index
    itself.

    Raises:
        ValueError: it is neither.
    """
    value = item.labels.get(label)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names):
        return value
    return name_id(value, names, f"the label {label!r} of {shorten(item.id)}")


def name_id(value: object, names: Sequence[str], what: str) -> int | None:
    """Return the index of a name in `names`; `None` of `None`.

    Raises:
        ValueError: it is none of them; `what` says whose it is.
    """
    if value is None:
        return None
    if not isinstance(value, str) or value not in names:
        raise ValueError(f"{what} is {shorten(value)}, expected one of {', '.join(names)}")
    return list(names).index(value)


def labelled_ids(
    field: str, items: Sequence[Item], answers: Sequence[Answer], names: Sequence[str]
) -> list[tuple[Item, int, int | None]]:
    """Return rows (item, label, verdict) as indices of `names`, of the items that have the label, in the order of
    their ids.

    Args:
        field: `"level"`, `"category"` or `"action"`, of the label and of the answer.

    Raises:
        ValueError: as `align`, or a label or a verdict is none of the names.
    """
    rows = []
    for item, answer in align(items, answers):
        label = label_id(item, field, names)
        given = name_id(getattr(answer, field), names, f"the {field} of the answer to {shorten(item.id)}")
        if label is not None:
            rows.append((item, label, given))
    return rows


def known_risk(risk: float | None, what: str) -> float | None:
    """Return a risk in [0, 1]; `None` where there is none, or where pixels without a verdict gave a NaN or an
    infinity.

    Raises:
        ValueError: it lies outside.
    """
    if risk is None or not math.isfinite(risk):
        return None
    if not -RISK_TOLERANCE <= risk <= 1 + RISK_TOLERANCE:
        raise ValueError(f"{what} is {risk}, expected 0 to 1")
    return min(max(risk, 0.0), 1.0)
