"""JSON files of unknown origin."""

import json
from pathlib import Path
from typing import Any


def read_json(path) -> Any:
    """Return what a JSON file holds.

    Raises `ValueError`, which begins with the file's name, where it is no JSON, is nested too deep, or has a key twice
    at any depth: the second would replace the first without a word."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        if not text.strip():
            raise ValueError("the file is empty, expected a JSON object.")
        return json.loads(text, object_pairs_hook=unique_keys)
    except ValueError as error:  # broken JSON and wrong encodings, too
        raise ValueError(f"{path}: {error}") from None
    except RecursionError:
        raise ValueError(f"{path}: lists or objects are nested too deep to read.") from None


def read_policy(generation_config) -> dict | None:
    """Return the safety policy in a `generation_config.json`.

    Raises `ValueError` as [`read_json`], and where the file holds no JSON object."""
    try:
        values = read_json(generation_config)
    except ValueError as error:
        raise ValueError(f"The file with the safety policy cannot be used: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(
            f"{generation_config} holds the safety policy, and must be a JSON object, got {type(values).__name__}."
        )
    return values.get("safety_policy")


def unique_keys(pairs: list[tuple[Any, Any]]) -> dict:
    """Return the pairs as a dict. Raise `ValueError` for a key that comes twice: the second would replace the first
    without a word."""
    found = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r:.80} comes twice")
        found[key] = value
    return found
