"""Reading a source: a git clone with or without a work tree, a set of icons, or an unpacked package."""

import json
import os
import subprocess
from pathlib import Path
from types import TracebackType

from .manifest import Source


MAX_BLOB = 64 * 2**20  # bytes; the largest picture of the manifest has a tenth of it
INSIDE = ("", "usr/share/openclipart", "package")
"""Where an unpacked package may begin in its folder, as dpkg and npm write them."""


class Copy:
    """A user's copy of a source. `read` returns a file's bytes, or `None` where it is not there."""

    def read(self, path: str) -> bytes | None:
        raise NotImplementedError

    def close(self):
        """Give back what reading takes."""

    def __enter__(self) -> "Copy":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None):
        self.close()


class GitCopy(Copy):
    """Files of a commit. The work tree is not read: it may have been changed.

    Nothing of the repository is run, and nothing is brought from elsewhere. A clone that lacks the commit is read at
    its newest one, and the hashes say what differs.
    """

    def __init__(self, folder: Path, commit: str):
        git_dir = folder / ".git" if (folder / ".git").is_dir() else folder
        self.command = ["git", "-c", "safe.directory=*", f"--git-dir={git_dir}"]
        self.environment = {**os.environ, "GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0"}
        found = subprocess.run(
            [*self.command, "cat-file", "-e", f"{commit}^{{commit}}"], env=self.environment, capture_output=True
        )
        self.commit = "HEAD" if found.returncode else commit
        self.process = subprocess.Popen(
            [*self.command, "cat-file", "--batch"],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def read(self, path: str) -> bytes | None:
        asked, given = self.process.stdin, self.process.stdout
        if asked is None or given is None or "\n" in path:
            return None
        try:
            asked.write(f"{self.commit}:{path}\n".encode())
            asked.flush()
        except OSError:  # git has ended: the folder is no repository
            return None
        head = given.readline().rsplit(b" ", 2)
        if len(head) != 3 or not head[2].strip().isdigit():
            return None
        size = int(head[2])
        content = given.read(size) if size <= MAX_BLOB else None
        while content is None and size > 0:  # too large: it is passed over
            size -= len(given.read(min(size, MAX_BLOB))) or size
        given.read(1)
        return content if head[1] == b"blob" else None

    def close(self):
        if self.process.stdin is not None:
            self.process.stdin.close()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.process.wait()


class IconCopy(Copy):
    """Icons of a set (Iconify's JSON), as SVG texts; `path` is an icon's name."""

    def __init__(self, file: Path):
        self.icons = json.loads(file.read_text(encoding="utf-8"))

    def read(self, path: str) -> bytes | None:
        icon = self.icons["icons"].get(path)
        if not isinstance(icon, dict) or "body" not in icon:
            return None
        box = {"left": 0, "top": 0, "width": 16, "height": 16}
        box = {side: icon.get(side, self.icons.get(side, usual)) for side, usual in box.items()}
        view = " ".join(str(value) for value in box.values())
        return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{view}">{icon["body"]}</svg>'.encode()


class FolderCopy(Copy):
    """Files of an unpacked package."""

    def __init__(self, folder: Path):
        self.folder = folder

    def read(self, path: str) -> bytes | None:
        file = self.folder / path
        if not file.is_file() or file.stat().st_size > MAX_BLOB:
            return None
        return file.read_bytes()


def open_copy(source: Source, sources: Path) -> Copy | None:
    """Open the user's copy of a source, under its name in the folder `sources`; `None` where there is none."""
    folder = sources / source.folder
    if source.kind == "git":
        is_there = (folder / "HEAD").is_file() or (folder / ".git").is_dir()
        return GitCopy(folder, source.version) if is_there else None
    for inside in INSIDE:
        if source.kind == "npm" and (folder / inside / "icons.json").is_file():
            return _open_icons(folder / inside / "icons.json")
        if source.kind == "deb" and (folder / inside / "png").is_dir():
            return FolderCopy(folder / inside)
    return None


def _open_icons(file: Path) -> IconCopy | None:
    try:
        copy = IconCopy(file)
    except (ValueError, RecursionError):
        return None
    return copy if isinstance(copy.icons, dict) and isinstance(copy.icons.get("icons"), dict) else None
