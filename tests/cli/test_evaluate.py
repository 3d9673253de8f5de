"""`safevlm evaluate` as a user types it."""

import json
import re
import shutil
from pathlib import Path

import pytest
from support.judge_server import JudgeServer, error
from support.standins import STANDINS

from safevlm_cli.judges import is_near as near
from safevlm_cli.judges import read_judges
from safevlm_hf.benchmarks import BENCHMARKS
from safevlm_hf.data import NANO_BASE
from safevlm_hf.evaluation import report
from safevlm_hf.evaluation.judges.endpoint import PROBE


pytestmark = pytest.mark.usefixtures("few_draws")


@pytest.mark.ci
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


@pytest.mark.ci
def test_the_first_figures_are_shown_and_all_on_request(call, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "MAX_ROWS", 2)
    STANDINS["vlguard"](tmp_path / "data")
    words = [
        "--model",
        checkpoint,
        "--benchmark",
        "vlguard",
        "--data",
        tmp_path / "data",
        "--output",
        tmp_path / "out",
    ]
    code, out, err = call("evaluate", *words, "--max-new-tokens", 4)
    assert code == 0, err
    assert "attack success rate" in out and "flagged rate" not in out
    assert re.search(r"\d+ more figures: in the report, or here with `--all`", out)
    code, out, err = call("evaluate", *words, "--max-new-tokens", 4, "--all")
    assert code == 0 and "flagged rate" in out and "more figures" not in out, err


def without_weights(checkpoint, folder):
    """The checkpoint as far as it can be read before it is loaded."""
    return shutil.copytree(checkpoint, folder / "no weights", ignore=shutil.ignore_patterns("*.safetensors"))


def test_judges_are_checked_before_a_model_is_loaded(fails, checkpoint, tmp_path):
    pytest.importorskip("openai")
    for name in ("rtvlm", "vlguard"):
        STANDINS[name](tmp_path / "data" / name)
    words = [
        "--model",
        without_weights(checkpoint, tmp_path),
        "--data",
        tmp_path / "data",
        "--output",
        tmp_path / "out",
    ]
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


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--model", "{}/none"], "there is no checkpoint"),
        (["--base", "{}/none"], "there is no checkpoint"),
        (["--policy", "{}/none.json"], "none.json' does not exist"),
        (["--policy", "{}/policy.json"], "risk_treshold"),
        (["--output", "{}/policy.json"], "policy.json` is a file, expected a folder"),
        (["--judge-model", "m", "--judge-key", "KEY"], "key is of a server, and there is no `--judge-url`"),
        (["--judge-url", "http://localhost:1"], "name it with `--judge-model`"),
        (["--judges", "{}/policy.json"], "expected a list with a mapping per judge"),
    ],
)
def test_what_names_a_system_is_checked_before_data_and_model(fails, checkpoint, tmp_path, words, reason):
    (tmp_path / "policy.json").write_text('{"risk_treshold": 0.5}')
    words = [word.format(tmp_path) for word in words]
    model = [] if "--model" in words else ["--model", without_weights(checkpoint, tmp_path)]
    line = fails("evaluate", "--benchmark", "vlguard", "--data", tmp_path / "no data", *model, *words)
    assert reason in line and "no data" not in line


@pytest.mark.ci
def test_the_shipped_policy_stands_beside_another_one(call, checkpoint, tmp_path):
    (tmp_path / "loose.json").write_text('{"risk_threshold": 0.99}')
    words = ["--model", checkpoint, "--option", "size=8", "--max-new-tokens", 4, "--data", tmp_path / "data"]
    code, out, err = call("evaluate", *words, "--policy", tmp_path / "loose.json", "--output", tmp_path / "out")
    assert code == 0, err
    folders = {path.parent.name for path in (tmp_path / "out").glob("*/*/results.json")}
    assert folders == {"verdict-off", "verdict-on-shipped-policy", "verdict-on-policy-loose.json"}
    assert "clean exact match" in out and "pairs both right" in out


@pytest.mark.ci
def test_each_judge_of_a_file_is_asked_where_its_prompt_fits(call, fails, checkpoint, tmp_path):
    pytest.importorskip("openai")
    for name in ("rtvlm", "vlguard"):
        STANDINS[name](tmp_path / "data" / name)
    words = ["--model", checkpoint, "--data", tmp_path / "data", "--output", tmp_path / "out", "--max-new-tokens", 4]
    words += ["--benchmark", "rtvlm,vlguard", "--option", "mode=zero-shot", "--judges", tmp_path / "judges.yaml"]

    def judges(server, *entries):
        url = f"model: m, url: '{server.url}'"
        (tmp_path / "judges.yaml").write_text("".join(f"- {{{url}, {entry}}}\n" for entry in entries))

    with JudgeServer(reply="safe") as server:
        judges(server, "prompt: harm", "prompt: score-rtvlm, options: {max_tokens: null, max_completion_tokens: 9}")
        code, out, err = call("evaluate", *words)
        assert code == 0, err
        sent = [body for _, body in server.bodies]
        assert {"max_completion_tokens" in one for one in sent} == {True, False}
        judges(server, "prompt: harm, concurency: 3")
        assert "'concurency' is no field of a judge" in fails("evaluate", *words)
        judges(server, "prompt: harm, concurrency: many")
        assert "`concurrency` is 'many', which is of another type" in fails("evaluate", *words)
        judges(server, "prompt: harm", "prompt: harm")
        assert "two judges are called 'm (harm)'" in fails("evaluate", *words)
    assert "vlguard/test/all: not judged by m (score-rtvlm), whose prompt is for other items" in out
    judged = {}
    for path in (tmp_path / "out").glob("*/verdict-off/results.json"):
        figures = json.loads(path.read_text())["figures"]
        judged[path.parts[-3].split("-")[0]] = {one["judge"] for one in figures if "m (" in str(one["judge"])}
    assert judged == {"rtvlm": {"m (harm)", "m (score-rtvlm)"}, "vlguard": {"m (harm)"}}


def test_the_judges_of_the_docs_can_be_read(tmp_path):
    docs = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    (tmp_path / "judges.yaml").write_text(docs.partition("```yaml\n")[2].partition("```")[0])
    assert [entry["prompt"] for entry in read_judges(tmp_path / "judges.yaml")] == ["harm", "score-rtvlm", "refusal"]


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
    assert near(url) is is_near


def test_list_names_each_benchmark(call):
    code, out, _ = call("evaluate", "--list")
    assert code == 0 and "mm_safetybench: MM-SafetyBench\n" in out
    assert out.count("    licence: ") == out.count("    where to get: ") == len(BENCHMARKS) >= 19


def test_what_to_do_about_missing_pictures_comes_before_their_long_paths(fails, checkpoint, tmp_path):
    data = tmp_path / "/".join(["a long name of a folder" * 8] * 4)
    STANDINS["mme"](data)
    for path in data.rglob("*.jpg"):
        path.unlink()
    line = fails("evaluate", "--model", checkpoint, "--benchmark", "mme", "--data", data)
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
def test_bad_options_are_one_line_before_a_model_is_loaded(fails, checkpoint, words, reason, tmp_path):
    model, data = without_weights(checkpoint, tmp_path), tmp_path / "data"
    data.mkdir()
    assert re.search(reason, fails("evaluate", "--model", model, "--data", data, *words))
