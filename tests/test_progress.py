"""Lines with the time left, where there is no terminal for a bar."""

import io
import sys

import pytest

from safevlm_hf import progress
from safevlm_hf.progress import Countdown, Progress


@pytest.fixture
def clock(monkeypatch):
    """The time, to be set by hand."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.now)
    return Clock


def test_long_work_says_at_once_how_long_and_then_now_and_again(clock):
    countdown = Countdown(total=20, done=10)  # resumed
    lines = []
    for done in range(11, 21):
        clock.now += 4.0
        lines.append(countdown.line(done))
    assert lines[0] == "11 of 20, 00:36 left"
    assert lines[1:] == [None, None, "14 of 20, 00:24 left"] + [None, None, "17 of 20, 00:12 left"] + [
        None,
        None,
        "20 of 20, 00:00 left",
    ]


def test_short_work_says_nothing(clock):
    countdown = Countdown(total=3)
    for done in (1, 2, 3):
        clock.now += 2.0
        assert countdown.line(done) is None


def test_lines_in_a_log_file_and_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(progress, "INTERVAL", 0.0)

    def work(**options):
        with Progress(4, "answering", "record", **options) as bar:
            for _ in range(2):
                bar.update(2)

    work()
    assert capsys.readouterr().err.splitlines() == ["answering: 2 of 4, 00:00 left", "answering: 4 of 4, 00:00 left"]
    work(is_shown=False)
    assert capsys.readouterr() == ("", "")
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    work()
    assert "answering: 100%" in terminal.getvalue() and " left" not in terminal.getvalue()
