"""Benchmarks: facts about one, and how its published files become items and are checked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from huggingface_hub.constants import HF_HOME

from ..items import Answer, Item
from ..strict_data import shorten
from .answer_parsing import Score
from .folder import BenchmarkError, DataFolder
from .pictures import find_picture_problems


DEFAULT_CACHE = Path(HF_HOME) / "safevlm" / "pictures"


@dataclass(frozen=True)
class WholeNumber:
    """The valid values of an option that is a whole number: its default, and the least and the most it may be."""

    default: int
    least: int = 0
    most: int = 2**32 - 1

    def __str__(self) -> str:
        return f"a whole number from {self.least} to {self.most}, {self.default} if unset"

    def __contains__(self, value: Any) -> bool:
        text = str(value)
        is_whole = text.isascii() and text.isdigit() and len(text) <= len(str(self.most))
        return is_whole and self.least <= int(text) <= self.most


@dataclass(frozen=True)
class Loaded:
    """The items of a benchmark.

    Attributes:
        items: the questions, in the order of the published files.
        missing: what was left out and why, one line each.
        split: which part and mode the items are, such as "all/zero-shot"; it belongs to every result.
        published_size: how many items this split has as published; `None` where that is not known.
        benchmark: its name.
    """

    items: Sequence[Item]
    missing: Sequence[str] = ()
    split: str = ""
    published_size: int | None = None
    benchmark: str = ""

    @property
    def name(self) -> str:
        """Benchmark and split, as results are named: "rtvlm/all/zero-shot"."""
        return f"{self.benchmark}/{self.split}"


@dataclass(frozen=True)
class Benchmark:
    """A benchmark with its adapter.

    Attributes:
        name: in commands and results.
        title: its name in tables. It and the next five are for people; what could not be verified is said to be so.
        source: its paper.
        licence: of its data.
        size: how many items there are, and of what kinds.
        metric: what its paper reports.
        where_to_get: the command or address that brings its files.
        read: `read(data, **options)` gives what a [`DataFolder`] holds, as [`Loaded`]; one keyword for each option.
        options: valid values by name, the default first.
        score: reads items and answers, and gives a function from weights (n,), how often each item counts, to the
            official figures, where they need no judge.
        is_right: whether an answer's text is right by the official reading, where there is one.
        has_exact_answers: what is expected of a harmless item is the only right answer, word for word.
        counts_groups: a group is right as a whole or not at all, as a question in all of its rotations.
        headlines: (figure, part) of the means over parts that its paper reports first; reports and cards show them
            beside the figures over all items.
        steps: its own scale of severity, rising, where it has one; the label `"severity"` is an index of it.
        has_dead_pictures: pictures are links that die: items without one are always left out and named.
        is_drawn: the library makes the data itself, and the folder where it is missing.
    """

    name: str
    title: str
    source: str
    licence: str
    size: str
    metric: str
    where_to_get: str
    read: Callable[..., Loaded]
    options: Mapping[str, tuple[str, ...] | WholeNumber] = field(default_factory=dict)
    score: Callable[[Sequence[Item], Sequence[Answer]], Score] | None = None
    is_right: Callable[[Item, str | None], bool] | None = None
    has_exact_answers: bool = False
    counts_groups: bool = False
    headlines: tuple[tuple[str, str], ...] = ()
    steps: tuple[str, ...] = ()
    has_dead_pictures: bool = False
    is_drawn: bool = False

    def load(self, folder, skip_missing: bool = False, cache_dir=None, **options) -> Loaded:
        """Return the items, as [`load_benchmark`] does."""
        chosen = self._choose(options)
        # A copy of published files must be there; the library makes the folder of data that it draws.
        if self.is_drawn:
            Path(folder).mkdir(parents=True, exist_ok=True)
        with DataFolder(folder, self.where_to_get, cache_dir or DEFAULT_CACHE) as data:
            loaded = self.read(data, **chosen)
            items, useless = _leave_out_useless(data, loaded.items)
            items, unreadable = _leave_out_unreadable(items)
            if unreadable and not (skip_missing or self.has_dead_pictures):
                raise data.error(
                    f"{len(unreadable)} of {len(loaded.items)} items have a picture that is missing or cannot be "
                    "read; `--skip-missing` (`skip_missing=True`) leaves such items out and names them in the result",
                    unreadable,
                )
            missing = [*loaded.missing, *useless, *unreadable]
            if not items:
                found = f"{len(missing)} were left out" if missing else "its tables are empty"
                raise data.error(f"{self.name}: no items in {data.path} ({found})", missing)
        named = (value if isinstance(value, str) else f"{name}={value}" for name, value in chosen.items())
        split = loaded.split or "/".join(named) or "all"
        return replace(loaded, items=items, missing=missing, split=split, benchmark=self.name)

    @property
    def has_ability(self) -> bool:
        """`True` for one of general ability, whose figures are shown with the verdict switched off, too."""
        return self.is_right is not None

    def describe_options(self) -> str:
        """List the options with their valid values, in one line."""
        described = [
            f"{name} ({valid if isinstance(valid, WholeNumber) else ', '.join(valid)})"
            for name, valid in self.options.items()
        ]
        return "; ".join(described) or "none"

    def _choose(self, given: Mapping[str, Any]) -> dict[str, str | int]:
        """Return every option with its value, the given or the default one."""
        for name in given:
            if name not in self.options:
                raise BenchmarkError(f"{self.name} has no option {name!r}. Valid options: {self.describe_options()}")
        chosen = {}
        for name, valid in self.options.items():
            value = given.get(name, valid.default if isinstance(valid, WholeNumber) else valid[0])
            if value not in valid:
                raise BenchmarkError(
                    f"{self.name}: {name} is {shorten(value)}. Valid options: {self.describe_options()}"
                )
            chosen[name] = int(value) if isinstance(valid, WholeNumber) else value
        return chosen


def user_turn(text: str, num_images: int = 1) -> list[dict]:
    """Return a conversation of one turn: the pictures, then the text."""
    content = [*({"type": "image"} for _ in range(num_images)), {"type": "text", "text": text}]
    return [{"role": "user", "content": content}]


def _leave_out_useless(data: DataFolder, items: Sequence[Item]) -> tuple[list[Item], list[str]]:
    """Leave out empty questions, and items that stand in the data twice."""
    kept: dict[str, Item] = {}
    missing = []
    for item in items:
        if not item.question.strip():
            missing.append(f"{item.id}: its question is empty")
        elif item.id not in kept:
            kept[item.id] = item
        elif item == kept[item.id]:
            missing.append(f"{item.id}: it stands in the data more than once")
        else:
            raise data.error(f"two different items have the id {item.id!r}")
    return list(kept.values()), missing


def _leave_out_unreadable(items: Sequence[Item]) -> tuple[list[Item], list[str]]:
    problems = find_picture_problems(path for item in items for path in item.images)
    kept, missing = [], []
    for item in items:
        reason = next((problems[path] for path in item.images if path in problems), None)
        if reason is None:
            kept.append(item)
        else:
            missing.append(f"{item.id}: {reason}")
    return kept, missing
