"""Packages that only an extra brings: if one is missing, the error names the extra."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Turn a missing import into an error that names the extra which brings it.

    Raises:
        ImportError: one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        message = f"the package {error.name} is not installed; {command_for(extra)} brings it"
        raise ImportError(message, name=error.name) from error


def check_extra(extra: str, *packages: str):
    """Check before long work that the packages which it imports at its end are there.

    Raises:
        ImportError: one of them is not installed.
    """
    with needs_extra(extra):
        for name in packages:
            if find_spec(name) is None:
                raise ModuleNotFoundError(name=name)


def command_for(extra: str) -> str:
    """Return the command that adds an extra to this Python's environment, whether or not that is the shell's.

    The package is on no index, so pip knows its name only where it has installed it.
    """
    try:
        version("safevlm_hf")
    except PackageNotFoundError:
        return f"in a checkout, {sys.executable} -m pip install '.[{extra}]'"
    return f"{sys.executable} -m pip install 'safevlm_hf[{extra}]'"
