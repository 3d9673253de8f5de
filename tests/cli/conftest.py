"""Running `safevlm ...` in this process, and a checkpoint for it."""

import io
import sys

import pytest
import torch
import typer
from PIL import Image
from tiny_training import NANO_SAFETY
from transformers import logging

from safevlm_hf import SafeLlavaForConditionalGeneration, SafeLlavaProcessor
from safevlm_hf.cli import main
from safevlm_hf.data import NANO_BASE


@pytest.fixture(autouse=True)
def library(monkeypatch):
    """What a command sets for its process is set back; the terminal of the tests does not matter."""
    for name in ("NO_COLOR", "FORCE_COLOR", "SAFEVLM_AUDIT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(typer.rich_utils, "COLOR_SYSTEM", "auto")
    verbosity = logging.get_verbosity()
    yield
    logging.set_verbosity(verbosity)
    logging.enable_progress_bar()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """The nano base with a head that finds a high risk of privacy in every picture."""
    torch.manual_seed(0)
    model = SafeLlavaForConditionalGeneration.from_pretrained(NANO_BASE, safety_config=NANO_SAFETY)
    processor = SafeLlavaProcessor.from_pretrained(NANO_BASE, safety_config=model.config.safety_config)
    model.config.safety_config.is_trained = True
    head = model.model.safety_head
    with torch.no_grad():
        for linear, answer in ((head.level_head, 3), (head.category_head, 4)):
            linear.weight.zero_()
            linear.bias.zero_()
            linear.bias[answer] = 9.0
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


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
    """Run `safevlm ...`, which must end with one line on stderr and nothing on stdout; gives the line."""

    def fails(*words):
        code, out, err = call(*words)
        assert (code, out) == (2, ""), (code, out, err)
        (line,) = err.splitlines()
        assert line.startswith("Error: ")
        return line

    return fails
