"""What commands say is theirs: the libraries' notes stay out of it."""

import logging
import sys

import transformers


def quiet(*loggers: str):
    """Silences transformers and these loggers up to errors, and progress bars where nobody watches a terminal."""
    transformers.logging.set_verbosity_error()
    for name in loggers:
        logging.getLogger(name).setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        transformers.logging.disable_progress_bar()
