"""`safevlm demo` as a user types it: what is shown, where, and the exit code."""

import os

import pytest

import safevlm_hf.demo.run
from safevlm_cli.demo import WAITING


@pytest.fixture
def called(monkeypatch):
    """What the demo is called with, and how threads wait then."""
    for name in WAITING:
        monkeypatch.setenv(name, "")  # so that it is set back
        monkeypatch.delenv(name)
    called = []
    monkeypatch.setattr(
        safevlm_hf.demo.run, "main", lambda words: called.append((words, os.environ["OMP_WAIT_POLICY"])) or 1
    )
    return called


def test_demo(call, called, tmp_path):
    code, out, err = call("demo", "--seed", 2, "--output_dir", tmp_path, "--report", "r.html")
    assert (code, out, err) == (1, "", "")
    assert called == [
        (["--seed", "2", "--family", "llava", "--output_dir", str(tmp_path), "--report", "r.html"], "PASSIVE")
    ]


def test_demos_of_other_extents(call, fails, called, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")  # a user's own choice
    assert call("demo", "--fast")[0] == call("demo", "--full")[0] == 1
    assert call("demo", "--family", "idefics3")[0] == 1
    asked = [["--family", "llava", "--fast"], ["--family", "llava", "--full"], ["--family", "idefics3"]]
    assert called == [(["--seed", "0", *words], "ACTIVE") for words in asked]
    assert "name one" in fails("demo", "--fast", "--full")
    called.clear()
    assert call("demo", "--all")[0] == 1 and called.pop()[0][-1] == "--all"
    assert call("demo", "--overwrite_output_dir")[0] == 1 and called[0][0][-1] == "--overwrite_output_dir"


def test_the_result_of_an_earlier_demo_stays(fails, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "figures.json").write_text("{}")
    (tmp_path / "report.html").write_text("")
    for words, name in ([["--output_dir", "run"], "run"], [[], "report.html"]):
        line = fails("demo", *words)
        assert f"{name} is there already: `--overwrite_output_dir` replaces it, another `--" in line
