"""The files that join items, answers and judgements."""

import json
import random

from safevlm_hf.benchmarks.benchmark import user_turn
from safevlm_hf.evaluation.item_records import save_agreement, save_items
from safevlm_hf.evaluation.judges.base import Judgement
from safevlm_hf.items import Answer, Item


ITEMS = [
    Item("a", (), user_turn("Who is it?"), "nobody", {"is_risky": True, "type": "x"}),
    Item("b", (), user_turn("What is it?")),
    Item("c", (), user_turn("Where is it?")),
]
ANSWERS = [
    Answer("a", "A card \u2028.", "answer", "low", "privacy", risk=0.25),
    Answer("b", None, failure="too much"),
    Answer("c", "No."),
]
JUDGEMENTS = {
    "rules": [
        Judgement("a", "rules", "care"),
        Judgement("b", "rules", failure="none"),
        Judgement("c", "rules", "answer"),
    ],
    "words": [Judgement(name, "words", "refusal") for name in "abc"],
    "scores": [Judgement(name, "scores", score=7.0) for name in "abc"],
}


def test_a_line_per_item_joins_question_answer_verdict_and_judgements(tmp_path):
    lines = save_items(tmp_path / "items.jsonl", ITEMS, ANSWERS, JUDGEMENTS).read_text().splitlines()
    first, second, _ = map(json.loads, lines)
    assert first == {
        "id": "a",
        "question": "Who is it?",
        "labels": {"is_risky": True, "type": "x"},
        "expected": "nobody",
        "answer": "A card \u2028.",
        "failure": None,
        "action": "answer",
        "level": "low",
        "category": "privacy",
        "risk": 0.25,
        "judgements": {"rules": {"label": "care"}, "words": {"label": "refusal"}, "scores": {"score": 7.0}},
    }
    assert (second["answer"], second["failure"]) == (None, "too much")
    assert second["judgements"]["rules"] == {"failure": "none"}


def test_how_far_judges_agree_is_kept_for_each_system(tmp_path):
    few = {"rules": JUDGEMENTS["rules"]}
    path = save_agreement(tmp_path / "agreement.json", "0123", {"base": few, "safe": JUDGEMENTS})
    content = json.loads(path.read_text())
    assert content["protocol_hash"] == "0123" and content["agreement"]["base"] == []
    (pair,) = content["agreement"]["safe"]  # scores are not compared with labels
    assert (pair["judges"], pair["judged"], pair["failed"]) == (["rules", "words"], 2, 1)
    assert pair["differing"][0] == {"item_id": "a", "labels": ["care", "refusal"]}


def test_the_order_of_the_items_changes_no_byte(tmp_path):
    def written(order):
        judgements = {name: [column[row] for row in order] for name, column in JUDGEMENTS.items()}
        columns = [ITEMS[row] for row in order], [ANSWERS[row] for row in order]
        paths = [
            save_items(tmp_path / "items.jsonl", *columns, judgements),
            save_agreement(tmp_path / "agreement.json", "0123", {"safe": judgements}),
        ]
        return [path.read_bytes() for path in paths]

    assert written([0, 1, 2]) == written([2, 0, 1]) == written(random.sample(range(3), 3))
