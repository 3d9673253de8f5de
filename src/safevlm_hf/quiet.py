"""Silence the libraries: the output of a command is its own."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import transformers


NOISY = ("bitsandbytes",)  # it notes each product in 8 bits, hundreds of times per answer
# The Hub's library lets some errors of these through.
HTTP_CLIENTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests")
UNREACHED = (
    "the Hub cannot be reached: is there a network? What is named must be a folder or file here, or in the cache."
)


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Run a script's main: an error that its user can mend is told without a traceback, and ends it with exit code 1.
    Notes of libraries that nobody can follow are not shown."""
    _silence_notes()
    try:
        yield
    except Exception as error:
        if is_of_network(error):
            sys.exit(f"Error: {UNREACHED} ({error})")
        if not isinstance(error, (ImportError, OSError, ValueError)):
            raise
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        sys.exit("Interrupted.")


def is_of_network(error: Exception) -> bool:
    """Tell whether a library that speaks HTTP has raised it."""
    return type(error).__module__.partition(".")[0] in HTTP_CLIENTS


def _silence_notes():
    if not sys.warnoptions:  # whoever runs `python -W` asks for warnings
        warnings.simplefilter("ignore", FutureWarning)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)


def quiet(*loggers: str):
    """Silence transformers and these loggers up to errors, notes on 8 bits and on what libraries will change, and
    progress bars when stderr is not a terminal."""
    _silence_notes()
    transformers.logging.set_verbosity_error()
    for name in loggers:
        logging.getLogger(name).setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        transformers.logging.disable_progress_bar()
