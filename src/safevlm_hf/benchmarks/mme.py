"""MME (arXiv 2306.13394): 14 tasks, each with two questions about a picture, one to be answered yes and one no.

Tasks lie in a folder each: some have `images/` and `questions_answers_YN/`, the others hold both side by side. A line
is question and answer, with a tab between, in a text file named as the picture; where it begins with the picture's
name, that holds.
"""

from collections import defaultdict
from pathlib import Path

import numpy as np

from ..items import Item
from .answer_parsing import SHORT_PROMPT, Score, pair_answers, share
from .benchmark import Benchmark, Loaded, user_turn
from .folder import DataFolder, list_names


PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR"
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
TASKS = (*PERCEPTION, *COGNITION)
MAX_LIST_BYTES = 2**20
TOPS = ("", "MME_Benchmark_release_version/MME_Benchmark/", "MME_Benchmark_release_version/", "MME_Benchmark/")


def read(data: DataFolder, part: str) -> Loaded:
    tasks = TASKS if part == "all" else (part,)
    top = next((top for top in TOPS if data.find(*(f"{top}{task}" for task in tasks))), "")
    absent = [task for task in tasks if data.find(f"{top}{task}") is None]
    if absent:
        raise data.missing(f"a folder for each task ({list_names(absent)} not there)")
    items = [item for task in tasks for item in _read_task(data, task, f"{top}{task}")]
    return Loaded(items, published_size=2374 if part == "all" else None)


def _read_task(data: DataFolder, task: str, folder: str) -> list[Item]:
    lists = data.files(f"{folder}/questions_answers_YN/*.txt", f"{folder}/*.txt")
    pictures = data.pictures(f"{folder}/images", folder)
    items = []
    for path in lists:
        by_image = defaultdict(list)
        for image, question, answer in _read_lines(data, path):
            by_image[image].append(answer)
            where = pictures.path_by_stem(path.stem) if image is None else pictures.path(image)
            name = f"{task}/{path.stem if image is None else Path(image).stem}"
            item = Item(
                id=f"{name}/{answer}",
                images=[where],
                messages=user_turn(f"{question}\n{SHORT_PROMPT}"),
                expected=answer,
                labels={"is_risky": False, "type": task},
                group=name,
            )
            items.append(item)
        # The official score needs both questions of each picture: with one missing it would be another score.
        if not by_image:
            raise data.error(f"{path}: expected one question to be answered yes and one no, found no question")
        for image, found in by_image.items():
            if sorted(found) != ["no", "yes"]:
                raise data.error(
                    f"{path}: expected one question to be answered yes and one no about {image or path.stem}, "
                    f"found {list_names(found)}"
                )
    return items


def _read_lines(data: DataFolder, path: Path) -> list[tuple[str | None, str, str]]:
    """Read the picture (where it is named), the question, and "yes" or "no" of each line."""
    if path.stat().st_size > MAX_LIST_BYTES:
        raise data.error(f"{path} has {path.stat().st_size:,} bytes, expected a few questions")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise data.error(f"{path} is not in UTF-8 ({error})") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        *image, question, answer = line.strip().split("\t") if line.count("\t") in (1, 2) else (line, "")
        if not line.strip():
            continue
        if answer.strip().lower() not in ("yes", "no"):
            raise data.error(f"{path}, line {number}: expected question, tab, and Yes or No, found {line[:80]!r}")
        rows.append((image[0] if image else None, question.strip(), answer.strip().lower()))
    return rows


def read_yes_no(text: str | None) -> str | None:
    """Read an answer as the official tool does, by its first four characters; `None` if neither word is there."""
    start = (text or "").strip().lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else None


def is_right(item: Item, text: str | None) -> bool:
    return read_yes_no(text) == item.expected


def score(items, answers) -> Score:
    """Compute each task's score, 0 to 200: 100 times the shares of right answers and of pictures with both right.

    The sums of perception (2,000 at most) and cognition (800) are there where all of their tasks are. An answer that
    is neither yes nor no is wrong, and counted as unreadable.
    """
    readings = [(item, read_yes_no(text)) for item, text in pair_answers(items, answers)]
    unreadable = np.array([reading is None for _, reading in readings])
    right = np.array([reading == item.expected for item, reading in readings])
    wrong_groups = {item.group for (item, _), is_right in zip(readings, right) if not is_right}
    both = np.array([item.group not in wrong_groups for item, _ in readings])  # a pair counts as its two questions do
    rows = defaultdict(list)
    for row, (item, _) in enumerate(readings):
        rows[item.labels["type"]].append(row)

    def count(weights: np.ndarray) -> dict[str, float]:
        figures = {}
        for task, own in rows.items():
            figures[f"accuracy/{task}"] = share(right[own], weights[own])
            figures[f"accuracy_plus/{task}"] = share(both[own], weights[own])
            figures[f"score/{task}"] = 100 * (figures[f"accuracy/{task}"] + figures[f"accuracy_plus/{task}"])
        for name, tasks in (("perception", PERCEPTION), ("cognition", COGNITION), ("total", TASKS)):
            if set(tasks) <= set(rows):
                figures[name] = sum(figures[f"score/{task}"] for task in tasks)
        return {**figures, "unreadable": share(unreadable, weights)}

    return count


BENCHMARK = Benchmark(
    name="mme",
    title="MME",
    source="arXiv 2306.13394",
    licence="for research alone, not verified",
    size="14 tasks, 2,374 questions, two for each picture",
    metric="accuracy and accuracy of both questions, by task; sums of perception (2,000) and cognition (800)",
    where_to_get="on request from its authors, or hf download darkyarding/MME --repo-type dataset, unpacked",
    read=read,
    options={"part": ("all", *TASKS)},
    score=score,
    is_right=is_right,
    counts_groups=True,
)
