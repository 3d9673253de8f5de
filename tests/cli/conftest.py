"""Running `safevlm ...` in this process, and a checkpoint for it."""

import io
import signal
import sys
from dataclasses import dataclass

import pytest
import typer
from PIL import Image
from support.private_checkpoint import save_private
from transformers import logging

from safevlm_cli import main
from safevlm_hf.intervals.bootstrap import Bootstrap


@pytest.fixture(autouse=True)
def library(monkeypatch):
    """What a command sets for its process is set back; the terminal of the tests does not matter."""
    for name in ("NO_COLOR", "FORCE_COLOR", "SAFEVLM_AUDIT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(typer.rich_utils, "COLOR_SYSTEM", "auto")
    verbosity, handler = logging.get_verbosity(), signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)
    logging.set_verbosity(verbosity)
    logging.enable_progress_bar()


@dataclass(frozen=True)
class FewDraws(Bootstrap):
    """Intervals of a thousand draws take most of a small run's time."""

    num_resamples: int = 20


@pytest.fixture
def few_draws(monkeypatch):
    monkeypatch.setattr("safevlm_hf.intervals.bootstrap.Bootstrap", FewDraws)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    return save_private(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "card.png"
    Image.new("RGB", (60, 40), "white").save(path)
    return path


@pytest.fixture
def call(monkeypatch, capsys):
    """Run `safevlm ...` in this process; gives the exit code, stdout and stderr."""

    def call(*words, stdin=""):
        monkeypatch.setattr(sys, "argv", ["safevlm", *map(str, words)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, *capsys.readouterr()

    return call


@pytest.fixture
def fails(call):
    """Run `safevlm ...`, which must end with one line on stderr, or with one per bad record below it, and nothing on
    stdout; gives the text."""

    def fails(*words):
        code, out, err = call(*words)
        assert (code, out) == (2, ""), (code, out, err)
        line, *records = err.splitlines()
        assert line.startswith("Error: ")
        assert not records or "bad record" in line, err
        return err

    return fails
