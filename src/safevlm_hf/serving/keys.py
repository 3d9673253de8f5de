"""API keys, as OpenAI's clients send them."""

import hashlib
import hmac
import os
from collections.abc import Iterable
from pathlib import Path


KEY_VARIABLE = "SAFEVLM_API_KEY"  # environment variable: one key
SHORTEST_KEY = 16  # characters


def read_api_keys(file: str | os.PathLike | None = None) -> tuple[str, ...]:
    """
    Return the keys in a file, one per line, or the one in the environment variable `SAFEVLM_API_KEY`, if any.

    No key is taken from the command line, which every user of the machine can read. The variable is taken out of the
    environment.

    Raises:
        `ValueError`: for both at once, for a key that is too short or that no header can carry, and for a file or a
            variable that is there and empty: the server would be open to everybody. No message holds a key.
    """
    from_environment = os.environ.pop(KEY_VARIABLE, None)
    if file is not None and from_environment is not None:
        raise ValueError(f"API keys come from a file or from the variable {KEY_VARIABLE}, and both are given.")
    if file is not None:
        place, text = str(file), Path(file).read_text(encoding="utf-8")
    elif from_environment is not None:
        place, text = f"the variable {KEY_VARIABLE}", from_environment
    else:
        return ()
    keys = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not keys:
        raise ValueError(f"There is no API key in {place}: it is empty.")
    for number, key in enumerate(keys, start=1):
        check_key(key, f"Key {number} in {place}")
    return keys


def check_key(key: str, name: str = "An API key"):
    """Raise `ValueError` for a key that is easily guessed or cannot be sent; the message does not hold it."""
    if not isinstance(key, str) or len(key) < SHORTEST_KEY:
        raise ValueError(f"{name} must have at least {SHORTEST_KEY} characters.")
    if not all("!" <= character <= "~" for character in key):
        raise ValueError(f"{name} must be of printable ASCII characters, without blanks.")


class ApiKeys:
    """Compare keys in a time that says nothing about them."""

    def __init__(self, keys: Iterable[str]):
        keys = tuple(keys)
        for key in keys:
            check_key(key)
        self._digests = [_digest(key.encode()) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def admit(self, authorization: bytes | None) -> bool:
        """Return `True` if the value of the header `Authorization` holds one of the keys."""
        scheme, _, key = (authorization or b"").partition(b" ")
        given = _digest(key.strip())
        # All digests are compared, each in full: neither the place of a key nor a common beginning takes less time.
        is_one = [hmac.compare_digest(given, digest) for digest in self._digests]
        return scheme.lower() == b"bearer" and any(is_one)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
