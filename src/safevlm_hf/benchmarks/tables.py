"""Tables of benchmarks, row by row: JSON, JSON lines, CSV, TSV and Parquet, whose fields are read with their types.

A file that cannot be read, a column that is missing and a field of another type are a `BenchmarkError` that names the
file, the row and what was found instead.
"""

import base64
import binascii
import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..extras import needs_extra
from .folder import BenchmarkError, DataFolder, list_names
from .pictures import Pictures


MAX_TABLE_BYTES = 8 * 2**30
MAX_JSON_BYTES = 2**30  # read at once
MAX_CELL = 128 * 2**20  # characters: a picture of 64 MiB as base64 has 90 million
PARQUET_BATCH = 16  # rows, each with a picture
MAX_TEXT = 200_000  # characters of a question


class Row:
    """A row of a table.

    Args:
        data: the folder, for its errors.
        place: the row's place, such as "test.json, row 3".
        values: the fields by name.
    """

    def __init__(self, data: DataFolder, place: str, values: Any):
        self.data, self.place, self.values = data, place, values
        if not isinstance(values, dict):
            raise data.error(f"{place}: expected an object with fields, found {_show(values)}")

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) is not None

    def error(self, reason: str):
        return self.data.error(f"{self.place}: {reason}")

    def value(self, *names: str):
        """Return the field of the first of the names that the row has."""
        for name in names:
            if name in self:
                return self.values[name]
        # The message names the fields that are there, for a copy may have them under other names.
        filled = [name for name in self.values if name in self]
        raise self.error(f"{' or '.join(map(repr, names))} is missing or empty, found {list_names(filled)}")

    def text(self, *names: str) -> str:
        value = self.value(*names)
        if not isinstance(value, str):
            raise self.error(f"{names[0]!r} is {_show(value)}, expected text")
        return self._checked(value, names[0])

    def label(self, *names: str) -> str:
        """Return a text or a whole number as text: an id or a name."""
        value = self.value(*names)
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise self.error(f"{names[0]!r} is {_show(value)}, expected a name or a whole number")
        return self._checked(str(value), names[0])

    def labels(self, name: str) -> list[str]:
        """Return a list of texts or whole numbers, as texts."""
        value = self.value(name)
        if not isinstance(value, (list, tuple)):
            raise self.error(f"{name!r} is {_show(value)}, expected a list")
        return [Row(self.data, self.place, {name: one}).label(name) for one in value]

    def whole(self, name: str) -> int:
        value = self.value(name)
        # CSV files hold numbers as texts. 18 digits fit into the 64 bits that tables have for them.
        is_number = isinstance(value, int) and not isinstance(value, bool)
        if not is_number and not (isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19):
            raise self.error(f"{name!r} is {_show(value)}, expected a whole number")
        return int(value)

    def flag(self, name: str) -> bool:
        value = self.value(name)
        if not isinstance(value, bool):
            raise self.error(f"{name!r} is {_show(value)}, expected true or false")
        return value

    def one_of(self, name: str, choices: Sequence[str]) -> str:
        value = self.label(name)
        if value not in choices:
            raise self.error(f"{name!r} is {_show(value)}, expected one of {list_names(choices)}")
        return value

    def texts(self, name: str) -> list[str]:
        """Return a list of texts; a single text is a list of one."""
        value = self.value(name)
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, (list, tuple)) or not all(isinstance(one, str) for one in values):
            raise self.error(f"{name!r} is {_show(value)}, expected texts")
        return [self._checked(one, name) for one in values]

    def row(self, name: str) -> "Row":
        return Row(self.data, f"{self.place}, {name!r}", self.value(name))

    def rows(self, name: str) -> list["Row"]:
        value = self.value(name)
        if not isinstance(value, (list, tuple)):
            raise self.error(f"{name!r} is {_show(value)}, expected a list")
        return [Row(self.data, f"{self.place}, {name!r}[{number}]", one) for number, one in enumerate(value)]

    def find_picture(self, pictures: Pictures, name: str) -> str:
        """Return the path of the picture that the field names."""
        if not self.text(name).strip():
            raise self.error(f"{name!r} is empty, expected the path of a picture")
        return pictures.path(self.text(name))

    def picture(self, name: str) -> str:
        """Return the path of a picture that lies in the table: the bytes of a Parquet image, or base64."""
        value = self.values.get(name)
        if isinstance(value, dict):
            value = value.get("bytes")
        if isinstance(value, str):
            try:
                value = base64.b64decode("".join(value.split()), validate=True)
            except (binascii.Error, ValueError):
                raise self.error(f"{name!r} is {_show(value)}, expected a picture as base64") from None
        if not isinstance(value, bytes) or not value:
            return f"{self.place}, {name!r} (empty)"  # no file has this name: the item counts as one without a picture
        return self.data.store.keep(value)

    def _checked(self, value: str, name: str) -> str:
        if len(value) > MAX_TEXT:
            raise self.error(f"{name!r} has {len(value):,} characters, more than {MAX_TEXT:,}")
        if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
            raise self.error(f"{name!r} holds half of a surrogate pair, which is no character")
        return value


