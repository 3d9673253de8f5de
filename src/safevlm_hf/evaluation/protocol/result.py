"""`results.json`: what a system reached on a benchmark, under which protocol, and how sure that is."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator
from pydantic.dataclasses import dataclass as checked_dataclass

from ...files import write_text
from ...intervals.bootstrap import Bootstrap
from ...intervals.figure import Figure
from ...strict_data import (
    STRICT,
    Count,
    check_keys,
    expect,
    parse_json,
    plain,
    record_from_dict,
    shorten,
    to_text,
    valid_if,
)
from .protocol import Protocol
from .system import System


FORMAT = 2


@checked_dataclass(frozen=True, config=STRICT)
class Counts:
    """Numbers of items.

    Attributes:
        items: those of the protocol.
        missing: those that the benchmark names and the files do not have, which are no items.
        failed: items that the system gave no answer to. Failed judgements are counted by each figure.
        published: items that the benchmark has as published; `None` where that is not known.
    """

    items: Count
    missing: Count = 0
    failed: Count = 0
    published: Count | None = None

    def __post_init__(self):
        expect(self.failed <= self.items, "failed", f"at most the {self.items} items", self.failed)

    def describe_items(self) -> str:
        """Return how many items there were, and of how many: "40 items of 442 published (not the whole benchmark)"."""
        if self.published is None:
            return f"{self.items} items"
        if self.items > self.published:  # the files are of another revision
            return f"{self.items} items, where {self.published} are published"
        # What was left out is counted by itself: an empty question of a whole copy, for one.
        part = " (not the whole benchmark)" if self.items + self.missing < self.published else ""
        return f"{self.items} items of {self.published} published{part}"


def _is_date(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


@checked_dataclass(frozen=True, config=STRICT)
class Times:
    """Date and durations: when a result was made, and how long its parts took. Nothing else in a result depends on it.

    Attributes:
        date: ISO 8601.
        durations: part to seconds.
    """

    date: Annotated[str, AfterValidator(valid_if(_is_date, "an ISO 8601 date"))] = field(
        default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds")
    )
    durations: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationResult:
    """The result of a system on a benchmark.

    Made again from the same answers and judgements it is the same file, byte for byte, but for `times`.

    Attributes:
        protocol, system: what decides the figures.
        figures: each name, part and judge once; judges are the protocol's.
        counts: of items.
        bootstrap: what the intervals come from.
        times: when, and how long.

    Raises:
        ValueError: these do not fit together.
    """

    protocol: Protocol
    system: System
    figures: Sequence[Figure]
    counts: Counts
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    times: Times = field(default_factory=Times)

    def __post_init__(self):
        object.__setattr__(self, "figures", tuple(self.figures))
        num_items = self.protocol.num_items
        expect(self.counts.items == num_items, "counts.items", f"the protocol's {num_items}", self.counts.items)
        seen = set()
        for figure in self.figures:
            key = (figure.name, figure.part, figure.judge)
            expect(key not in seen, "figures", "each name, part and judge once", key)
            known = figure.judge is None or figure.judge in self.protocol.judges
            expect(known, "the judge of a figure", f"one of the protocol's, {[*self.protocol.judges]}", figure.judge)
            seen.add(key)

    def to_json(self) -> str:
        content = {
            "format": FORMAT,
            "protocol_hash": self.protocol.hash,
            "benchmark": self.protocol.benchmark,
            "split": self.protocol.split,
            "figures": [asdict(figure) for figure in self.figures],
        }
        return to_text(content | {name: plain(asdict(getattr(self, name))) for name in PARTS})


PARTS = {"protocol": Protocol, "system": System, "bootstrap": Bootstrap, "counts": Counts, "times": Times}
KEYS = ("format", "protocol_hash", "benchmark", "split", "figures", *PARTS)


def save_result(result: EvaluationResult, path: str | os.PathLike) -> Path:
    """Write `results.json`. It appears under its name when it is complete."""
    return write_text(path, result.to_json())


def load_result(path: str | os.PathLike) -> EvaluationResult:
    """Read `results.json`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no result of this format, or was changed so that its parts no longer fit together.
    """
    where = str(path)
    data = check_keys(parse_json(Path(path).read_bytes(), where), KEYS, where)
    if data["format"] != FORMAT:
        found = shorten(data["format"])
        raise ValueError(
            f"{where}: format is {found}, expected {FORMAT}: it was made by another version of this package, and "
            "cannot be compared with new results. Evaluate again, into another folder"
        )
    expect(isinstance(data["figures"], list), f"{where}: figures", "a list", data["figures"])
    if isinstance(data["counts"], Mapping):  # older results were kept without this count
        data = {**data, "counts": {"published": None, **data["counts"]}}
    records: dict[str, Any] = {
        name: record_from_dict(cls, data[name], f"{where}: {name}") for name, cls in PARTS.items()
    }
    figures = [
        record_from_dict(Figure, figure, f"{where}: figure {number}")
        for number, figure in enumerate(data["figures"], start=1)
    ]
    protocol = records["protocol"]
    said = {"protocol_hash": protocol.hash, "benchmark": protocol.benchmark, "split": protocol.split}
    for name, expected in said.items():
        expect(data[name] == expected, f"{where}: {name}", f"{shorten(expected)}, as its protocol has it", data[name])
    try:
        return EvaluationResult(figures=figures, **records)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def check_comparable(results: Sequence["EvaluationResult"]):
    """Check that results may stand in one table.

    Raises:
        ValueError: two protocols differ; the message says in what.
    """
    for other in results[1:]:
        one = results[0]
        if other.protocol != one.protocol:
            raise ValueError(
                f"{shorten(one.system.name)} (protocol {one.protocol.hash}) and {shorten(other.system.name)} "
                f"(protocol {other.protocol.hash}) cannot be put into one table, for their protocols differ: "
                f"{'; '.join(_differences(asdict(one.protocol), asdict(other.protocol)))}. "
                "Run both under one protocol, or make two tables"
            )


def _differences(one: Mapping, other: Mapping, prefix: str = "") -> list[str]:
    """Return `name: a and b` for all that is not equal, in mappings by their keys."""
    found = []
    for name in dict.fromkeys((*one, *other)):
        a, b = one.get(name), other.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += _differences(a, b, f"{prefix}{name}.")
        elif a != b:
            found.append(f"{prefix}{name}: {shorten(a)} and {shorten(b)}")
    return found
