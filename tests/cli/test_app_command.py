"""`safevlm app` as a user types it: what is shown, where, and the exit code."""

import signal
import subprocess
import sys
import urllib.request

import pytest

from safevlm_hf.data import NANO_BASE


@pytest.fixture
def started(monkeypatch):
    """What the page's server is started with."""
    pytest.importorskip("gradio")
    from safevlm_hf.app import server

    started = []
    monkeypatch.setattr(server, "serve", lambda *arguments: started.append(arguments))
    return started


def test_the_page_is_for_this_machine_alone_unless_it_is_told_otherwise(call, checkpoint, started):
    assert call("app", "--model", checkpoint)[0] == 0
    assert call("app", "--model", checkpoint, "--host", "0.0.0.0", "--port", 80, "--max-new-tokens", 9)[0] == 0
    assert call("app", "--model", checkpoint, "--base", NANO_BASE)[0] == 0
    assert [arguments[2:] for arguments in started] == [
        (checkpoint, "127.0.0.1", 7860, 256, None),
        (checkpoint, "0.0.0.0", 80, 9, None),
        (checkpoint, "127.0.0.1", 7860, 256, str(NANO_BASE)),
    ]


def test_a_base_that_is_none_is_said_before_anything_is_loaded(fails, checkpoint, started):
    assert "is a safe checkpoint" in fails("app", "--model", checkpoint, "--base", checkpoint)
    assert "there is no checkpoint ./nope" in fails("app", "--model", checkpoint, "--base", "./nope")
    assert started == []


@pytest.mark.ci
def test_the_address_is_printed_when_the_page_is_there_and_nothing_else_is(checkpoint):
    pytest.importorskip("gradio")
    command = [sys.executable, "-m", "safevlm_cli", "app", "--model", str(checkpoint), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as page:
        line = page.stdout.readline()
        assert line.startswith(f"{checkpoint} on http://127.0.0.1:")
        with urllib.request.urlopen(line.split()[-1]) as answer:
            assert answer.status == 200
        page.send_signal(signal.SIGINT)
        assert page.communicate(timeout=60) == ("", "Interrupted.\n")


def test_without_the_demos_checkpoint_it_says_how_to_make_it(fails, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = fails("app")
    assert "runs/demo/stage2" in line and "`safevlm demo`" in line