def read_json(data: DataFolder, *names: str) -> Any:
    """Return the value of the first of the files that is there."""
    path = data.file(*names)
    return _parse(data, _read_text(data, path, MAX_JSON_BYTES), str(path.relative_to(data.path)))


def read_json_rows(data: DataFolder, *names: str) -> list[Row]:
    """Return the rows of a JSON list, or of an object whose values are rows; their field "key" is then the key."""
    value = read_json(data, *names)
    place = str(data.file(*names).relative_to(data.path))
    if isinstance(value, dict):
        rows = []
        for key, fields in value.items():
            rows.append(Row(data, f"{place}, row {_show(key)}", fields))
            rows[-1].values = {**fields, "key": key}  # after `Row` has checked that these are fields
        return rows
    if not isinstance(value, list):
        raise data.error(f"{place}: expected a list of rows, found {_show(value)}")
    return [Row(data, f"{place}, row {number}", row) for number, row in enumerate(value, start=1)]


def read_json_lines(data: DataFolder, *names: str) -> Iterator[Row]:
    path = data.file(*names)
    place = str(path.relative_to(data.path))
    for number, line in enumerate(_read_text(data, path, MAX_JSON_BYTES).split("\n"), start=1):
        if line.strip():
            yield Row(data, f"{place}, line {number}", _parse(data, line, f"{place}, line {number}"))


def read_csv(data: DataFolder, columns: Sequence[str], *names: str, delimiter: str = ",") -> Iterator[Row]:
    """Yield the rows of the first of the files that is there; all fields are texts.

    Args:
        columns: those that must be there.
    """
    path = data.file(*names)
    place = str(path.relative_to(data.path))
    _check_size(data, path, MAX_TABLE_BYTES)
    limit = csv.field_size_limit(MAX_CELL)  # it is the process's own, and too small for a picture
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter=delimiter, strict=True)
            header = next(reader, [])
            check_columns(data, place, header, columns)
            for cells in reader:
                if len(cells) != len(header) and cells:
                    line = f"{place}, line {reader.line_num}"
                    raise data.error(f"{line}: {len(cells)} fields, expected {len(header)} as in the first line")
                if cells:
                    yield Row(data, f"{place}, line {reader.line_num}", dict(zip(header, cells)))
    except (csv.Error, UnicodeDecodeError) as error:
        raise data.error(f"{place}, line {reader.line_num + 1}: no table in UTF-8 ({error})") from error
    finally:
        csv.field_size_limit(limit)


def read_parquet(
    data: DataFolder, columns: Sequence[str], *patterns: str, optional: Sequence[str] = ()
) -> Iterator[Row]:
    """Yield the rows of all files of the first pattern that has any, a few at a time.

    Args:
        columns: those that must be there.
        optional: those that may be there; the others stay unread.
    """
    with needs_extra("eval"):
        from pyarrow import parquet

    number = 0
    for path in data.files(*patterns):
        place = str(path.relative_to(data.path))
        try:
            file = parquet.ParquetFile(path)
            found = file.schema_arrow.names
            check_columns(data, place, found, columns)
            read = [*columns, *(name for name in optional if name in found)]
            for batch in file.iter_batches(batch_size=PARQUET_BATCH, columns=read):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(data, f"{place}, row {number}", values)
        except BenchmarkError:
            raise
        except Exception as error:  # Arrow's own, OSError, UnicodeDecodeError and more for files that are changed
            raise data.error(f"{place}: no whole Parquet file ({error})") from error


def check_columns(data: DataFolder, place: str, found: Sequence[str], needed: Sequence[str]) -> None:
    missing = [name for name in needed if name not in found]
    if missing:
        raise data.error(f"{place} has no column {' and '.join(map(repr, missing))}, found {list_names(found)}")


def _parse(data: DataFolder, text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, too
        raise data.error(f"{place}: broken JSON ({error})") from error


def _read_text(data: DataFolder, path: Path, max_bytes: int) -> str:
    _check_size(data, path, max_bytes)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise data.error(f"{path} is not in UTF-8 ({error})") from error


def _check_size(data: DataFolder, path: Path, max_bytes: int) -> None:
    size = path.stat().st_size
    if not 0 < size <= max_bytes:
        raise data.error(f"{path} has {size:,} bytes, expected 1 to {max_bytes:,}")


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
