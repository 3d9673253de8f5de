"""Files that are whole or not there."""

import os
import secrets
from pathlib import Path


def write_text(path: str | os.PathLike, text: str) -> Path:
    """Writes the file and returns its path. It appears under its name only when it is complete; folders are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own: several processes and threads may write the same file at once.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path
