"""`safevlm`, the program: its options, its errors and its exit codes."""

import logging
import os
import signal
import sys
import textwrap
import traceback
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from typer import rich_utils

from .showing import make_console, no_color, plain


FLAGGED, ERROR, UNREADABLE, INTERRUPTED, CLOSED_PIPE = 1, 2, 3, 130, 141  # exit codes, beside 0
LONGEST_ERROR = 1000  # characters
NOISY = ("bitsandbytes", "huggingface_hub", "timm", "torch.utils._pytree", "torchao")
"""Loggers of libraries that write notes while they are imported, or while they try the Hub again."""

app = typer.Typer(
    help="SafeVLM: vision language models with a safety verdict of their own.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
Model = Annotated[str, typer.Option("--model", "-m", help="A safe checkpoint: folder or Hub id.")]
ModelOrShipped = Annotated[
    str | None,
    typer.Option("--model", "-m", help="A safe checkpoint: folder or Hub id; unset: the small one of this package."),
]
# Typer looks for files that are to be read before the library is imported, which takes many seconds.
THERE = {"exists": True, "dir_okay": False}
PolicyFile = Annotated[
    Path | None, typer.Option("--policy", "-p", help="JSON file that overrides the checkpoint's own policy.", **THERE)
]

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the result of an earlier run.")]


def _show_version(wanted: bool):
    if wanted:
        print(version("safevlm_hf"))
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error. Stands in front of the command.")
    ] = False,
):
    pass  # `main` looks for `--debug`, outside of every command


def main():
    """Run a command. An error takes one line on stderr, bad records one each; `safevlm --debug ...` shows where they
    came from."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # either may be closed
        stream.reconfigure(errors="backslashreplace")  # what the terminal cannot show is no error
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's stop is one from the keyboard
    if no_color():
        rich_utils.COLOR_SYSTEM = None  # of the help
    if not is_debugging():
        silence_libraries()
    try:
        code = app(standalone_mode=False) or 0
        if sys.stdout is not None:
            sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except (BrokenPipeError, SystemExit) as error:  # typer and rich exit where nobody reads on
        if isinstance(error, SystemExit) and error.code != 1:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = CLOSED_PIPE
    except Exception as error:
        if is_debugging():
            traceback.print_exc()  # raised, it would give exit code 1
        else:
            print_error(error)
        code = ERROR
    if code == INTERRUPTED:  # typer may have made an exit code of it
        make_console(stderr=True).print("Interrupted.")
    sys.exit(code)


def is_debugging() -> bool:
    return sys.argv[1:2] == ["--debug"]


def silence_libraries():
    """Silence the libraries. This comes before they are imported, because some write notes then."""
    if not sys.warnoptions:  # of `python -W`
        warnings.simplefilter("ignore")
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)


def print_error(error: Exception):
    is_list = hasattr(error, "problems")  # of bad records: one per line
    reasons = [shorten(line) for line in str(error).splitlines()] if is_list else [reason_of(error)]
    if any(reasons):  # typer has shown the help where there is none
        reasons[0] = f"Error: {reasons[0]}"
        for reason in reasons:
            make_console(stderr=True).print(plain(reason, "red"), soft_wrap=True)


def reason_of(error: Exception) -> str:
    """Return the reason for an error in one line."""
    if hasattr(error, "format_message"):  # typer's: the command line is wrong
        context, reason = getattr(error, "ctx", None), error.format_message()
        if any(word.startswith("-") and Path(word).exists() for word in sys.argv[1:]):
            reason = f"{reason.rstrip('.')}. A file whose name begins with - goes behind `--`"
        end = "" if reason.endswith("?") else "."
        return f"{reason.rstrip('.')}{end} See `{context.command_path} --help`." if reason and context else reason
    reason = str(error)
    if (quiet := sys.modules.get("safevlm_hf.quiet")) and quiet.is_of_network(error):
        return shorten(f"{quiet.UNREACHED} ({reason})")
    if isinstance(error, OSError) and error.strerror:  # without "[Errno 2]"
        name = "" if error.filename is None else f"{error.filename}: "
        reason = f"{name}{error.strerror[0].lower()}{error.strerror[1:]}"
    if not isinstance(error, (ValueError, OSError)) or not reason:
        reason = f"{type(error).__name__}: {reason}"
    if isinstance(error, ModuleNotFoundError):
        reason += f"; {sys.executable} -m pip install 'safevlm_hf[train]' brings what is missing."
    return shorten(reason)


def shorten(reason: str) -> str:
    return textwrap.shorten(reason, LONGEST_ERROR, placeholder=" ... (`safevlm --debug` shows all of it)")


def benchmark_options(given: list[str], chosen: list) -> dict[str, dict[str, str]]:
    """Return the options of each benchmark. An option without a benchmark's name goes to all that have it."""
    options: dict[str, dict[str, str]] = {one.name: {} for one in chosen}
    for text in given:
        name, is_pair, value = text.partition("=")
        benchmark, has_name, rest = name.rpartition(".")
        owners = [one for one in chosen if (one.name == benchmark if has_name else rest in one.options)]
        if not is_pair or not owners:
            known = "; ".join(f"{one.name}: {one.describe_options()}" for one in chosen)
            raise ValueError(f"`--option {text}`: expected NAME=VALUE of one of the benchmarks. Options: {known}")
        for owner in owners:
            options[owner.name][rest] = value
    return options
