"""RTVLM (Red Teaming Visual Language Models, arXiv 2401.12915): twelve parts with a label of three ways.

The published data set is a script, which `datasets` does not run any more: its JSON lines and zip files are read
here. It has no train split. SafeVLM trains on a random 80 % of it (arXiv 2405.13581). So there are two modes, and a
result's name says which: a fifth of the pictures, drawn by a seed ("test"; the others are "train", for `safevlm data
mix`), or all rows ("zero-shot"), for a model that has seen none of them.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from ..items import Item
from .benchmark import Benchmark, Loaded, WholeNumber, user_turn
from .folder import DataFolder
from .tables import Row, read_json_lines


TEST_SHARE = 0.2
SEED = WholeNumber(0)
ACTIONS = {"Safe to Answer": "answer", "Proceed with Caution": "condition", "Refuse to Answer": "refuse"}


@dataclass(frozen=True)
class _PartFiles:
    """Files of a part. `column` is its column in the published table, whose mean of ten is the headline."""

    column: str
    table: str
    pictures: tuple[str, ...]
    rows: int
    older_table: str | None = None


def _visual(folder: str, table: str, column: str, rows: int) -> _PartFiles:
    return _PartFiles(column, f"{folder}/{table}.jsonl", (f"{folder}/img.zip", f"{folder}/img", folder), rows)


def _places(folder: str, name: str = "img/img") -> tuple[str, ...]:
    """Return the zip file of a part, as published and at the part's top, or what was unpacked from it."""
    return (f"{folder}/{name}.zip", f"{folder}/{name.rpartition('/')[2]}.zip", f"{folder}/{name}", f"{folder}/img")


PARTS = {
    "misleading": _PartFiles("text misleading", "Harmful/misleading.jsonl", _places("Harmful"), 100),
    "captcha": _PartFiles("captcha", "Captcha/captcha.jsonl", _places("Captcha"), 200),
    "jailbreak": _PartFiles("jailbreak", "Jailbreak/jailbreak.jsonl", _places("Jailbreak"), 200),
    # The pictures of this part came with the first one's.
    "jailbreak2": _PartFiles(
        "jailbreak", "Jailbreak2/jailbreak.jsonl", (*_places("Jailbreak2"), *_places("Jailbreak")), 21
    ),
    "face": _PartFiles("face", "Face/face_diffusion.jsonl", _places("Face"), 2040),
    "celeb": _PartFiles(
        "celebrity",
        "Celebrity/mixed.jsonl",
        ("Celebrity/mix.zip", "Celebrity/mix", *_places("Celebrity")),
        200,
        older_table="Celebrity/celebrity.jsonl",
    ),
    "politics": _PartFiles(
        "politics", "Safety/Politics/politics.jsonl", _places("Safety/Politics", "img/politics"), 200
    ),
    "racial": _PartFiles("racial", "Safety/Racial/racial.jsonl", _places("Safety/Racial", "img/racial"), 200),
    "visual_misleading_wrong": _visual("VisualMisleadingWrong", "visual_misleading_wrong", "visual misleading", 405),
    "visual_misleading_correct": _visual(
        "VisualMisleadingCorrect", "visual_misleading_correct", "visual misleading", 432
    ),
    "visual_orderA": _visual("VisualOrderA", "order_A", "order correct first", 804),
    "visual_orderB": _visual("VisualOrderB", "order_B", "order correct second", 804),
}


@dataclass(frozen=True)
class _Question:
    text: str
    refused: str
    answer: str | None
    pictures: tuple[str, ...]


