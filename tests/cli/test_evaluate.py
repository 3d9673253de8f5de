"""`safevlm evaluate` as a user types it."""

import json

import pytest
from standins import STANDINS

from safevlm_hf.data import NANO_BASE
from safevlm_hf.evaluation.benchmarks import BENCHMARKS


def test_a_benchmark_of_ability_and_one_of_safety(call, checkpoint, tmp_path):
    for name in ("pope", "vlguard"):
        STANDINS[name](tmp_path / "data" / name)
    words = ["--benchmark", "pope,vlguard", "--data", tmp_path / "data", "--output", tmp_path / "out"]
    code, out, err = call("evaluate", "--model", checkpoint, "--base", NANO_BASE, *words, "--max-new-tokens", 4)
    assert code == 0, err
    results = {
        path.parent.name: json.loads(path.read_text()) for path in (tmp_path / "out").glob("pope*/*/results.json")
    }
    assert set(results) == {"base", "verdict-off", "verdict-on-shipped-policy"}
    assert len({one["protocol_hash"] for one in results.values()}) == 1
    assert {path.parent.name for path in (tmp_path / "out").glob("vlguard*/*/results.json")} == {
        "base",
        "verdict-on-shipped-policy",
    }
    assert "flagged rate" in out and (tmp_path / "out" / "report.html").exists()
    assert results["verdict-on-shipped-policy"]["system"]["policy"] is not None


def test_list_names_each_benchmark(call):
    code, out, _ = call("evaluate", "--list")
    assert code == 0 and "mm_safetybench: MM-SafetyBench\n" in out
    assert out.count("    licence: ") == out.count("    where to get: ") == len(BENCHMARKS) >= 19


def test_what_to_do_about_missing_pictures_comes_before_their_long_paths(fails, tmp_path):
    data = tmp_path / "/".join(["a long name of a folder" * 8] * 4)
    STANDINS["mme"](data)
    for path in data.rglob("*.jpg"):
        path.unlink()
    line = fails("evaluate", "--model", tmp_path / "no model", "--benchmark", "mme", "--data", data)
    assert "56 of 56 items have a picture that is missing" in line
    assert "`--skip-missing`" in line and BENCHMARKS["mme"].where_to_get in line and "existence/0000/yes: " in line


@pytest.mark.parametrize(
    "words, reason",
    [
        (["--benchmark", "nothing"], "there is no benchmark 'nothing'"),
        (["--benchmark", "vlguard"], "missing|expected|found"),
        (["--option", "colour=red"], "expected NAME=VALUE"),
        (["--option", "size"], "expected NAME=VALUE"),
        (["--judge-url", "http://localhost:1/v1"], "name it with `--judge-model`"),
        (["--judge-prompt", "mood"], "expected one of score"),
    ],
)
def test_bad_options_are_one_line_before_a_model_is_loaded(fails, words, reason, tmp_path):
    import re

    assert re.search(reason, fails("evaluate", "--model", tmp_path / "no model", "--data", tmp_path, *words))
