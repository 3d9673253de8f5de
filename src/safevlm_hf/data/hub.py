"""Data sets of the Hub, and folders of the same kind, as files of records: a row is a record (see records.py)."""

import json
import os
import re
import shutil
import tempfile
from pathlib import Path

from huggingface_hub.constants import HF_HUB_CACHE
from tqdm.auto import tqdm

from ..extras import needs_extra
from .records import JOIN_MARK


with needs_extra("train"):
    import datasets


SAVED = ("dataset_dict.json", "state.json")  # files of `save_to_disk`
REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")
IMAGE_KEYS = ("image", "images")
LABEL_KEYS = {"safe_type", "safe_level", "safety_category", "safety_level"}


def find_records(name: str | os.PathLike, split: str = "train") -> Path:
    """
    Find the file of records behind a name.

    Args:
        name: a file; or a data set, `org/name` on the Hub or a folder, with `:split` behind it if it is another one.
            The folder may be one of `save_to_disk`. Its columns are the keys of a record. Pictures may be in it, and
            labels may be names or `ClassLabel`s.
        split: of a data set whose name has none.

    Returns:
        The file itself, or one in the cache of `datasets` with the rows as JSON lines, beside the pictures.

    Raises:
        FileNotFoundError, ValueError: there is no such file or data set, or no such split.
        ValueError: a row of a data set on the Hub names a picture that is not in it.
    """
    path, named = os.fspath(name), ""
    if not os.path.exists(name):  # a colon may be part of a path
        path, _, named = path.partition(":")
    is_folder = os.path.isdir(path)
    is_on_hub = not is_folder and REPO_ID.fullmatch(path) and not path.endswith((".json", ".jsonl"))
    if os.path.isfile(name):
        return Path(name)
    if not (is_folder or is_on_hub):
        raise FileNotFoundError(
            f"there is no file {path}: expected JSON lines, a folder with a data set, or org/name of one on the Hub"
        )
    return _write_records(path, named or split, bool(is_on_hub))


def _write_records(path: str, split: str, is_on_hub: bool) -> Path:
    dataset = _load(path, split)
    name = re.sub(r"[^\w.-]+", "-", "-".join([*Path(path).parts[-2:], split, dataset._fingerprint]))
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "safevlm_hf" / name.strip("-")
    file = folder / "records.jsonl"
    if file.exists():
        return file
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        with (temporary / file.name).open("w", encoding="utf-8") as lines:
            for index, row in enumerate(_rows(dataset)):
                record = _record(index, row, dataset.features, temporary, folder)
                if is_on_hub:
                    _check_pictures(record, f"{path}, row {index}")
                # A column that is none of ours may hold anything, such as a date.
                as_text = json.dumps(record, default=lambda value: None if isinstance(value, bytes) else str(value))
                lines.write(as_text + "\n")
        # A folder of `mkdtemp` is its owner's alone; caches are shared.
        temporary.chmod(0o755)
        try:
            temporary.rename(folder)
        except OSError:  # another process has written the same
            if not file.exists():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return file


def _load(path: str, split: str):
    if any(os.path.isfile(os.path.join(path, name)) for name in SAVED):
        # `save_to_disk` writes a data set alone, which is every split, or several under their names.
        saved = datasets.load_from_disk(path)
        if not isinstance(saved, datasets.DatasetDict):
            return saved
        if split not in saved:
            raise ValueError(
                f"{path} has no split {split!r}, only {', '.join(map(repr, saved))}: name one, as `{path}:NAME`."
            )
        return saved[split]
    try:
        return datasets.load_dataset(path, split=split)
    except ConnectionError as error:
        raise ConnectionError(
            f"there is no file or folder {path} here, and the Hub, which may have a data set of this name, cannot be "
            f"reached: is there a network? ({error})"
        ) from None


def _rows(dataset):
    """Yield the rows as they are stored: pictures are not decoded, and labels are ids."""
    with tqdm(desc="reading records", total=len(dataset), unit="record", disable=None, leave=False) as bar:
        for table in dataset.with_format("arrow").iter(batch_size=32):
            for row in table.to_pylist():
                yield row
                bar.update()


def _record(index: int, row: dict, features, temporary: Path, folder: Path) -> dict:
    """Return the row without empty cells; its pictures are written, and named as they will be found."""
    record = {key: value for key, value in row.items() if value is not None}
    for key in filter(record.get, IMAGE_KEYS):
        cells = record[key] if isinstance(record[key], list) else [record[key]]
        record[key] = []
        for place, cell in enumerate(cells):
            if isinstance(cell, dict) and cell.get("bytes") is not None:
                name = f"{index:06d}-{place}"
                (temporary / name).write_bytes(cell["bytes"])
                record[key].append(str((folder / name).absolute()))
            else:  # a path, as text or in a cell without bytes
                record[key].append(cell.get("path") if isinstance(cell, dict) else cell)
    for key in record.keys() & LABEL_KEYS:
        record[key] = _label(record[key], features[key])
    return record


def _check_pictures(record: dict, place: str):
    """Raise `ValueError` where a stranger's row names a file of this machine that was not downloaded with it."""
    caches = [Path(cache).resolve() for cache in (datasets.config.HF_DATASETS_CACHE, HF_HUB_CACHE)]
    for reference in (reference for key in filter(record.get, IMAGE_KEYS) for reference in record[key]):
        found = Path(str(reference)).resolve()
        if JOIN_MARK in str(reference) or not any(found.is_relative_to(cache) for cache in caches):
            raise ValueError(f"{place}: the picture {reference!r} is not in the data set, expected its bytes.")


def _label(value, feature):
    """Return the names of a `ClassLabel`, whose ids are the data set's own; other labels as they are."""
    if isinstance(value, list):
        inner = feature[0] if isinstance(feature, list) else feature.feature
        return [_label(each, inner) for each in value]
    return feature.int2str(value) if isinstance(feature, datasets.ClassLabel) else value
