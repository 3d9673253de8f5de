"""Reading a taxonomy of one's own from a file."""

from pathlib import Path

import yaml


def read_taxonomy(path: str | Path | None) -> dict[str, list[str]]:
    """Read `categories` and `levels`, either or both, from a YAML or JSON file; nothing from no file."""
    if path is None:
        return {}
    try:
        taxonomy = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is neither YAML nor JSON: {error}") from None
    is_valid = isinstance(taxonomy, dict) and set(taxonomy) <= {"categories", "levels"} and taxonomy
    if not is_valid or not all(isinstance(names, list) for names in taxonomy.values()):
        raise ValueError(f"{path} must hold lists of names under `categories` and `levels`, got {taxonomy!r}.")
    return {name: [str(item) for item in names] for name, names in taxonomy.items()}
