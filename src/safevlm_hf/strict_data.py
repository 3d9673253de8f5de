"""JSON and YAML of unknown origin, and records made of them: equal content has one text and one digest, and
anything unexpected is one clear error."""

import hashlib
import json
import math
import re
import reprlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from .modeling.json_files import unique_keys


Record = TypeVar("Record")

_HASH = re.compile(r"[0-9a-f]{64}")


MAX_LEVELS = 50
"""So many mappings and lists may stand in each other. Deeper ones are nobody's settings, and would exhaust the stack
elsewhere."""

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80


def shorten(value) -> str:
    """Return a value as an error names it: its `repr`, cut where it is long. Files of others may hold anything."""
    return _REPR.repr(value)


def plain(value, levels: int = MAX_LEVELS) -> Any:
    """Return a copy of dicts, lists, tuples and scalars as JSON has them. Whole floats become integers, so that 1 is
    1.0.

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
    """Return the one JSON text of equal content: sorted keys, no spaces, ASCII. Errors as in `plain`, and for NaN."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value) -> str:
    """Return the SHA-256 of `canonical_json`, 64 hex digits: the same on every platform and for every order of
    keys."""
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()


def short_digest(value) -> str:
    """Return the first 12 hex digits of `digest`: plenty to tell apart the protocols and systems of one reader."""
    return digest(value)[:12]


def to_text(value) -> str:
    """Return JSON for files that people read, too: sorted keys, one per line, ASCII."""
    return json.dumps(value, sort_keys=True, indent=2, allow_nan=False) + "\n"


def parse_json(text: str | bytes, where: str) -> Any:
    """Read JSON of unknown origin.

    Args:
        where: the file, and the line, as the error names it.

    Raises:
        ValueError: it is no JSON, or has NaN, a key twice, too many digits or too many levels.
    """

    def refuse(constant: str):
        raise ValueError(f"{constant} is no number of JSON")

    try:
        return json.loads(text, object_pairs_hook=unique_keys, parse_constant=refuse)
    except RecursionError:
        raise ValueError(f"{where}: nested too deeply") from None
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are of this kind
        raise ValueError(f"{where}: expected JSON, but {error}") from None


def check_keys(data, expected: Collection[str], where: str) -> Mapping[str, Any]:
    """Return `data` itself, a mapping with exactly the expected keys.

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


class _StrictLoader(yaml.SafeLoader):
    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not read")
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        # Every level is built at once: a check of half-built mappings would see nothing.
        return unique_keys(self.construct_pairs(node, deep=True))


# The loader's own constructor hands out a dict first and fills it later.
_StrictLoader.add_constructor("tag:yaml.org,2002:map", _StrictLoader.construct_mapping)


def parse_yaml(text: str | bytes, where: str) -> Any:
    """Read YAML.

    Args:
        where: the file, as the error names it.

    Raises:
        ValueError: it is no YAML, or has an alias, a key twice, a type of its own, or too many levels.
    """
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except RecursionError:
        raise ValueError(f"{where}: nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise ValueError(f"{where}: expected YAML, but {' '.join(str(error).split())}") from None


def record_from_dict(cls: type[Record], data, where: str) -> Record:
    """Return a record made of a mapping that has exactly its fields; `where` names the origin in errors.

    Raises:
        ValueError: keys are unknown or missing, or the class refuses a value.
    """
    data = check_keys(data, [one.name for one in fields(cls)], where)  # type: ignore[arg-type]  # a dataclass
    try:
        return cls(**data)
    except ValidationError as error:
        raise ValueError(f"{where}: {first_problem(error)}") from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def first_problem(error: ValidationError) -> str:
    """Return the first of a record's problems in one line: the field, its value and what was expected."""
    problem = error.errors(include_url=False)[0]
    name = ".".join(map(str, problem["loc"]))
    if problem["type"] == "value_error":
        return f"{name}: {problem['ctx']['error']}".removeprefix(": ")
    return f"{name} is {shorten(problem['input'])}, expected {problem['msg'].removeprefix('Input should be ')}"


def expect(is_valid: bool, name: str, expected: str, value):
    """Raise `ValueError` with the name of the field, its value and what was expected, unless it is valid."""
    if not is_valid:
        raise ValueError(f"{name} is {shorten(value)}, expected {expected}")


def is_text(value) -> bool:
    return isinstance(value, str) and bool(value.strip())


def is_optional_text(value) -> bool:
    return value is None or is_text(value)


def is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_number(value) -> bool:
    """Tell whether it is a finite number, which a float can hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def is_hash(value) -> bool:
    """Tell whether it is SHA-256 in hex."""
    return isinstance(value, str) and bool(_HASH.fullmatch(value))


# --------------------------------------------------------------------------------------------------
# Types of the fields of records, which pydantic checks
# --------------------------------------------------------------------------------------------------


def valid_if(is_valid: Callable[[Any], bool], expected: str) -> Callable[[Any], Any]:
    """Return a validator that leaves a value as it is, with an error that says in words what was expected."""

    def check(value):
        if not is_valid(value):
            raise PydanticCustomError("unexpected", "Input should be {expected}", {"expected": expected})
        return value

    return check


def _is_scalar(value) -> bool:
    return value is None or isinstance(value, (str, bool)) or is_number(value)


STRICT = ConfigDict(strict=True, allow_inf_nan=False)
"""Settings of all records: nothing is converted, and numbers are finite."""

Count = Annotated[int, Field(ge=0)]
Text = Annotated[str, AfterValidator(valid_if(is_text, "text, not empty"))]
Hash = Annotated[str, AfterValidator(valid_if(is_hash, "64 hex digits"))]
Scalar = Annotated[
    str | int | float | bool | None,
    BeforeValidator(valid_if(_is_scalar, "text, a finite number, a bool or null")),
]
PlainMapping = Annotated[Mapping[str, Any], AfterValidator(lambda value: json.loads(canonical_json(value)))]
"""Settings of any depth, as JSON has them."""
