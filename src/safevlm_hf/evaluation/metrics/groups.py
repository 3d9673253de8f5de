"""Items that count together: a question right in all of its forms, or not at all."""

from collections import defaultdict
from collections.abc import Sequence

from ...items import Item
from .judged import all_true
from .measurement import Measurement, align
from .shares import share


def all_right(
    name: str, items: Sequence[Item], is_right: Sequence[bool | None], judge: str | None = None
) -> Measurement:
    """Return the share of groups in which everything is right: MMBench's circular accuracy (arXiv 2307.06281), MME's
    acc+ (arXiv 2306.13394), and RiskCards' pairs of a risky and a clean question about one picture
    (`pairs_both_right`).

    One wrong answer decides; without one, a missing answer leaves the group open. `total` counts groups. Items without
    a group, or alone in it, are none. A label that all of a group share can make parts.

    Args:
        name: of the figure.
        items: n.
        is_right: n, `None` where it is not known.

    Raises:
        ValueError: as `align`.
    """
    groups = defaultdict(list)
    for item, right in align(items, is_right):
        if item.group is not None:
            groups[item.group].append((item, right))
    units, hits = [], []
    for group, rows in groups.items():
        if len(rows) > 1:
            labels = [item.labels for item, _ in rows]
            shared = {
                key: value for key, value in labels[0].items() if all((key, value) in one.items() for one in labels)
            }
            units.append(Item(group, (), (), labels=shared))
            hits.append(all_true([right for _, right in rows]))
    return share(name, units, hits, judge)
