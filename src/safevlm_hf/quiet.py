"""What commands say is theirs: the libraries' notes stay out of it."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import transformers


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """For a script's main: what its user can mend is told without a traceback, and ends it with exit code 1."""
    try:
        yield
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        sys.exit("Interrupted.")


def quiet(*loggers: str):
    """Silences transformers and these loggers up to errors, and progress bars where nobody watches a terminal."""
    transformers.logging.set_verbosity_error()
    for name in loggers:
        logging.getLogger(name).setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        transformers.logging.disable_progress_bar()
