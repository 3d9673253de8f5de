"""The stand-ins as a command: somebody who has no benchmark tries `safevlm evaluate` on them."""

import subprocess
import sys
from pathlib import Path

import pytest
from support import standins

from safevlm_hf.benchmarks import BENCHMARKS, load_benchmark


@pytest.mark.ci
def test_the_program_writes_every_benchmark_into_a_folder_of_its_name(tmp_path):
    words = [sys.executable, standins.__file__, "copies"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    copies = Path("copies")
    assert {line.partition(" (files: ")[0] for line in done.stdout.splitlines()} == {
        str(copies / name) for name in BENCHMARKS
    }
    assert f"{copies / 'xstest'} (files: 1)\n" in done.stdout
    for name in BENCHMARKS:
        kept = tmp_path / "kept"
        assert load_benchmark(name, tmp_path / copies / name, skip_missing=True, cache_dir=kept).items, name


def test_a_wrong_call_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in ([], ["a", "b"], ["--help"]):
        assert standins.main(words) == 2
        assert "usage: python tests/support/standins.py FOLDER" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
