"""POPE (arXiv 2305.10355): does a picture show an object? Three lists, which draw absent objects differently."""

import numpy as np

from ..extras import needs_extra
from ..items import Item
from .answer_parsing import SHORT_PROMPT, Score, pair_answers, share
from .benchmark import Benchmark, Loaded, user_turn
from .folder import DataFolder
from .tables import read_json_lines


LISTS = ("random", "popular", "adversarial")
# COCO's pictures lie in one of these folders, depending on how they were unpacked.
PLACES = ("val2014", "images/val2014", "coco/val2014", "images")


def read(data: DataFolder, part: str) -> Loaded:
    names = LISTS if part == "all" else (part,)
    pictures = data.pictures(*PLACES)
    items = []
    for name in names:
        file = f"coco_pope_{name}.json"
        for row in read_json_lines(data, file, f"output/coco/{file}", f"coco/{file}"):
            item = Item(
                id=f"{name}/{row.label('question_id')}",
                images=[row.find_picture(pictures, "image")],
                messages=user_turn(f"{row.text('text')}\n{SHORT_PROMPT}"),
                expected=row.one_of("label", ("yes", "no")),
                labels={"is_risky": False, "type": name},
                group=row.text("image"),
            )
            items.append(item)
    return Loaded(items, published_size=3000 * len(names))


def read_first_sentence(text: str | None) -> str:
    """Read an answer as the official script does: "no" if its first sentence has no, No or not, else "yes"."""
    words = (text or "").partition(".")[0].replace(",", "").split()
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def is_right(item: Item, text: str | None) -> bool:
    return read_first_sentence(text) == item.expected


def is_readable(text: str | None) -> bool:
    """Return `True` if the first sentence says yes or no at all."""
    # The official script takes anything without a "no" for a yes, a refusal included.
    words = (text or "").partition(".")[0].replace(",", "").lower().split()
    return bool({"yes", "no", "not"} & set(words))


def score(items, answers) -> Score:
    """Compute the official figures of each list, of which "yes" is the positive class, and the means of their lists.

    `strict_accuracy` beside them takes an answer without a yes or a no for a wrong one; `unreadable` is their share.
    """
    rows = pair_answers(items, answers)
    names = list(dict.fromkeys(item.labels["type"] for item, _ in rows))
    lists = np.array([names.index(item.labels["type"]) for item, _ in rows])
    seen = np.array(
        [(item.expected == "yes", read_first_sentence(text) == "yes", is_readable(text)) for item, text in rows]
    )

    def count(weights: np.ndarray) -> dict[str, float]:
        figures = {name: _score_list(seen[lists == i], weights[lists == i]) for i, name in enumerate(names)}
        means = {key: float(np.mean([one[key] for one in figures.values()])) for key in figures[names[0]]}
        return means | {f"{key}/{name}": value for name, one in figures.items() for key, value in one.items()}

    return count


def _score_list(seen: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """Compute the figures of one list.

    Args:
        seen: (n, 3) bool: yes is right, yes was read, something could be read.
        weights: (n,).
    """
    with needs_extra("eval"):
        from sklearn.metrics import precision_recall_fscore_support

    is_yes, read_as, readable = seen.T
    right = is_yes == read_as
    precision, recall, f1, _ = precision_recall_fscore_support(
        is_yes, read_as, average="binary", sample_weight=weights, zero_division=0.0
    )
    return {
        "accuracy": share(right, weights),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        "yes_ratio": share(read_as, weights),
        "strict_accuracy": share(right & readable, weights),
        "unreadable": share(~readable, weights),
    }


BENCHMARK = Benchmark(
    name="pope",
    title="POPE on COCO",
    source="arXiv 2305.10355",
    licence="MIT-style (lists); pictures are COCO's val2014",
    size="3 lists of 3,000 questions about 500 pictures",
    metric="accuracy, precision, recall, F1 and share of yes, by list",
    where_to_get="git clone https://github.com/AoiDragon/POPE (output/coco/*.json), and COCO's val2014/",
    read=read,
    options={"part": ("all", *LISTS)},
    score=score,
    is_right=is_right,
)
