"""Files that are whole or not there."""

import os
import secrets
from pathlib import Path


def write_text(path: str | os.PathLike, text: str) -> Path:
    """Writes the file and returns its path. It appears under its name only when it is complete; folders are made. The
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
