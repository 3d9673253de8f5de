"""`safevlm evaluate` as a user types it."""

import json

import pytest
from judge_server import JudgeServer, error
from standins import STANDINS

from safevlm_cli.evaluate import _is_near
from safevlm_hf.data import NANO_BASE
from safevlm_hf.evaluation.benchmarks import BENCHMARKS
from safevlm_hf.evaluation.judges.endpoint import PROBE


def test_a_benchmark_of_ability_and_one_of_safety(call, checkpoint, tmp_path):
    for name in ("pope", "vlguard"):
        STANDINS[name](tmp_path / "data" / name)
    words = ["--benchmark", "pope,vlguard, pope", "--data", tmp_path / "data", "--output", tmp_path / "out"]
    code, out, err = call("evaluate", "--model", checkpoint, "--base", NANO_BASE, *words, "--max-new-tokens", 4)
    assert code == 0, err
    results = {
        path.parent.name: json.loads(path.read_text()) for path in (tmp_path / "out").glob("pope*/*/results.json")
    }
    assert set(results) == {"base", "verdict-off", "verdict-on-shipped-policy"}
    assert len({one["protocol_hash"] for one in results.values()}) == 1
    assert {path.parent.name for path in (tmp_path / "out").glob("vlguard*/*/results.json")} == set(results)
    for name in ("pope", "vlguard"):
        (path,) = (tmp_path / "out").glob(f"{name}*/comparison.json")
        parts = {figure["part"] for figure in json.loads(path.read_text())["figures"]}
        assert parts == {"less base", "less verdict off"}
    assert out.count("pope/all: base, ") == 1
    assert "flagged rate" in out and (tmp_path / "out" / "report.html").exists()
    assert results["verdict-on-shipped-policy"]["system"]["policy"] is not None
    assert results["base"]["system"]["options"] == {"dtype": "float32", "device": "cpu", "attention": "sdpa"}


def test_a_benchmark_that_is_done_is_shown_and_reported_whatever_follows(call, checkpoint, tmp_path):
    for name in ("xstest", "vlguard"):
        STANDINS[name](tmp_path / "data" / name)
    results = tmp_path / "out" / "vlguard-test-all" / "verdict-on-shipped-policy" / "results.json"
    results.parent.mkdir(parents=True)
    results.write_text("{}")
    words = ["--benchmark", "xstest,vlguard", "--data", tmp_path / "data", "--output", tmp_path / "out"]
    code, out, err = call("evaluate", "--model", checkpoint, *words, "--max-new-tokens", 4)
    assert code == 2 and str(results) in err
    assert "over refusal rate" in out and "xstest" in (tmp_path / "out" / "report.html").read_text().lower()


def test_judges_are_checked_before_a_model_is_loaded(fails, tmp_path):
    pytest.importorskip("openai")
    for name in ("rtvlm", "vlguard"):
        STANDINS[name](tmp_path / "data" / name)
    words = ["--model", tmp_path / "no model", "--data", tmp_path / "data", "--output", tmp_path / "out"]
    words += ["--benchmark", "rtvlm,vlguard", "--option", "mode=zero-shot", "--judge-model", "m"]
    with JudgeServer({PROBE: [error(401)]}) as server:
        judged = [*words, "--judge-url", server.url]
        assert "judge 'm (score-rtvlm)' cannot judge vlguard/test/all: item 'unsafes/" in fails(
            "evaluate", *judged, "--judge-prompt", "score-rtvlm"
        )
        assert server.total() == 0
        line = fails("evaluate", *judged)
        assert "judge 'm (harm)' cannot be asked" in line and "401" in line and "`--judge-key`" in line
        assert server.total() == 1


def test_what_a_judge_costs_is_said_before_a_model_answers(call, checkpoint, tmp_path):
    pytest.importorskip("openai")
    for name in ("xstest", "vlguard"):
        STANDINS[name](tmp_path / "data" / name)
    words = ["--benchmark", "xstest,vlguard", "--data", tmp_path / "data", "--output", tmp_path / "out"]
    words += ["--model", checkpoint, "--max-new-tokens", 4, "--judge-model", "m"]
    with JudgeServer(reply="safe") as server:
        code, out, err = call("evaluate", *words, "--judge-url", server.url)
        assert code == 0, err
        assert server.calls[PROBE] == 1 and server.total() <= 1 + 14
    said = [line for line in out.splitlines() if "at most" in line or " items" in line]
    assert said[0].startswith("all benchmarks: judge m (harm): at most 14 calls (0 judgements are cached), about ")
    assert [line.partition(" calls")[0] for line in said[1:]] == [
        "xstest/text-only: judge m (harm): at most 4",
        *said[2:4],
        "vlguard/test/all: judge m (harm): at most 10",
        *said[5:7],
    ]


def test_a_win_rate_over_the_published_answers(call, fails, checkpoint, tmp_path):
    pytest.importorskip("openai")
    for name in ("vlguard", "xstest"):
        STANDINS[name](tmp_path / "data" / name)
    words = ["--model", checkpoint, "--data", tmp_path / "data", "--output", tmp_path / "out", "--max-new-tokens", 4]
    with JudgeServer(reply="tie") as server:
        words += ["--judge-model", "m", "--judge-url", server.url, "--judge-prompt", "preference"]
        line = fails("evaluate", *words, "--benchmark", "xstest")
        assert "has no published answer" in line and "--judge-prompt" in line and server.total() == 0
        code, out, err = call("evaluate", *words, "--benchmark", "vlguard", "--option", "part=safe_safes")
    assert code == 0, err
    (path,) = (tmp_path / "out").glob("vlguard*/verdict-on*/results.json")
    figures = [one for one in json.loads(path.read_text())["figures"] if one["judge"] == "m (preference)"]
    assert [(one["name"], one["value"]) for one in figures] == [("win_rate", 0.5)]
    assert "win rate" in out and "win rate" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("url", "is_near"),
    [
        ("http://localhost:8000/v1", True),
        ("http://127.0.0.1:8000/v1", True),
        ("http://[::1]:8000/v1", True),
        ("http://10.0.0.7/v1", True),
        ("http://node7:8000/v1", True),
        ("https://api.example.com/v1", False),
        ("https://8.8.8.8/v1", False),
    ],
)
def test_only_judges_nearby_go_without_a_key(url, is_near):
    assert _is_near(url) is is_near


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
        (["--judge-model", "m", "--judge-url", "https://api.example.com/v1"], "needs a key: expected `--judge-key`"),
        (["--judge-prompt", "mood"], "expected one of score"),
    ],
)
def test_bad_options_are_one_line_before_a_model_is_loaded(fails, words, reason, tmp_path):
    import re

    assert re.search(reason, fails("evaluate", "--model", tmp_path / "no model", "--data", tmp_path, *words))
