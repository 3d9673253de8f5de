"""The command line as a whole: help, errors, colours, and the exit code."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer
from command_line import ROOT, run_alone, start, write_json

import safevlm_hf
from safevlm_cli import app
from safevlm_cli.app import reason_of
from safevlm_hf import quiet
from safevlm_hf.data import NANO_BASE


def commands() -> list[list[str]]:
    found = []
    for name, command in typer.main.get_command(app).commands.items():
        found += [[name, inner] for inner in command.commands] if hasattr(command, "commands") else [[name]]
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_has_help_with_an_example(call, words):
    code, out, err = call(*words, "--help")
    assert (code, err) == (0, "")
    assert f"Example: safevlm {' '.join(words)} " in out


@pytest.mark.ci
def test_help_comes_at_once_and_alone():
    """In a second each, and without the library, whose import takes many and brings notes of others."""
    lines = ["--help", "--version", *(" ".join([*words, "--help"]) for words in commands())]
    assert "[] True" == run_alone(lines, seconds=len(lines)).splitlines()[-1]


@pytest.mark.ci
@pytest.mark.parametrize("module", ["safevlm_cli", "safevlm_hf"])
def test_modules_are_the_program_too(module):
    command = [sys.executable, "-m", module, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT / "src")
    assert done.returncode == 0 and done.stdout == f"{safevlm_hf.__version__}\n"


@pytest.mark.parametrize("words", [[], ["policy"]], ids=["safevlm", "policy"])
def test_without_a_command_it_is_the_help(call, words):
    code, out, err = call(*words)
    assert code in (0, 2) and err == "" and "Commands" in out  # which of them, is up to typer's version


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["asess", "x.png"], "No such command 'asess'."),
        (["assess", "--foo"], "No such option: --foo. See `"),
        (["assess"], "Missing argument"),
        (["assess", "x.png", "--debug"], "No such option: --debug"),
        (["assess", "x.png", "--model", "/no/such/folder"], "there is no checkpoint /no/such/folder"),
        (["assess", "x.png", "--model", NANO_BASE], "untrained safety head"),
        (["chat", "--image", "no[/].png"], "image not found: no[/].png"),
        (["chat", "--max-new-tokens", "0"], "max-new-tokens"),
        (["train", "--stage", "3"], "`--stage` must be 1, 2 or both, got '3'"),
        (["train", "--lora_rank", "3"], "--lora_rank"),
        (["train", "--num_riskcards", "[red]"], "invalid int value: '[red]'"),
        (["train", "--lora_r", "abc"], "invalid int value: 'abc'"),
        (["train", "run.yaml"], "A YAML file is for one stage"),
        (["calibrate"], "Name one target"),
        (["calibrate", "--target-miss-rate", "0.1", "--target-false-positive-rate", "0.1"], "Name one target"),
        (["calibrate", "--target-miss-rate", "3"], "target-miss-rate"),
        (["policy", "check", "[red].json"], "'[red].json' does not exist"),
        (["policy", "check", "."], "'.' is a directory"),
        (["assess", "x.png", "--policy", "[red].json"], "'[red].json' does not exist"),
        (
            ["card", "--model", ".", "--results", "[red].json"],
            "there are no results in [red].json: `safevlm evaluate` makes them",
        ),
        (["data", "check", "[red].jsonl"], "'[red].jsonl' does not exist"),
        (["data", "mix", "mixed", "--stage", "1"], "no risky records without a source"),
        (["calibrate", "--target-miss-rate", "0.1", "--output", "."], ". is a folder, expected a file"),
        (["init", NANO_BASE, "/proc/none"], "/proc/none cannot be written: /proc: "),
        (["train", "--output_dir", "/proc/none"], "/proc/none cannot be written: /proc: "),
        (["train", "--trian_file", "x"], "unknown option --trian_file in the command line; is it --train_file?"),
        (["train", "--stage", "1", "[red].yaml"], "[red].yaml: no such file or directory"),
        (["train", "--train_file", "[red].jsonl"], "[red].jsonl"),
        (["policy", "show", "--model", "./nothing"], "there is no checkpoint ./nothing"),
    ],
    ids=lambda value: " ".join(map(str, value))[-60:] if isinstance(value, list) else "",
)
def test_errors_take_one_line(fails, tmp_path, monkeypatch, words, reason):
    monkeypatch.chdir(tmp_path)  # away from what its user has trained into `runs`
    assert reason in fails(*words)


def test_debug_shows_the_traceback(call, tmp_path):
    code, out, err = call("--debug", "policy", "check", write_json(tmp_path / "policy.json", []))
    assert (code, out) == (2, "")
    assert err.startswith("Traceback") and "ValueError" in err


def test_reasons():
    assert reason_of(ValueError("two\n\n  lines")) == "two lines"
    assert reason_of(KeyError("name")) == "KeyError: 'name'" and reason_of(OSError()) == "OSError:"
    assert reason_of(OSError(28, "No space left on device", "run.json")) == "run.json: no space left on device"
    assert reason_of(OSError(28, "No space left on device")) == "no space left on device"
    assert "safevlm_hf[train]" in reason_of(ModuleNotFoundError("No module named 'peft'"))
    long = reason_of(ValueError("3000 bad records:\n" + "- a.jsonl:1: broken\n" * 3000))
    assert len(long) <= 1000 and long.endswith("... (`safevlm --debug` shows all of it)")


@pytest.mark.parametrize("words", [["--help"], ["policy", "show", "--model", NANO_BASE], ["foo"]], ids=lambda w: w[0])
def test_colours_only_where_they_are_wanted(call, monkeypatch, words):
    assert "\x1b" not in "".join(call(*words)[1:])
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    monkeypatch.setattr(typer.rich_utils, "FORCE_TERMINAL", True)
    assert "\x1b[" in "".join(call(*words)[1:])
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in "".join(call(*words)[1:])


@pytest.mark.ci
@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_a_closed_stream_is_no_error(closed):
    command = f"{sys.executable} -m safevlm_cli --version {closed}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=ROOT / "src")
    assert done.returncode == 0 and not done.stderr


def test_an_interrupt_is_told(call, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("safevlm_hf.checkpoints.loading.read_safety", interrupted)
    assert call("policy", "show") == (130, "", "Interrupted.\n")


@pytest.mark.ci
@pytest.mark.parametrize("stage", [1, 2])
def test_scripts_tell_errors_in_one_line(tmp_path, stage):
    script = ROOT / "examples" / f"run_stage{stage}.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, script, "--trian_file", "x"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.endswith("Error: unknown option --trian_file in the command line; is it --train_file?\n")


class NoNetwork(Exception):
    __module__ = "httpx2"  # as the Hub's library lets it through, which is no `OSError`


def test_a_hub_that_cannot_be_reached_is_named(fails, monkeypatch):
    def unreached(*_):
        raise NoNetwork("[Errno -2] Name or service not known")

    monkeypatch.setattr("safevlm_hf.checkpoints.loading.read_safety", unreached)
    said = (
        "Error: the Hub cannot be reached: is there a network? What is named must be a folder or file here, or in the "
    )
    said += "cache. ([Errno -2] Name or service not known)"
    assert said in " ".join(fails("policy", "show").split())
    with pytest.raises(SystemExit, match=re.escape(said)), quiet.errors_in_one_line():
        unreached()
    with pytest.raises(ZeroDivisionError), quiet.errors_in_one_line():
        raise ZeroDivisionError


SPEAKING = """
import logging, warnings
from safevlm_hf.quiet import errors_in_one_line, quiet
logging.basicConfig()
with errors_in_one_line():
    {quiet}
    logging.getLogger("bitsandbytes.autograd._functions").warning("MatMul8bitLt: inputs will be cast")
    warnings.warn("will be removed", FutureWarning)
    warnings.warn("kept")
"""


@pytest.mark.ci
@pytest.mark.parametrize("code", ["pass", "quiet()"])
def test_notes_of_libraries_are_not_shown_in_scripts(code):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", SPEAKING.format(quiet=code)]
    said = subprocess.run(command, capture_output=True, text=True, env=environment).stderr
    assert "UserWarning: kept" in said and "MatMul8bitLt" not in said and "will be removed" not in said


@pytest.mark.ci
@pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is not installed: make test-quantization")
def test_a_command_keeps_to_itself_what_torchao_prints():
    paths = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    command = [sys.executable, "-m", "safevlm_cli", "policy", "show", "--model", NANO_BASE]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_a_file_that_looks_like_an_option(fails, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("-dash.jpg").write_text("")
    assert "A file whose name begins with - goes behind `--`" in fails("assess", "-dash.jpg")


@pytest.mark.ci
def test_a_closed_pipe_is_no_error(checkpoint, picture):
    process = start("assess", *[picture] * 3, "--model", checkpoint, "--json")
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(timeout=60) == 141
    assert not {"Traceback", "BrokenPipeError", "Error:"} & set(err.split())
    for stream in (process.stdin, process.stderr):
        stream.close()
