"""Files that join items, answers and judgements: a line per item of a system, and the agreement of its judges."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..files import write_text
from ..items import Answer, Item
from ..strict_data import plain, to_text
from .judges.agreement import compare_judges
from .judges.base import Judgement
from .metrics.measurement import align


Judgements = Mapping[str, Sequence[Judgement]]


def save_items(path: Path, items: Sequence[Item], answers: Sequence[Answer], judgements: Judgements) -> Path:
    """Write a line of JSON per item, sorted by id: the question, the answer, the verdict, and what each judge said.

    Args:
        items, answers: n each, in one order.
        judgements: judge to its n judgements.
    """
    rows = align(items, answers, *judgements.values())
    records = [_record(item, answer, dict(zip(judgements, judged))) for item, answer, *judged in rows]
    lines = [json.dumps(record, sort_keys=True, allow_nan=False) for record in records]
    return write_text(path, "".join(f"{line}\n" for line in lines))


def save_agreement(path: Path, protocol_hash: str, systems: Mapping[str, Judgements]) -> Path:
    """Write every pair of judges on the answers of each system, as [`compare_judges`] gives them.

    Args:
        protocol_hash: which the systems share.
        systems: name to the judgements of its answers.
    """
    agreement = {}
    for name, judgements in systems.items():
        # In the order of the ids, so that the file does not depend on that of the items.
        in_order = {judge: sorted(column, key=lambda one: one.item_id) for judge, column in judgements.items()}
        agreement[name] = compare_judges(in_order)
    return write_text(path, to_text({"protocol_hash": protocol_hash, "agreement": agreement}))


def _record(item: Item, answer: Answer, judgements: Mapping[str, Judgement]) -> dict:
    """Return one line. Of each judgement it has the one of label, score and failure that there is."""
    said = {name: {"label": one.label, "score": one.score, "failure": one.failure} for name, one in judgements.items()}
    return {
        "id": item.id,
        "question": item.question,
        "labels": plain(item.labels),
        "expected": item.expected,
        "answer": answer.text,
        "failure": answer.failure,
        "action": answer.action,
        "level": answer.level,
        "category": answer.category,
        "risk": answer.risk,
        "judgements": {
            name: {key: value for key, value in one.items() if value is not None} for name, one in said.items()
        },
    }
