"""What joins items, answers and judgements: a line per item of a system, and how far its judges agree."""

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
    """Writes a line of JSON per item, sorted by id: the question, the answer, the verdict, and what each judge said.

    Args:
        items, answers: n each, in one order.
        judgements: judge to its n judgements.
    """
    rows = align(items, answers, *judgements.values())
    records = [_record(item, answer, dict(zip(judgements, judged))) for item, answer, *judged in rows]
    lines = [json.dumps(record, sort_keys=True, allow_nan=False) for record in records]
    return write_text(path, "".join(f"{line}\n" for line in lines))


def save_agreement(path: Path, protocol_hash: str, systems: Mapping[str, Judgements]) -> Path:
    """Writes every pair of judges on the answers of each system, as [`compare_judges`] gives them.

    Args:
        protocol_hash: which the systems share.
        systems: name to the judgements of its answers.
    """
    agreement = {name: compare_judges(_sorted(judgements)) for name, judgements in systems.items()}
    return write_text(path, to_text({"protocol_hash": protocol_hash, "agreement": agreement}))


def _record(item: Item, answer: Answer, judgements: Mapping[str, Judgement]) -> dict:
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
        "judgements": {name: _said(judgement) for name, judgement in judgements.items()},
    }


def _said(judgement: Judgement) -> dict:
    """The one of label, score and failure that there is."""
    said = {"label": judgement.label, "score": judgement.score, "failure": judgement.failure}
    return {name: value for name, value in said.items() if value is not None}


def _sorted(judgements: Judgements) -> Judgements:
    """In the order of the ids, so that the file does not depend on that of the items."""
    return {name: sorted(column, key=lambda one: one.item_id) for name, column in judgements.items()}
