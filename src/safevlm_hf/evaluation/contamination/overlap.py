"""Overlap of training records and a benchmark's items: pictures that look alike, and texts in common.

A match is a pair to look at, and no proof; and what was rewritten, translated or cropped by more than a few percent
is not found. `picture_hash` and `shared_text` say what counts as a match.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ...benchmarks import Loaded
from ...data.records import JOIN_MARK
from ...files import write_text
from ...strict_data import expect, is_count, is_hash, is_text, parse_json, record_from_dict, to_text
from ..protocol.fingerprints import hash_items
from .picture_hash import MAX_DISTANCE, MIN_CORRELATION, find_alike, hash_pictures
from .shared_text import MAX_NAMED, NUM_WORDS, find_shared


METHOD = {"picture_distance": MAX_DISTANCE, "picture_correlation": MIN_CORRELATION, "words": NUM_WORDS}


@dataclass(frozen=True)
class Overlap:
    """Matches of a benchmark's items and training records.

    Attributes:
        benchmark, split, items_hash, num_items: of the items, as in a result's protocol.
        train: one per training file: `{"file", "hash", "num_records"}`, its name, SHA-256 and number of records.
        num_pictures: pictures that were compared by their looks, `{"train", "benchmark"}`.
        num_blank: pictures of one colour, of which only equal ones are alike, `{"train", "benchmark"}`.
        method: thresholds, as `METHOD`.
        pictures: one per item and picture: `{"item", "picture", "distance", "train", "files"}`; `train` names the
            closest records with their pictures, `files` says how many there are in each file, `distance` is the
            closest's.
        texts: one per item: `{"item", "is_whole", "text", "num_runs", "train", "files"}`; `text` is the first run of
            words in common, `num_runs` how many there are, `is_whole` whether it is a whole text of fewer than 13,
            `train` names who has the first, and `files` says how often the commonest occurs in each file.

    Raises:
        ValueError: a value is not as described.
    """

    benchmark: str
    split: str
    items_hash: str
    num_items: int
    train: Sequence[Mapping[str, Any]]
    num_pictures: Mapping[str, int]
    num_blank: Mapping[str, int]
    method: Mapping[str, Any]
    pictures: Sequence[Mapping[str, Any]]
    texts: Sequence[Mapping[str, Any]]

    def __post_init__(self):
        for name in ("benchmark", "split"):
            expect(is_text(getattr(self, name)), name, "a name", getattr(self, name))
        expect(is_hash(self.items_hash), "items_hash", "64 hex digits", self.items_hash)
        expect(is_count(self.num_items), "num_items", "a whole number from 0", self.num_items)
        are_files = _are_mappings(self.train, "file", "hash", "num_records") and all(
            is_text(one["file"]) and is_hash(one["hash"]) and is_count(one["num_records"]) for one in self.train
        )
        expect(are_files and bool(self.train), "train", "files with name, hash and number of records", self.train)
        for name, keys in (("pictures", ("item", "files")), ("texts", ("item", "files", "is_whole"))):
            matches = getattr(self, name)
            expect(_are_mappings(matches, *keys), name, "a list of matches", matches)
            expect(all(is_text(one["item"]) for one in matches), name, "matches with the id of an item", matches)
            are_counted = all(isinstance(one["files"], Mapping) for one in matches)
            expect(are_counted, name, "matches with a number for each file", matches)

    def counts(self) -> dict[str, int]:
        """Return numbers of items: by what they share, and with anything in common (`"any"`)."""
        pictures = {one["item"] for one in self.pictures}
        runs = {one["item"] for one in self.texts if not one["is_whole"]}
        whole = {one["item"] for one in self.texts if one["is_whole"]}
        numbers = {"picture": pictures, "words": runs, "short text": whole, "any": pictures | runs | whole}
        return {name: len(items) for name, items in numbers.items()}

    def items_by_file(self) -> dict[str, int]:
        """Return the number of items that have anything in common with each training file."""
        matches = [*self.pictures, *self.texts]
        return {
            one["file"]: len({match["item"] for match in matches if one["file"] in match["files"]})
            for one in self.train
        }


def find_overlap(train: Mapping[Path, Iterable[Mapping]], loaded: Loaded) -> Overlap:
    """Find what a benchmark shares with training records.

    Args:
        train: training files to their records, as `load_records` gives them.
        loaded: a benchmark's items.

    Raises:
        ValueError: a picture cannot be read, or two of the training files are one.
    """
    names = _short_names(list(train))
    by_file: dict[str, list[dict]] = {}
    for path, rows in train.items():
        name = names[path]  # of a source the line alone stays: where the file lies is nobody's business
        by_file[name] = [{**one, "source": f"{name}:{one['source'].rpartition(':')[2]}"} for one in rows]
    records = [record for own in by_file.values() for record in own]
    train_pictures = _paths((record["source"], record["images"]) for record in records)
    item_pictures = _paths((item.id, item.images) for item in loaded.items)
    hashes, items = hash_pictures(train_pictures), hash_pictures(item_pictures)
    return Overlap(
        benchmark=loaded.benchmark,
        split=loaded.split,
        items_hash=hash_items(loaded.items)[1],
        num_items=len(loaded.items),
        train=[
            {
                "file": name,
                "hash": hashlib.sha256(Path(path).read_bytes()).hexdigest(),
                "num_records": len(by_file[name]),
            }
            for path, name in names.items()
        ],
        num_pictures={"train": len(hashes.paths), "benchmark": len(items.paths)},
        num_blank={"train": len(hashes.blank), "benchmark": len(items.blank)},
        method=METHOD,
        pictures=[
            match
            for path, alike in find_alike(items, hashes)
            for match in _picture_matches(path, alike, item_pictures, train_pictures)
        ],
        texts=_text_matches(records, loaded),
    )


def save_overlap(overlap: Overlap, path: str | os.PathLike) -> Path:
    """Write it as JSON. The file appears under its name when it is complete."""
    return write_text(path, to_text({"counts": overlap.counts(), **asdict(overlap)}))


def load_overlap(path: str | os.PathLike) -> Overlap:
    """Read what `save_overlap` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is something else, or its counts are not those of its matches.
    """
    data = parse_json(Path(path).read_bytes(), str(path))
    expect(isinstance(data, dict), str(path), "what `safevlm data overlap` writes", data)
    # The counts stand in the file for its readers, and are checked against the matches.
    said = data.pop("counts", None)
    overlap = record_from_dict(Overlap, data, str(path))
    expect(said == overlap.counts(), f"{path}: counts", f"{overlap.counts()}, as its matches have it", said)
    return overlap


def _paths(named: Iterable[tuple[str, Sequence[str]]]) -> dict[str, list[str]]:
    """Map the path of each picture to the names of what has it. Two pictures that are joined into one are two."""
    found: dict[str, list[str]] = {}
    for name, references in named:
        for path in dict.fromkeys(path for reference in references for path in reference.split(JOIN_MARK)):
            found.setdefault(path, []).append(name)
    return found


def _short_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Map the path of each file to its name, with as many folders as tell it from the others: where somebody's folders
    lie is nobody's business."""
    parts = [Path(path).resolve().parts for path in paths]
    for number, path in enumerate(paths):
        if parts[number] in parts[:number]:
            raise ValueError(f"{path} is named more than once")
    # One more folder is named at a time, until all names differ.
    depth = 1
    while len({one[-depth:] for one in parts}) < len(parts):
        depth += 1
    return {path: "/".join(one[-depth:]) for path, one in zip(paths, parts, strict=True)}


