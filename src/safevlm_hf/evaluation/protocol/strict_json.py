"""JSON of the evaluation: one text for equal content, one clear error for anything unexpected."""

import hashlib
import json
import reprlib
from collections.abc import Collection, Mapping
from typing import Any

from ...modeling.json_files import unique_keys


MAX_LEVELS = 50
"""Of mappings and lists in each other. Deeper ones are nobody's settings, and would exhaust the stack elsewhere."""

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80


def shorten(value) -> str:
    """A value as an error names it: its `repr`, cut where it is long. Files of others may hold anything."""
    return _REPR.repr(value)


def plain(value, levels: int = MAX_LEVELS) -> Any:
    """A copy of dicts, lists, tuples and scalars as JSON has them. Whole floats become integers, so that 1 is 1.0.

    Raises:
        ValueError: a key is no text, a value is none of these types, or there are more levels than `levels`.
    """
    if not levels:
        raise ValueError(f"it is nested in more than {MAX_LEVELS} levels")
    if isinstance(value, Mapping):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise ValueError(f"the key {shorten(wrong[0])} is no text, expected names as keys")
        return {key: plain(one, levels - 1) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one, levels - 1) for one in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(f"{shorten(value)} is a {type(value).__name__}, expected text, a number, true, false or null")


def canonical_json(value) -> str:
    """The one JSON text of equal content: sorted keys, no spaces, ASCII. Errors as in `plain`, and for NaN."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value) -> str:
    """SHA-256 of `canonical_json`, 64 hex digits: the same on every platform and for every order of keys."""
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()


def short_digest(value) -> str:
    """The first 12 hex digits of `digest`: plenty to tell apart the protocols and systems of one reader."""
    return digest(value)[:12]


def to_text(value) -> str:
    """JSON for files that people read, too: sorted keys, one per line, ASCII."""
    return json.dumps(value, sort_keys=True, indent=2, allow_nan=False) + "\n"


def parse_json(text: str | bytes, where: str) -> Any:
    """Reads JSON of unknown origin.

    Args:
        where: the file, and the line, as the error names it.

    Raises:
        ValueError: it is no JSON, or has NaN, a key twice, too many digits or too many levels.
    """
    try:
        return json.loads(text, object_pairs_hook=unique_keys, parse_constant=_refuse)
    except RecursionError:
        raise ValueError(f"{where}: nested too deeply") from None
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are of this kind
        raise ValueError(f"{where}: expected JSON, but {error}") from None


def check_keys(data, expected: Collection[str], where: str) -> Mapping[str, Any]:
    """`data` itself, a mapping with exactly the expected keys.

    Raises:
        ValueError: it is no mapping, or keys are unknown or missing; all of them are named.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{where}: expected the keys {', '.join(expected)}, got {shorten(data)}")
    unknown, missing = [key for key in data if key not in expected], [key for key in expected if key not in data]
    if unknown or missing:
        problems = [f"unknown keys {', '.join(map(shorten, unknown))}"] if unknown else []
        problems += [f"missing keys {', '.join(missing)}"] if missing else []
        raise ValueError(f"{where}: {' and '.join(problems)}, expected {', '.join(expected)}")
    return data


def _refuse(constant: str):
    raise ValueError(f"{constant} is no number of JSON")
