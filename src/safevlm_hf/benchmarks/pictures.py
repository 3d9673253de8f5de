"""Pictures of benchmarks: find them in folders and zip files, keep those of tables on disk, and check them in threads.

Files that are read here were made by others. Nothing is unpacked under a name of theirs: a picture that comes out of a
zip file or a table is kept under the hash of its content.
"""

import contextlib
import hashlib
import os
import posixpath
import secrets
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm.auto import tqdm

from ..modeling.image_loading import open_image


MAX_PICTURE_BYTES = 64 * 2**20
MAX_ZIP_BYTES = 64 * 2**30  # of all that is taken out of one zip file
SUFFIXES = {b"\xff\xd8": ".jpg", b"\x89PNG": ".png", b"GIF8": ".gif", b"RIFF": ".webp", b"BM": ".bmp"}
ENDINGS = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp")
CHECKING_THREADS = 8  # each may hold a picture of `Image.MAX_IMAGE_PIXELS`


class PictureStore:
    """Pictures on disk under the hash of their content, so that a second run finds them."""

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder).absolute()

    def keep(self, content: bytes) -> str:
        """Return the absolute path of a file with this content, which is written if it is not there yet."""
        suffix = next((suffix for start, suffix in SUFFIXES.items() if content.startswith(start)), ".bin")
        path = self.folder / f"{hashlib.sha256(content).hexdigest()[:32]}{suffix}"
        if not path.is_file() or path.stat().st_size != len(content):
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            partial.write_bytes(content)
            os.replace(partial, path)  # whole or not there, also where several processes write it
        return str(path)


class Pictures:
    """Pictures by their names, from folders and zip files that are searched in order."""

    def __init__(self, data, places: Sequence[Path], open_files: contextlib.ExitStack):
        self._data, self._places = data, places
        self._zips: dict[Path, zipfile.ZipFile] = {}
        self._entries: dict[Path, dict[str, list[zipfile.ZipInfo]]] = {}
        for place in places:
            if place.is_dir():
                continue
            try:
                self._zips[place] = open_files.enter_context(zipfile.ZipFile(place))
            except Exception as error:  # struct.error, NotImplementedError and more for files that are cut or changed
                raise data.error(f"{place} is no whole zip file ({str(error)[:200]})") from error
            self._entries[place] = defaultdict(list)
            for entry in self._zips[place].infolist():
                if not entry.is_dir():
                    self._entries[place][posixpath.basename(entry.filename)].append(entry)
        self._stems: dict[Path, dict[str, str]] = {}
        self._taken: dict[tuple[Path, str], str] = {}
        self._bytes_taken = 0

    def path(self, name: str) -> str:
        """Return the absolute path of a picture; if it is missing, the path where it should be."""
        for place in self._places:
            path = self._data.inside(name, place)
            if place in self._zips:
                entry = self._find_entry(place, path.relative_to(place).as_posix())
                if entry is not None:
                    key = (place, entry.filename)
                    self._taken[key] = self._taken.get(key) or self._take_out(place, entry)
                    return self._taken[key]
            elif path.is_file():
                return str(path)
        return str(self._places[0] / name)

    def path_by_stem(self, stem: str) -> str:
        """Return the path for a name without its ending (".jpg"). Only folders are searched."""
        for place in self._places:
            if place not in self._stems and place not in self._zips:
                names = sorted(path.name for path in place.iterdir() if path.suffix.lower() in ENDINGS)
                self._stems[place] = {Path(name).stem: name for name in names}
            name = self._stems.get(place, {}).get(stem)
            if name is not None:
                return str(self._data.inside(name, place))
        return str(self._data.inside(stem, self._places[0]))

    def _find_entry(self, place: Path, name: str) -> zipfile.ZipInfo | None:
        """Find the entry of this name, whatever folder the zip file puts in front of it."""
        entries = self._entries[place].get(posixpath.basename(name), [])
        exact = [entry for entry in entries if entry.filename == name]
        found = exact or [entry for entry in entries if entry.filename.endswith(f"/{name}")]
        if len(found) > 1:
            names = ", ".join(entry.filename for entry in found[:3])
            raise self._data.error(f"{place} holds {name} more than once: {names}")
        return found[0] if found else None

    def _take_out(self, place: Path, entry: zipfile.ZipInfo) -> str:
        # The sizes that a zip file names are checked before anything is unpacked, or it could fill memory and disk.
        self._bytes_taken += entry.file_size
        if entry.file_size > MAX_PICTURE_BYTES or self._bytes_taken > MAX_ZIP_BYTES:
            raise self._data.error(
                f"{entry.filename} in {place} unpacks to {entry.file_size:,} bytes ({self._bytes_taken:,} with those "
                f"before it), more than a picture's {MAX_PICTURE_BYTES:,} ({MAX_ZIP_BYTES:,} in all)"
            )
        try:
            content = self._zips[place].read(entry)
        except Exception as error:  # passwords, unknown methods, wrong sums, and what each decompressor raises
            raise self._data.error(f"{entry.filename} in {place} cannot be unpacked ({str(error)[:200]})") from error
        return self._data.store.keep(content)


def find_picture_problems(paths: Iterable[str]) -> dict[str, str]:
    """Decode every picture once, and return the problems of those that cannot be read, by path."""
    paths = list(dict.fromkeys(paths))
    pool = ThreadPoolExecutor(CHECKING_THREADS)  # Pillow decodes without holding the interpreter's lock
    try:
        checked = tqdm(pool.map(_picture_problem, paths), "checking pictures", len(paths), disable=None, leave=False)
        return {path: problem for path, problem in zip(paths, checked, strict=True) if problem is not None}
    finally:
        pool.shutdown(cancel_futures=True)  # where it is interrupted, the rest is not waited for


def _picture_problem(path: str) -> str | None:
    if not os.path.isfile(path):
        return f"image not found: {path}"
    try:
        open_image(path, draft_size=(64, 64))  # a JPEG is read whole, but decoded at an eighth of its size
    except ValueError as error:
        return str(error)
    return None
