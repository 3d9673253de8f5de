"""Checks on the fields of records that are read from files: what was expected, and what came."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from safevlm_hf.evaluation.protocol.strict_json import canonical_json, check_keys, plain, shorten


Scalar = str | int | float | bool | None
Record = TypeVar("Record")

_HASH = re.compile(r"[0-9a-f]{64}")


def record_from_dict(cls: type[Record], data, where: str) -> Record:
    """A dataclass from a mapping that has exactly its fields; `where` names the origin in errors.

    Raises:
        ValueError: keys are unknown or missing, or the class refuses a value.
    """
    data = check_keys(data, [one.name for one in fields(cls)], where)
    try:
        return cls(**data)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def expect(is_valid: bool, name: str, expected: str, value):
    """A `ValueError` with the name of the field, its value and what was expected, unless it is valid."""
    if not is_valid:
        raise ValueError(f"{name} is {shorten(value)}, expected {expected}")


def set_plain_mapping(record, name: str, expected: str, is_valid: Callable[[Any], bool] | None = None):
    """Replaces a mapping of a frozen record by a copy that JSON has, which nobody else can change.

    Args:
        is_valid: a check on each value; any JSON if missing.

    Raises:
        ValueError: it is no mapping from text to such values.
    """
    value = getattr(record, name)
    expect(isinstance(value, Mapping), name, expected, value)
    try:
        value = plain(value)
        canonical_json(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    for key, one in value.items():
        expect(is_valid is None or is_valid(one), f"{name}.{key}", expected, one)
    object.__setattr__(record, name, value)


def is_text(value) -> bool:
    return isinstance(value, str) and bool(value.strip())


def is_optional_text(value) -> bool:
    return value is None or is_text(value)


def is_count(value, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value) -> bool:
    """Whether it is a finite number, which a float can hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def is_hash(value) -> bool:
    """Whether it is SHA-256 in hex."""
    return isinstance(value, str) and bool(_HASH.fullmatch(value))


def is_scalar(value) -> bool:
    return value is None or isinstance(value, (str, int, float, bool))