def _are_mappings(values, *keys: str) -> bool:
    is_list = isinstance(values, (list, tuple)) and all(isinstance(one, Mapping) for one in values)
    return is_list and all(key in one for one in values for key in keys)


def _picture_matches(path: str, alike, item_pictures, train_pictures) -> list[dict]:
    found = [(name, Path(other).name) for _, other in alike for name in train_pictures[other]]
    named = [f"{name} ({picture})" for name, picture in found[:MAX_NAMED]]
    files = Counter(name.rpartition(":")[0] for name, _ in found)
    match = {"picture": Path(path).name, "distance": alike[0][0], "train": named, "files": dict(files)}
    return [{"item": item, **match} for item in item_pictures[path]]


def _text_matches(records: Sequence[Mapping], loaded: Loaded) -> list[dict]:
    wanted = {item.id: [_text(message) for message in item.messages] for item in loaded.items}
    shown = tqdm(records, "comparing texts", unit="record", disable=None, leave=False)
    texts = ((record["source"], _text(message)) for record in shown for message in record["messages"])
    matches = []
    for item, shared in find_shared(wanted, texts).items():
        run, sources = next(iter(shared.items()))
        match = {"item": item, "is_whole": len(run) < NUM_WORDS, "text": " ".join(run), "num_runs": len(shared)}
        files = reduce(or_, (one.files for one in shared.values()))  # of counters: the larger number of each
        matches.append({**match, "train": sources.names, "files": dict(files)})
    return matches


def _text(message: Mapping) -> str:
    content = message["content"]
    parts = content if not isinstance(content, str) else [{"type": "text", "text": content}]
    return " ".join(part["text"] for part in parts if part["type"] == "text")
