"""A dictionary on disk that a killed run leaves whole: JSON lines, appended one by one."""

import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ...strict_data import parse_json, shorten


logger = logging.getLogger(__name__)

_START = b'{"key": "'


class JsonLinesCache:
    """Keys (text) to values (JSON), one line `{"key": ..., "value": ...}` each.

    Whatever `put` has returned from survives a kill of the process; `flush` makes it survive a power cut, too. A last
    line that a kill has torn is dropped when the file is opened, and a warning says so. Threads may share a cache; a
    second process, or a second cache on the same file, is refused.

    Args:
        path: the file; it is made, with its folders, where there is none.

    Raises:
        RuntimeError: another process has the file open.
        ValueError: the file was not written by this class. It is left as it is.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(f"{self.path}.lock", timeout=0, thread_local=False)
        self._mutex = threading.Lock()
        try:
            self._lock.acquire()
        except Timeout:
            raise RuntimeError(f"{self.path} is in use by another run: wait for it, or name another file") from None
        try:
            self._values = self._read()
            self._file = self.path.open("ab", buffering=0)
        except BaseException:
            self._lock.release()
            raise

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __enter__(self) -> "JsonLinesCache":
        return self

    def __exit__(self, *_):
        self.close()

    def get(self, key: str) -> Any:
        """Return the value as JSON gives it back (tuples are lists); `None` where there is none."""
        return self._values.get(key)

    def put(self, key: str, value: Any) -> Any:
        """Keep the value and return what is kept from now on: the first value of a key.

        Raises:
            TypeError, ValueError: JSON does not have the value, NaN among others. Nothing is written.
            OSError: the disk is full or gone. What was written of the line is taken back.
        """
        # What JSON does not have is refused here, before anything is written.
        line = json.dumps({"key": key, "value": value}, allow_nan=False)
        with self._mutex:
            if key not in self._values:
                self._append(line.encode("ascii") + b"\n")
                self._values[key] = json.loads(line)["value"]
            return self._values[key]

    def flush(self):
        """Wait until everything is on the disk."""
        os.fsync(self._file.fileno())

    def close(self):
        """Flush, and let other runs have the file. Closing twice is harmless."""
        if not self._file.closed:
            self.flush()
            self._file.close()
            self._lock.release()

    def _append(self, line: bytes):
        end = self._file.seek(0, os.SEEK_END)
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[self._file.write(rest) :]
        except BaseException:  # an interrupt, too, must leave no half line before the next one
            self._file.truncate(end)
            raise

    def _read(self) -> dict[str, Any]:
        """Return the values, and cut off a torn last line. A later line replaces an earlier one."""
        content = self.path.read_bytes() if self.path.exists() else b""
        complete = content.rfind(b"\n") + 1
        values = {}
        for number, line in enumerate(content[:complete].split(b"\n")[:-1], start=1):
            entry = parse_json(line, f"{self.path}, line {number}")
            if not (isinstance(entry, dict) and [*entry] == ["key", "value"] and isinstance(entry["key"], str)):
                raise self._foreign(f"line {number} is {shorten(entry)}")
            values[entry["key"]] = entry["value"]
        torn = content[complete:]
        if torn:
            # A power cut can leave zeros. Anything else is a file of somebody else, which must not be cut.
            if not _START.startswith(torn[: len(_START)].rstrip(b"\0")):
                raise self._foreign(f"its last line, without an end, is {shorten(torn)}")
            os.truncate(self.path, complete)
            logger.warning(
                f"{self.path}: the last line was torn by a kill; {len(torn)} bytes dropped, {len(values)} entries kept"
            )
        return values

    def _foreign(self, found: str) -> ValueError:
        expected = 'expected lines {"key": ..., "value": ...} of a cache'
        return ValueError(f"{self.path}: {expected}, but {found}. Name another file, or move this one away")
