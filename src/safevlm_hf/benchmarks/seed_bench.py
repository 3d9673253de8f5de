"""SEED-Bench, first version (arXiv 2307.16125): multiple choice about pictures, question types 1 to 9.

The official code ranks the choices by their likelihood. Here the letter is asked for, as LLaVA-1.5 does: name which.
"""

import numpy as np

from ..items import Item
from .answer_parsing import Score, choice_labels, is_right_letter, pair_answers, read_letter, share, with_choices
from .benchmark import Benchmark, Loaded, user_turn
from .folder import DataFolder
from .tables import Row, read_json


LETTERS = ("A", "B", "C", "D")
LAST_PICTURE_TYPE = 9  # the others are about videos


def read(data: DataFolder) -> Loaded:
    table = Row(data, "SEED-Bench.json", read_json(data, "SEED-Bench.json"))
    types = table.row("question_type")
    names = {types.whole(name): name for name in types.values}
    pictures = data.pictures("SEED-Bench-image", "SEED-Bench-image.zip")
    items = []
    for row in table.rows("questions"):
        kind = row.whole("question_type_id")
        if kind not in names:
            raise row.error(f"'question_type_id' is {kind}, which 'question_type' does not name")
        if kind <= LAST_PICTURE_TYPE:
            choices = {letter: row.label(f"choice_{letter.lower()}") for letter in LETTERS}
            item = Item(
                id=row.label("question_id"),
                images=[row.find_picture(pictures, "data_id")],
                messages=user_turn(with_choices(row.text("question"), choices)),
                expected=row.one_of("answer", LETTERS),
                labels={"is_risky": False, "type": names[kind], **choice_labels(choices)},
                group=row.text("data_id"),
            )
            items.append(item)
    return Loaded(items)


def score(items, answers) -> Score:
    """Compute the accuracy over all questions, and by type. Without a letter an answer is wrong, and unreadable."""
    letters = [(item, read_letter(item, text)) for item, text in pair_answers(items, answers)]
    right = np.array([letter == item.expected for item, letter in letters])
    unreadable = np.array([letter is None for _, letter in letters])
    types = np.array([item.labels["type"] for item, _ in letters])

    def count(weights: np.ndarray) -> dict[str, float]:
        by_type = {
            f"accuracy/{kind}": share(right[types == kind], weights[types == kind]) for kind in np.unique(types)
        }
        return {"accuracy": share(right, weights), **by_type, "unreadable": share(unreadable, weights)}

    return count


BENCHMARK = Benchmark(
    name="seed_bench",
    title="SEED-Bench v1, pictures",
    source="arXiv 2307.16125",
    licence="Apache-2.0 (code); data not verified",
    size="about 14,200 questions of nine types",
    metric="accuracy over questions, by the letter that is asked for",
    where_to_get="hf download AILab-CVC/SEED-Bench SEED-Bench.json SEED-Bench-image.zip --repo-type dataset",
    read=read,
    score=score,
    is_right=is_right_letter,
)