def read(data: DataFolder, part: str, mode: str, seed: int) -> Loaded:
    names = list(PARTS) if part == "all" else [part]
    items, keys = [], {}
    for name in names:
        for item, item_keys in _read_part(data, name):
            items.append(item)
            keys[item.id] = item_keys
    if mode == "zero-shot":
        sizes = [PARTS[name].rows for name in names]
        # A row of "misleading" holds several questions, and how many is not known.
        return Loaded(items, split=f"{part}/zero-shot", published_size=None if "misleading" in names else sum(sizes))
    # Each picture is drawn by itself: its side does not depend on the parts and the number of rows that are read.
    sides = {
        item.id: {random.Random(f"rtvlm {seed} {picture}").random() < TEST_SHARE for picture in keys[item.id]}
        for item in items
    }
    missing = [
        f"{item.id}: its two pictures fall on either side of the split" for item in items if len(sides[item.id]) > 1
    ]
    return Loaded(
        [item for item in items if sides[item.id] == {mode == "test"}], missing, split=f"{part}/{mode}/seed={seed}"
    )


def _read_part(data: DataFolder, part: str) -> Iterator[tuple[Item, list[str]]]:
    """Yield items, each with keys of its pictures. The flags of four parts are the same pictures."""
    files = PARTS[part]
    tables = [name for table in (files.table, files.older_table) if table for name in (f"data/{table}", table)]
    pictures = data.pictures(*(f"{top}{place}" for place in files.pictures for top in ("data/", "")))
    family = "flags" if part.startswith("visual_") else part.rstrip("2")
    for number, row in enumerate(read_json_lines(data, *tables)):
        for place, question in enumerate(_questions(row, part)):
            if question.refused not in ACTIONS:
                raise row.error(f"'refused_to_answer' is {question.refused[:80]!r}, expected {', '.join(ACTIONS)}")
            action = ACTIONS[question.refused]
            item = Item(
                id=f"{part}/{number}-{place}" if part == "misleading" else f"{part}/{number}",
                images=[pictures.path(name) for name in question.pictures],
                messages=user_turn(question.text, len(question.pictures)),
                expected=question.answer,
                labels={"is_risky": action != "answer", "action": action, "part": part, "column": files.column},
                group=f"{family}/{question.pictures[0]}",
            )
            yield item, [f"{family}/{name}" for name in question.pictures]


def _questions(row: Row, part: str) -> Iterator[_Question]:
    if part == "misleading":
        questions, refused = row.texts("questions"), row.texts("refused_to_answer")
        answers = row.texts("answers")
        if not len(questions) == len(refused) == len(answers):
            raise row.error(f"{len(questions)} questions, {len(refused)} labels and {len(answers)} answers")
        for one in zip(questions, refused, answers):
            yield _Question(*one, (f"{row.label('index')}.jpg",))
    elif part == "captcha":
        # The published loader gives all captchas this label.
        name = f"{row.label('id')}.jpg"
        yield _Question(row.text("instruction"), "Proceed with Caution", row.label("answer"), (name,))
    elif part.startswith("jailbreak"):
        yield _Question(row.text("instruction"), row.text("refused_to_answer"), None, (f"{row.label('index')}.jpg",))
    elif part.startswith("visual_"):
        answer = row.text("answers")
        names = [answer] if part == "visual_misleading_correct" else row.texts("img")
        files = tuple(f"flags/{''.join(name.split())}.jpg" for name in names)
        if len(files) != (2 if "order" in part else 1):
            raise row.error(f"'img' names {len(files)} pictures")
        yield _Question(row.text("question"), row.text("refused_to_answer"), answer, files)
    else:
        yield _Question(row.text("prompt"), row.text("refused_to_answer"), None, (row.label("id"),))


BENCHMARK = Benchmark(
    name="rtvlm",
    title="RTVLM: faithfulness, privacy, safety and fairness",
    source="arXiv 2401.12915",
    licence="CC-BY-4.0 on one revision of its card, 'cc' on another",
    size="12 parts, about 5,600 questions",
    metric="judge score 0 to 10, mean of ten columns; answer, condition or refuse",
    where_to_get="hf download MMInstruction/RedTeamingVLM --repo-type dataset --local-dir FOLDER",
    read=read,
    headlines=(("judge_score", "mean over column"),),
    options={"part": ("all", *PARTS), "mode": ("test", "zero-shot", "train"), "seed": SEED},
)
