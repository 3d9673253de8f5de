"""Atomic writing of files, and checks of paths before long work."""

import os
import secrets
import tempfile
from collections.abc import Mapping
from itertools import combinations, product
from pathlib import Path


def check_writable(path: str | os.PathLike, is_folder: bool = False):
    """Check before long work that its result can be written there.

    Raises:
        ValueError: a file, or with `is_folder` a folder with files in it, cannot be written there.
    """
    path = Path(path)
    if path.exists() and path.is_dir() != is_folder:
        there, expected = ("a file", "a folder") if is_folder else ("a folder", "a file")
        if path.is_dir() or path.is_file():
            raise ValueError(f"{path} is {there}, expected {expected} to write to.")
        return  # it is neither, as /dev/null
    place = next(one for one in (path, *path.absolute().parents) if one.exists() and (one != path or is_folder))
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ValueError(f"{path} cannot be written: {place}: {reason}.") from None


def refuse_to_overwrite(path: str | os.PathLike, advice: str):
    """Refuse work whose result would take the place of an earlier one.

    Args:
        advice: the way out, such as "`--overwrite` replaces it, another `--output` keeps it".

    Raises:
        ValueError: there is a file, or a folder with something in it.
    """
    path = Path(path)
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise ValueError(f"{path} is there already: {advice}.")


def check_apart(outputs: Mapping[str, Path | None], inputs: Mapping[str, Path | None] | None = None):
    """Check that the outputs of long work are apart from each other, and from inputs that have to outlast it.

    Args:
        outputs, inputs: the files by how a user names them, such as "--report"; `None` for those that are not wanted.

    Raises:
        ValueError: two outputs are one file, or one lies in the other, or an output is an input.
    """
    written = [(name, path) for name, path in outputs.items() if path is not None and not _is_special(path)]
    read = [(name, path) for name, path in (inputs or {}).items() if path is not None]
    for (name, path), (other, place) in combinations(written, 2):
        one, two = Path(os.path.realpath(path)), Path(os.path.realpath(place))
        if _is_same(path, place) or one in two.parents or two in one.parents:
            raise ValueError(f"`{name}` {path} and `{other}` {place} are in each other's way: name another file.")
    for (name, path), (other, place) in product(written, read):
        if _is_same(path, place):
            raise ValueError(f"`{name} {path}` would replace `{other}` {place}, which is read: name another file.")


def _is_special(path: Path) -> bool:
    """Tell whether it is no file that a write replaces, such as /dev/null: several outputs may share it."""
    return os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path))


def _is_same(one: Path, other: Path) -> bool:
    if os.path.exists(one) and os.path.exists(other):
        return os.path.samefile(one, other)
    return os.path.realpath(one) == os.path.realpath(other)


def write_text(path: str | os.PathLike, text: str) -> Path:
    """Write the file and return its path. It appears under its name only when it is complete; folders are made. The
    file behind a link is replaced, not the link; what is no file, as /dev/null, is written to."""
    path = Path(path)
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
        return path
    file = Path(os.path.realpath(path))
    file.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own: several processes and threads may write the same file at once.
    partial = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        partial.write_text(text, encoding="utf-8")
        if file.exists():
            partial.chmod(file.stat().st_mode & 0o777)
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)
    return path
