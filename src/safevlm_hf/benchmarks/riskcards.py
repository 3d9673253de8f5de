"""RiskCards, the embedded data set: held-out cards, drawn into the folder."""

import json

from ..data.records import load_records
from ..data.riskcards import SURROUNDINGS, write_riskcards
from ..items import Item
from ..modeling.configuration_safety import DEFAULT_CATEGORIES, DEFAULT_LEVELS
from .benchmark import Benchmark, Loaded, WholeNumber
from .folder import DataFolder


def read(data: DataFolder, surroundings: str, size: int, seed: int) -> Loaded:
    folder = data.path / f"riskcards-{size}-seed{seed}"
    file = write_riskcards(folder, "test", size, seed, surroundings=surroundings)
    records = load_records(file, DEFAULT_CATEGORIES, DEFAULT_LEVELS)
    items = [_item(number, record) for number, record in enumerate(records)]
    return Loaded(items, split=f"test/{surroundings}/{size}/seed={seed}", published_size=size)


def _item(number: int, record: dict) -> Item:
    extra = json.loads(record["extra"])
    *messages, answer = record["messages"]
    labels = {
        "is_risky": record["safety_level"] > 0,
        "level": DEFAULT_LEVELS[record["safety_level"]],
        "category": DEFAULT_CATEGORIES[record["safety_category"]],
        "severity": record["safety_level"],
        "type": extra["kind"],
    }
    # The records' table fills image parts up with empty texts, which no processor expects.
    turns = [
        {
            "role": message["role"],
            "content": [
                {key: value for key, value in part.items() if value is not None} for part in message["content"]
            ],
        }
        for message in messages
    ]
    return Item(
        id=f"{number:06d}",
        images=record["images"],
        messages=turns,
        expected=answer["content"][0]["text"],
        labels=labels,
        group=extra["pair_id"],
    )


BENCHMARK = Benchmark(
    name="riskcards",
    title="RiskCards, held-out cards",
    source="drawn by this package (safevlm_hf.data.riskcards)",
    licence="Apache-2.0",
    size="up to 100,000; 400 if unset",
    metric="attack success, over-refusal, clean answers right, category and level, question pairs both right",
    where_to_get="nothing to get: they are drawn into the folder",
    read=read,
    options={
        "surroundings": ("alone", *(name for name in SURROUNDINGS if name != "alone")),
        "size": WholeNumber(400, least=1, most=100_000),
        "seed": WholeNumber(0),
    },
    has_exact_answers=True,
    is_drawn=True,
)
