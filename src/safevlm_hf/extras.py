"""Packages that only an extra brings: where one is missing, the error names the extra."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Stands around imports that this extra of the package brings.

    Raises:
        ImportError: one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        message = f"the package {error.name} is not installed; pip install 'safevlm_hf[{extra}]' brings it"
        raise ImportError(message, name=error.name) from error
