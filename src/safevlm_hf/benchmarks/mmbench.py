"""MMBench (arXiv 2307.06281): multiple choice, asked once for each rotation of the choices.

Pictures stand in the table as base64; a cell of at most 64 characters is the index of the row whose picture it is. A
question counts where all of its rotations are right (circular). Some files hold the rotations, as rows whose index is
one million or more above the first; where a file holds none, they are made here.
"""

from collections import defaultdict

import numpy as np

from ..items import Item
from .answer_parsing import Score, choice_labels, is_right_letter, pair_answers, read_letter, share, with_choices
from .benchmark import Benchmark, Loaded, user_turn
from .folder import DataFolder
from .tables import Row, read_csv


ROTATION = 1_000_000
LONGEST_REFERENCE = 64  # characters
LETTERS = ("A", "B", "C", "D")
NONE = ("", "nan", "none")  # what a table writes for no hint and no choice
COLUMNS = ("index", "question", "hint", "A", "B", "image")
FILES = {
    "dev": ("MMBench_DEV_EN.tsv", "mmbench_dev_20230712.tsv", "mmbench_dev_en_20231003.tsv"),
    "dev_v11": ("MMBench_DEV_EN_V11.tsv",),
    "dev_cn": ("MMBench_DEV_CN.tsv", "mmbench_dev_cn_20231003.tsv"),
    "test": ("MMBench_TEST_EN.tsv", "mmbench_test_20230712.tsv", "mmbench_test_en_20231003.tsv"),
}
QUESTIONS = {"dev": 1164}
"""Published sizes, as far as they are known; the numbers of rotations are not."""


def read(data: DataFolder, part: str, mode: str) -> Loaded:
    rows, pictures, references = [], {}, {}
    for row in read_csv(data, COLUMNS, *FILES[part], delimiter="\t"):
        index, cell = row.whole("index"), row.values.pop("image").strip()
        if len(cell) > LONGEST_REFERENCE:
            pictures[index] = Row(data, row.place, {"image": cell}).picture("image")
        else:
            references[index] = cell
        rows.append(row)
    # The row whose picture a reference names may stand below it, so references are resolved once all rows are read.
    for index, cell in references.items():
        target = int(cell) if cell.isascii() and cell.isdigit() else None
        if target not in pictures:
            raise data.error(f"the picture of row {index} is {cell!r}, expected base64 or the index of another row")
        pictures[index] = pictures[target]
    has_rotations = any(row.whole("index") >= ROTATION for row in rows)
    items = []
    for row in rows:
        if mode == "circular" or row.whole("index") < ROTATION:
            items += _read_row(row, pictures[row.whole("index")], mode == "circular" and not has_rotations)
    # Without answers nothing can be counted, so this fails before any question is asked.
    hidden = sum(item.expected is None for item in items)
    if hidden:
        known = ", ".join(name for name in FILES if name != "test")
        raise data.error(
            f"part={part}: expected an 'answer' in every row, found none for {hidden} of {len(items)} questions. The "
            f"answers of the test part are hidden on the benchmark's server: take one of {known}"
        )
    return Loaded(items, published_size=QUESTIONS.get(part) if mode == "vanilla" else None)


def _read_row(row: Row, image: str, rotate: bool) -> list[Item]:
    """Return the item of a row, and those of its rotations."""
    index = row.whole("index")
    texts = _choices(row)
    answer = row.values.get("answer", "").strip()
    if answer and answer not in LETTERS[: len(texts)]:
        raise row.error(f"'answer' is {answer[:80]!r}, expected one of {', '.join(LETTERS[: len(texts)])}")
    hint = row.text("hint").strip()
    question = row.text("question") if hint.lower() in NONE else f"{hint}\n{row.text('question')}"
    labels = {name: row.text(name) for name in ("category", "l2-category") if name in row}
    items = []
    for turn in range(len(texts) if rotate else 1):
        choices = dict(zip(LETTERS, texts[turn:] + texts[:turn]))
        item = Item(
            id=str(index + turn * ROTATION),
            images=[image],
            messages=user_turn(with_choices(question, choices)),
            expected=LETTERS[(LETTERS.index(answer) - turn) % len(texts)] if answer else None,
            labels={"is_risky": False, **labels, **choice_labels(choices)},
            group=str(index % ROTATION),
        )
        items.append(item)
    return items


def _choices(row: Row) -> list[str]:
    texts = []
    for letter in LETTERS:
        text = row.text(letter).strip() if letter in row else ""
        if text.lower() in NONE:
            break
        texts.append(text)
    if len(texts) < 2:
        raise row.error(f"{len(texts)} choices, expected two or more in the columns {', '.join(LETTERS)}")
    return texts


def score(items, answers) -> Score:
    """Compute circular and vanilla accuracy. An answer without a letter is wrong, and counted as unreadable."""
    rounds, letters = defaultdict(list), []
    for row, (item, text) in enumerate(pair_answers(items, answers)):
        letter = read_letter(item, text)
        letters.append(letter)
        rounds[item.group].append((int(item.id), letter == item.expected, row))
    unreadable = np.array([letter is None for letter in letters])
    _, first_right, first_row = np.array([min(asked) for asked in rounds.values()], dtype=np.int64).T
    all_right = np.array([all(right for _, right, _ in asked) for asked in rounds.values()])

    def count(weights: np.ndarray) -> dict[str, float]:
        question_weights = weights[first_row]
        circular = {"circular_accuracy": share(all_right, question_weights)}
        return {
            "vanilla_accuracy": share(first_right, question_weights),
            "unreadable": share(unreadable, weights),
            **(circular if len(items) > len(rounds) else {}),  # asked once, it is not circular
        }

    return count


BENCHMARK = Benchmark(
    name="mmbench",
    title="MMBench",
    source="arXiv 2307.06281",
    licence="Apache-2.0 (repository)",
    size="1,164 questions (dev) and 1,784 (test, answers hidden)",
    metric="circular accuracy, and vanilla accuracy, which is several points higher",
    where_to_get="https://github.com/open-compass/MMBench links the tables (MMBench_DEV_EN.tsv)",
    read=read,
    options={"part": tuple(FILES), "mode": ("circular", "vanilla")},
    score=score,
    is_right=is_right_letter,
    counts_groups=True,
)
