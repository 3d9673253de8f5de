"""A folder with published data: find its files, name what lies there instead, and let no name lead out of it."""

import contextlib
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath

from ..data.records import JOIN_MARK
from .pictures import Pictures, PictureStore


MAX_LISTED = 10
MAX_EXAMPLES = 3
LONGEST_NAME = 255  # bytes
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


class BenchmarkError(ValueError):
    """The data is not as it was published. The message says in one line what was expected, what was found, and where
    the data can be had."""


class DataFolder(contextlib.AbstractContextManager):
    """The user's copy of a published data set.

    Args:
        path: the folder.
        where_to_get: the end of every error.
        cache_dir: where pictures are kept that come out of zip files, tables and our own drawing.
    """

    def __init__(self, path, where_to_get: str, cache_dir):
        self.path, self.where_to_get, self.store = Path(path).absolute(), where_to_get, PictureStore(cache_dir)
        self._open_files = contextlib.ExitStack()
        # A snapshot in the Hub's cache is a folder of links to the blobs beside it.
        blobs = [self.path.parent.parent / "blobs"] if self.path.parent.name == "snapshots" else []
        self._roots = [root.resolve() for root in (self.path, *blobs)]
        if not self.path.is_dir():
            raise self.error(f"there is no folder {path}")

    def __exit__(self, *_):
        self._open_files.close()

    def error(self, reason: str, examples: Sequence[str] = ()) -> BenchmarkError:
        """Make an error of what is wrong, what to do, and the first examples."""
        # Examples may be long, and an error is cut at its end, so they come last.
        shown = f". For example: {list_first(examples)}" if examples else ""
        reason = " ".join(reason.split()).rstrip(".")
        return BenchmarkError(f"{reason}. Where to get the data: {self.where_to_get}{shown}")

    def find(self, *names: str) -> Path | None:
        """Return the first of the names that is there, a file or a folder."""
        return next((path for path in map(self.inside, names) if path.exists()), None)

    def file(self, *names: str) -> Path:
        """Return the first of the names that is there, a file with data."""
        path = self.find(*names)
        if path is None or not path.is_file():
            raise self.missing(" or ".join(names))
        return self._check_content(path)

    def files(self, *patterns: str) -> list[Path]:
        """Return all files of the first pattern that has any, by name."""
        for pattern in patterns:
            names = sorted(path.relative_to(self.path).as_posix() for path in self.path.glob(pattern))
            if names:
                return [self.file(name) for name in names]
        raise self.missing(" or ".join(patterns))

    def pictures(self, *places: str) -> Pictures:
        """Return pictures by name, from those of the places (folders and zip files) that are there."""
        paths = [self.path if place == "." else self.inside(place) for place in places]
        found = [path for path in paths if path.exists()]
        if not found:
            raise self.missing(" or ".join(places))
        for path in found:
            if path.is_file():
                self._check_content(path)
        return Pictures(self, found, self._open_files)

    def missing(self, expected: str) -> BenchmarkError:
        return self.error(f"expected {expected} in {self.path}, found {self.listing()}")

    def listing(self) -> str:
        return list_names(sorted(path.name + "/" * path.is_dir() for path in self.path.iterdir()))

    def inside(self, name: str, root: Path | None = None) -> Path:
        """Return `root / name`. Raises if the name, which is not trusted, or a link leads out of the folder."""
        root = self.path if root is None else root
        if not _is_relative(name):
            raise self.error(f"{name[:200]!r} is no path inside {root}")
        path = root.joinpath(*name.replace("\\", "/").split("/"))
        try:
            resolved = path.resolve()
        except (OSError, RuntimeError) as error:  # links in a circle
            raise self.error(f"{path} leads nowhere ({error})") from error
        if not any(resolved.is_relative_to(allowed) for allowed in self._roots):
            raise self.error(f"{path} is a link that leads out of {self.path}")
        return path

    def _check_content(self, path: Path) -> Path:
        with path.open("rb") as stream:
            if stream.read(len(LFS_POINTER)) == LFS_POINTER:
                raise self.error(f"{path} is a Git LFS pointer, not the data: run `git lfs pull`")
        return path


def _is_relative(name: str) -> bool:
    """Return `True` for the name of a file below a folder, on any system."""
    if not name.isprintable() or JOIN_MARK in name or name.startswith("/") or PureWindowsPath(name).drive:
        return False
    parts = name.replace("\\", "/").split("/")
    too_long = any(len(part.encode()) > LONGEST_NAME for part in parts)
    return ".." not in parts and not too_long and bool(name.strip("./ \\"))


def list_first(lines: Sequence[str]) -> str:
    """Join at most three of the lines."""
    more = f"; and {len(lines) - MAX_EXAMPLES} more" if len(lines) > MAX_EXAMPLES else ""
    return "; ".join(lines[:MAX_EXAMPLES]) + more


def list_names(names) -> str:
    """Join at most ten of the names."""
    names = [str(name)[:80] for name in names]
    if not names:
        return "nothing"
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more
