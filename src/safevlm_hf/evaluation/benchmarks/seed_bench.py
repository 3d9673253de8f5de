"""SEED-Bench, first version (arXiv 2307.16125): multiple choice about pictures, question types 1 to 9.

The official code ranks the choices by their likelihood. Here the letter is asked for, as LLaVA-1.5 does: name which.
"""

from collections import defaultdict

from ..items import Item
from .benchmark import Benchmark, Loaded, user_turn
from .folder import DataFolder
from .reading import choice_labels, is_right_letter, pair_answers, read_letter, share, with_choices
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
            items.append(_item(row, names[kind], row.find_picture(pictures, "data_id")))
    return Loaded(items)


def _item(row: Row, kind: str, image: str) -> Item:
    choices = {letter: row.label(f"choice_{letter.lower()}") for letter in LETTERS}
    return Item(
        id=row.label("question_id"),
        images=[image],
        messages=user_turn(with_choices(row.text("question"), choices)),
        expected=row.one_of("answer", LETTERS),
        labels={"is_risky": False, "type": kind, **choice_labels(choices)},
        group=row.text("data_id"),
    )


def score(items, answers) -> dict[str, float]:
    """Accuracy over all questions, and by type. An answer without a letter is wrong, and counted as unreadable."""
    by_type, letters = defaultdict(list), []
    for item, text in pair_answers(items, answers):
        letter = read_letter(item, text)
        letters.append(letter)
        by_type[item.labels["type"]].append(letter == item.expected)
    return {
        "accuracy": share([right for asked in by_type.values() for right in asked]),
        **{f"accuracy/{kind}": share(asked) for kind, asked in sorted(by_type.items())},
        "unreadable": share([letter is None for letter in letters]),
    }


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
