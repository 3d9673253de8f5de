"""Whether training records have what a benchmark asks: pictures that look alike, and texts in common.

A match is a pair to look at, and no proof; and what was rewritten, translated or cropped by more than a few percent
is not found. `picture_hash` and `shared_text` say what counts as a match.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safevlm_hf.data.records import JOIN_MARK
from safevlm_hf.evaluation.benchmarks import Loaded
from safevlm_hf.evaluation.contamination.picture_hash import MAX_DISTANCE, MIN_CORRELATION, find_alike, hash_pictures
from safevlm_hf.evaluation.contamination.shared_text import MAX_NAMED, NUM_WORDS, find_shared
from safevlm_hf.evaluation.protocol.checked_fields import expect, is_count, is_hash, is_text, record_from_dict
from safevlm_hf.evaluation.protocol.fingerprints import hash_items
from safevlm_hf.evaluation.protocol.strict_json import parse_json, to_text
from safevlm_hf.files import write_text


METHOD = {"picture_distance": MAX_DISTANCE, "picture_correlation": MIN_CORRELATION, "words": NUM_WORDS}


@dataclass(frozen=True)
class Overlap:
    """What a benchmark's items share with training records.

    Attributes:
        benchmark, split, items_hash, num_items: of the items, as in a result's protocol.
        train_file, train_hash, num_records: name, SHA-256 and number of records of the training file.
        num_pictures: pictures that were compared, `{"train", "benchmark"}`.
        num_blank: pictures of one colour, which were not, `{"train", "benchmark"}`.
        method: thresholds, as `METHOD`.
        pictures: one per item and picture: `{"item", "picture", "distance", "train", "num_train"}`; `train` names the
            closest records with their pictures, `num_train` says how many there are, `distance` is the closest's.
        texts: one per item: `{"item", "is_whole", "text", "num_runs", "train", "num_train"}`; `text` is the first run
            of words in common, `num_runs` how many there are, `is_whole` whether it is a whole text of fewer than 13.

    Raises:
        ValueError: a value is not as described.
    """

    benchmark: str
    split: str
    items_hash: str
    num_items: int
    train_file: str
    train_hash: str
    num_records: int
    num_pictures: Mapping[str, int]
    num_blank: Mapping[str, int]
    method: Mapping[str, Any]
    pictures: Sequence[Mapping[str, Any]]
    texts: Sequence[Mapping[str, Any]]

    def __post_init__(self):
        for name in ("benchmark", "split", "train_file"):
            expect(is_text(getattr(self, name)), name, "a name", getattr(self, name))
        for name in ("items_hash", "train_hash"):
            expect(is_hash(getattr(self, name)), name, "64 hex digits", getattr(self, name))
        for name in ("num_items", "num_records"):
            expect(is_count(getattr(self, name)), name, "a whole number from 0", getattr(self, name))
        for name, keys in (("pictures", ("item",)), ("texts", ("item", "is_whole"))):
            matches = getattr(self, name)
            is_list = isinstance(matches, (list, tuple)) and all(isinstance(one, Mapping) for one in matches)
            expect(is_list and all(key in one for one in matches for key in keys), name, "a list of matches", matches)
            expect(all(is_text(one["item"]) for one in matches), name, "matches with the id of an item", matches)

    def counts(self) -> dict[str, int]:
        """Numbers of items: by what they share, and with anything in common (`"any"`)."""
        pictures = {one["item"] for one in self.pictures}
        runs = {one["item"] for one in self.texts if not one["is_whole"]}
        whole = {one["item"] for one in self.texts if one["is_whole"]}
        numbers = {"picture": pictures, "words": runs, "short text": whole, "any": pictures | runs | whole}
        return {name: len(items) for name, items in numbers.items()}


def find_overlap(train_file: str | os.PathLike, records: Iterable[Mapping], loaded: Loaded) -> Overlap:
    """
    Args:
        train_file: where the records come from.
        records: as `load_records` gives them.
        loaded: a benchmark's items.

    Raises:
        ValueError: a picture cannot be read.
    """
    records = list(records)
    train_pictures = _paths((_source(record), record["images"]) for record in records)
    item_pictures = _paths((item.id, item.images) for item in loaded.items)
    train, items = hash_pictures(train_pictures), hash_pictures(item_pictures)
    return Overlap(
        benchmark=loaded.benchmark,
        split=loaded.split,
        items_hash=hash_items(loaded.items)[1],
        num_items=len(loaded.items),
        train_file=Path(train_file).name,
        train_hash=hashlib.sha256(Path(train_file).read_bytes()).hexdigest(),
        num_records=len(records),
        num_pictures={"train": len(train.paths), "benchmark": len(items.paths)},
        num_blank={"train": len(train.blank), "benchmark": len(items.blank)},
        method=METHOD,
        pictures=[
            match
            for path, alike in find_alike(items, train)
            for match in _picture_matches(path, alike, item_pictures, train_pictures)
        ],
        texts=_text_matches(records, loaded),
    )


def save_overlap(overlap: Overlap, path: str | os.PathLike) -> Path:
    """Writes it as JSON. The file appears under its name when it is complete."""
    return write_text(path, to_text({"counts": overlap.counts(), **asdict(overlap)}))


def load_overlap(path: str | os.PathLike) -> Overlap:
    """Reads what `save_overlap` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is something else, or its counts are not those of its matches.
    """
    data = parse_json(Path(path).read_bytes(), str(path))
    expect(isinstance(data, dict), str(path), "what `safevlm data overlap` writes", data)
    said = data.pop("counts", None)
    overlap = record_from_dict(Overlap, data, str(path))
    expect(said == overlap.counts(), f"{path}: counts", f"{overlap.counts()}, as its matches have it", said)
    return overlap


def _paths(named: Iterable[tuple[str, Sequence[str]]]) -> dict[str, list[str]]:
    """Path of each picture to the names of what has it. Two pictures that are joined into one are two."""
    found: dict[str, list[str]] = {}
    for name, references in named:
        for path in dict.fromkeys(path for reference in references for path in reference.split(JOIN_MARK)):
            found.setdefault(path, []).append(name)
    return found


def _source(record: Mapping) -> str:
    # Folders of whoever trained are nobody's business.
    return Path(record["source"]).name


def _picture_matches(path: str, alike, item_pictures, train_pictures) -> list[dict]:
    records = [f"{name} ({Path(other).name})" for _, other in alike for name in train_pictures[other]]
    match = {"picture": Path(path).name, "distance": alike[0][0], "train": records[:MAX_NAMED]}
    return [{"item": item, **match, "num_train": len(records)} for item in item_pictures[path]]


def _text_matches(records: Sequence[Mapping], loaded: Loaded) -> list[dict]:
    wanted = {item.id: [_text(message) for message in item.messages] for item in loaded.items}
    texts = ((_source(record), _text(message)) for record in records for message in record["messages"])
    matches = []
    for item, shared in find_shared(wanted, texts).items():
        run, sources = next(iter(shared.items()))
        match = {"item": item, "is_whole": len(run) < NUM_WORDS, "text": " ".join(run), "num_runs": len(shared)}
        matches.append({**match, "train": sources.names, "num_train": sources.total})
    return matches


def _text(message: Mapping) -> str:
    content = message["content"]
    parts = content if not isinstance(content, str) else [{"type": "text", "text": content}]
    return " ".join(part["text"] for part in parts if part["type"] == "text")
