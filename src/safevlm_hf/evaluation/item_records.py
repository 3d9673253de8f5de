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
    lines = []
    for item, answer, *judged in align(items, answers, *judgements.values()):
        found = {}
        for name, judgement in zip(judgements, judged):  # each has one of the three
            said = {"label": judgement.label, "score": judgement.score, "failure": judgement.failure}
            found[name] = {key: value for key, value in said.items() if value is not None}
        record = {
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
            "judgements": found,
        }
        lines.append(json.dumps(record, sort_keys=True, allow_nan=False) + "\n")
    return write_text(path, "".join(lines))


def save_agreement(path: Path, protocol_hash: str, systems: Mapping[str, Judgements]) -> Path:
    """Write every pair of judges on the answers of each system, as [`compare_judges`] gives them.

    Args:
        protocol_hash: which the systems share.
        systems: name to the judgements of its answers.
    """
    agreement = {}
    for name, judgements in systems.items():
        # The order of the ids keeps the file independent of that of the items.
        in_order = {judge: sorted(column, key=lambda one: one.item_id) for judge, column in judgements.items()}
        agreement[name] = compare_judges(in_order)
    return write_text(path, to_text({"protocol_hash": protocol_hash, "agreement": agreement}))
