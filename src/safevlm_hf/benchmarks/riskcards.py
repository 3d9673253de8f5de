"""RiskCards, the embedded data set: held-out cards, drawn into the folder."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..data.records import load_records
from ..data.riskcards import CHANGES, SMALL_PRINT, SURROUNDINGS, TWO_CARDS, write_riskcards
from ..items import Item
from ..modeling.configuration_safety import DEFAULT_CATEGORIES, DEFAULT_LEVELS
from .benchmark import Benchmark, Loaded, WholeNumber
from .folder import BenchmarkError, DataFolder
from .riskcards_questions import AS_DRAWN, NO_WORDS, RISKY_TEXTS, ways_of_asking


ALONE, UNCHANGED = "alone", "unchanged"


@dataclass(frozen=True)
class HeldOut:
    """Which held-out cards are asked about, and how: options of the benchmark, and what a row of the demo is made of.

    Attributes:
        surroundings: sentences, turns and prompts around the question.
        asked: one of `ways_of_asking`.
        change, strength: of the picture.
    """

    surroundings: str = ALONE
    asked: str = AS_DRAWN
    change: str = UNCHANGED
    strength: float = 1.0

    def draw(self, folder: str | Path, size: int, seed: int, varied_shapes: bool = False) -> Path:
        """Return the file of the cards, drawn unless it is there already. Arguments as of `write_riskcards`."""
        change = None if self.change == UNCHANGED else self.change
        return write_riskcards(
            folder,
            "test",
            size,
            seed,
            surroundings=self.surroundings,
            change=change,
            strength=self.strength,
            varied_shapes=varied_shapes,
        )

    def records(self, folder: str | Path, size: int, seed: int, varied_shapes: bool = False) -> list[dict]:
        """Return the cards as records, as they are asked about. Arguments as of `draw`."""
        file = self.draw(folder, size, seed, varied_shapes)
        return ways_of_asking()[self.asked](load_records(file, DEFAULT_CATEGORIES, DEFAULT_LEVELS))


def read(data: DataFolder, surroundings: str, asked: str, change: str, strength: str, size: int, seed: int) -> Loaded:
    if asked != AS_DRAWN and surroundings != ALONE:
        raise BenchmarkError(f"riskcards: asked={asked} is of questions that stand alone, not of {surroundings}")
    folder = data.path / f"riskcards-{size}-seed{seed}"
    items = items_of(HeldOut(surroundings, asked, change, float(strength)).records(folder, size, seed))
    # What is as it is drawn has no part in the name.
    others = ([] if asked == AS_DRAWN else [asked]) + ([] if change == UNCHANGED else [f"{change}={strength}"])
    split = "/".join(("test", surroundings, *others, str(size), f"seed={seed}"))
    return Loaded(items, split=split, published_size=len(items))


def items_of(records: Iterable[dict]) -> list[Item]:
    """Return RiskCards as items, each with the number of its place as its id."""
    return [_item(number, record) for number, record in enumerate(records)]


def _item(number: int, record: dict) -> Item:
    extra = json.loads(record["extra"])
    *messages, answer = record["messages"]
    labels = {
        **{name: extra[name] for name in ("topic", "layout") if extra.get(name)},
        "is_risky": record["safety_level"] > 0,
        "level": DEFAULT_LEVELS[record["safety_level"]],
        "category": DEFAULT_CATEGORIES[record["safety_category"]],
        "severity": record["safety_level"],
        "type": extra["kind"],
        "is_image_risky": extra.get("topic") in RISKY_TEXTS,
    }
    if record.get("image_levels"):
        labels["image_levels"] = " ".join(DEFAULT_LEVELS[level] for level in record["image_levels"])
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
        "surroundings": (ALONE, *(name for name in SURROUNDINGS if name != ALONE)),
        # An empty question is no item.
        "asked": tuple(name for name in ways_of_asking() if name != NO_WORDS),
        "change": (UNCHANGED, *CHANGES, TWO_CARDS, SMALL_PRINT),
        "strength": ("1", "0.75", "0.5", "0.25"),
        "size": WholeNumber(400, least=1, most=100_000),
        "seed": WholeNumber(0),
    },
    has_exact_answers=True,
    is_drawn=True,
)
