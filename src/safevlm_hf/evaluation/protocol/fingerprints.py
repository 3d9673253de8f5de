"""Hashes that say whether two runs had the same questions, pictures, template and weights."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError, safe_open

from ...data.records import JOIN_MARK
from ...items import Item
from ...strict_data import digest, shorten


BLOCK_SIZE, NUM_BLOCKS = 16 * 1024, 16
"""So many blocks of so many bytes are read of each tensor, or all of it where it is no longer than them together."""
SETTINGS = (".json", ".jinja", ".model", ".txt", ".py")
"""Endings of the files of a checkpoint, beside its weights, that can change an answer."""


# --------------------------------------------------------------------------------------------------
# Items
# --------------------------------------------------------------------------------------------------


def prompt_hash(item: Item) -> str:
    """Return the hash of what a system is asked: the messages and the bytes of the images, wherever they lie. Labels
    are no part of it.

    Raises:
        ValueError: an image is not there.
    """
    images = [[_file_hash(path, item) for path in reference.split(JOIN_MARK)] for reference in item.images]
    return digest({"messages": item.messages, "images": images})


def item_hash(item: Item) -> str:
    """Return the hash of everything about an item that decides a figure: id, prompt, expected answer, labels and
    group."""
    parts = {"id": item.id, "expected": item.expected, "labels": item.labels, "group": item.group}
    return digest({**parts, "prompt": prompt_hash(item)})


def hash_items(items: Sequence[Item]) -> tuple[str, str]:
    """Return the hash of the sorted ids, and that of the items' content. The order of the items changes neither.

    Raises:
        ValueError: an id comes twice, or an image is not there.
    """
    ids = sorted(item.id for item in items)
    twice = [one for one, next_one in zip(ids, ids[1:]) if one == next_one]
    if twice:
        raise ValueError(f"{len(twice)} ids come twice, the first is {shorten(twice[0])}: expected one item per id")
    return digest(ids), digest(sorted(item_hash(item) for item in items))


def _file_hash(path: str, item: Item) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except (OSError, ValueError) as error:  # a path with a zero byte is a ValueError
        raise ValueError(f"item {shorten(item.id)}: expected an image at {shorten(path)}, but {error}") from None


# --------------------------------------------------------------------------------------------------
# Code
# --------------------------------------------------------------------------------------------------


def code_hash(paths: Iterable[str | os.PathLike]) -> str:
    """Return the hash of source files, which changes with every change to one of them, even of a comment."""
    return digest([hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths])


# --------------------------------------------------------------------------------------------------
# Checkpoints
# --------------------------------------------------------------------------------------------------


def chat_template_hash(processor) -> str | None:
    """Return the hash of a processor's or a tokenizer's chat template; `None` where it has none."""
    template = getattr(processor, "chat_template", None)
    return None if template is None else digest(template)


def weights_hash(folder: str | os.PathLike) -> str:
    """Return the hash of a local checkpoint: which weights and settings it holds, not where it lies.

    Of each `*.safetensors` the size, the header and a sample of each tensor (`BLOCK_SIZE`, `NUM_BLOCKS`) are read, of
    each file of `SETTINGS` everything. Headers and sizes alone would not do: all checkpoints of one architecture share
    them. Training changes nearly every number of a tensor, so a sample tells runs apart, at the cost of 0.2 GB of
    reading for a model of 15 GB. It recognises a checkpoint; it does not protect one: a few numbers that somebody
    changes between two blocks of a large tensor are not seen.

    Raises:
        ValueError: there is no such folder, it has no safetensors, or one of them is broken.
    """
    folder = Path(folder)
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    weights = {path.name: _safetensors_hash(path) for path in files if path.suffix == ".safetensors"}
    if not weights:
        raise ValueError(f"{folder}: expected a folder with safetensors, found {'none' if files else 'no files'}")
    settings = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.suffix in SETTINGS}
    return digest({"weights": weights, "settings": settings})


def _safetensors_hash(path: Path) -> str:
    try:
        with safe_open(path, framework="numpy"):  # refuses a header that does not fit its file
            pass
    except SafetensorError as error:
        raise ValueError(f"{path}: expected safetensors, and it may be cut off: {error}") from None
    found = hashlib.sha256(path.stat().st_size.to_bytes(8, "little"))
    with path.open("rb") as file:
        header = file.read(int.from_bytes(file.read(8), "little"))
        found.update(header)
        start = file.tell()
        tensors = json.loads(header)
        tensors.pop("__metadata__", None)
        for begin, end in sorted(tensor["data_offsets"] for tensor in tensors.values()):
            for block in _sample(file, start + begin, start + end):
                found.update(block)
    return found.hexdigest()


def _sample(file: BinaryIO, begin: int, end: int) -> Iterator[bytes]:
    """Yield all bytes of a short tensor, evenly spaced blocks of a long one, the first and the last among them."""
    if end - begin <= NUM_BLOCKS * BLOCK_SIZE:
        file.seek(begin)
        yield file.read(end - begin)
        return
    last = end - BLOCK_SIZE
    for index in range(NUM_BLOCKS):
        file.seek(begin + (last - begin) * index // (NUM_BLOCKS - 1))
        yield file.read(BLOCK_SIZE)
