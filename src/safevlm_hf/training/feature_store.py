"""Features of pictures on disk, by the bytes of each picture's file, so that a frozen tower sees each picture once."""

import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..data.records import JOIN_MARK
from ..files import check_writable, write_text
from ..progress import Progress


logger = logging.getLogger(__name__)

SHARD_BYTES = 32 * 2**20  # of features in one file
SPARE_BYTES = 256 * 2**20  # that are left free on the disk, for what else a run writes
KEY_FILE = "key.json"


class FeatureStore:
    """
    Tensors of one shape, each under a key, in shards below `folder`. Every set of `parts` has a folder of its own, so
    that another tower, or other settings of a picture, find nothing of this one's.

    A shard gets its name when it is whole, so that none is read half-written, and what an interrupted run has computed
    is there for the next one.

    Args:
        folder: where all sets lie; made if it is not there.
        parts: what the features depend on, besides the pictures. They stand in `key.json`, to be read by people.

    Raises:
        ValueError: nothing can be written there.
    """

    def __init__(self, folder: str | os.PathLike, parts: Mapping[str, str]):
        text = json.dumps(dict(parts), indent=2, sort_keys=True)
        self.folder = Path(folder) / hashlib.sha256(text.encode()).hexdigest()[:16]
        check_writable(self.folder, is_folder=True)
        write_text(self.folder / KEY_FILE, text + "\n")
        self._open: dict[Path, safe_open] = {}
        self.find_shards()

    def find_shards(self):
        """Look for shards, also those that other processes have written since."""
        self._shards: dict[str, Path] = {}
        for shard in sorted(self.folder.glob("*.safetensors")):
            try:
                with safe_open(shard, "pt") as file:
                    self._shards |= dict.fromkeys(file.keys(), shard)
            except SafetensorError as error:
                logger.warning("%s cannot be read (%s): its features are computed again.", shard, error)

    def __contains__(self, key: str) -> bool:
        return key in self._shards

    def __getstate__(self) -> dict:
        # A worker process opens shards for itself.
        return {**vars(self), "_open": {}}

    def read(self, key: str) -> torch.Tensor:
        shard = self._shards[key]
        if shard not in self._open:
            self._open[shard] = safe_open(shard, "pt")
        return self._open[shard].get_tensor(key)

    def add(self, features: Mapping[str, torch.Tensor]):
        """Write a shard."""
        names = hashlib.sha256("".join(sorted(features)).encode()).hexdigest()[:32]
        partial = self.folder / f".{names}.{secrets.token_hex(4)}"
        shard = self.folder / f"{names}.safetensors"
        try:
            save_file({key: one.contiguous() for key, one in features.items()}, partial)
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(partial, shard)
        finally:
            partial.unlink(missing_ok=True)
        self._shards |= dict.fromkeys(features, shard)

    def fill(
        self,
        pictures: Mapping[str, str],
        encode: Callable[[list[str]], torch.Tensor],
        batch_size: int = 8,
        share: slice = slice(None),
        is_shown: bool = True,
    ):
        """
        Compute and keep the features of all pictures that are not there yet.

        Args:
            pictures: reference (see [`load_image`]) to key, as [`picture_keys`] gives them.
            encode: computes the features of some references, a row for each.
            share: of what is missing, for one of several processes.
            is_shown: whether there is a bar.

        Raises:
            ValueError: the disk has not enough room; said once the size of the first ones is known.
        """
        missing = list({key: reference for reference, key in pictures.items() if key not in self}.items())
        mine = missing[share]
        waiting: dict[str, torch.Tensor] = {}
        with Progress(len(mine), "features of pictures", "picture", is_shown) as bar:
            for start in range(0, len(mine), batch_size):
                part = mine[start : start + batch_size]
                rows = encode([reference for _, reference in part]).detach().cpu()
                if start == 0:
                    self._check_room(len(missing), rows[0].nbytes)
                waiting |= {key: row.clone() for (key, _), row in zip(part, rows, strict=True)}
                if sum(row.nbytes for row in waiting.values()) >= SHARD_BYTES or start + batch_size >= len(mine):
                    self.add(waiting)
                    waiting = {}
                bar.update(len(part))

    def _check_room(self, num_pictures: int, bytes_each: int):
        needed, free = num_pictures * bytes_each + SPARE_BYTES, shutil.disk_usage(self.folder).free
        if needed > free:
            raise ValueError(
                f"The features of {num_pictures} pictures need {needed / 1e9:.1f} GB in {self.folder}, and "
                f"{free / 1e9:.1f} GB are free: name a folder on a larger disk, or leave the cache out."
            )


def picture_keys(references: Iterable[str]) -> dict[str, str]:
    """Return reference (see [`load_image`]) to key, the digest of the file's bytes; of several that are joined, of
    theirs."""
    keys = {}
    for reference in dict.fromkeys(references):
        digests = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in reference.split(JOIN_MARK)]
        joined = hashlib.sha256(JOIN_MARK.join(digests).encode()).hexdigest()
        keys[reference] = digests[0] if len(digests) == 1 else joined
    return keys


def weights_digest(modules: Sequence[torch.nn.Module]) -> str:
    """Return the sha256 of all weights and buffers, with their names, types and shapes."""
    digest = hashlib.sha256()
    for module in modules:
        for name, weight in sorted(module.state_dict().items()):
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
            digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
