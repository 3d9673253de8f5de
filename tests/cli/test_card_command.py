"""`safevlm card` and `safevlm data overlap` as a user types them, after a run of `safevlm evaluate`."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from support.standins import STANDINS

from safevlm_hf.benchmarks import load_benchmark
from safevlm_hf.data import NANO_BASE


pytestmark = pytest.mark.ci  # evaluates two benchmarks first


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    return tmp_path_factory.mktemp("evaluation")


@pytest.fixture
def evaluated(call, checkpoint, evaluation, tmp_path):
    """A checkpoint of this test's own, and the results of one run on it, made once."""
    if not (evaluation / "out").exists():
        STANDINS["pope"](evaluation / "pope")
        words = ["--benchmark", "pope", "--data", evaluation / "pope", "--output", evaluation / "out"]
        code, _, err = call("evaluate", "--model", checkpoint, "--base", NANO_BASE, *words, "--max-new-tokens", 4)
        assert code == 0, err
    return Path(shutil.copytree(checkpoint, tmp_path / "checkpoint")), evaluation / "out"


def overlap(call, evaluation, tmp_path):
    question = load_benchmark("pope", evaluation / "pope").items[0].question
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": "Yes."}]
    record = {"messages": turns, "images": []}
    train, other = tmp_path / "train.jsonl", tmp_path / "other.jsonl"
    train.write_text(json.dumps(record) + "\n")
    turns[0]["content"] = "A question that nobody asks."
    other.write_text(json.dumps(record) + "\n")
    words = ["--benchmark", "pope", "--data", evaluation / "pope", "--output", tmp_path / "overlap.json"]
    return call("data", "overlap", other, train, *words)


def test_results_and_overlap_in_the_card(call, evaluated, evaluation, tmp_path):
    folder, results = evaluated
    code, out, err = overlap(call, evaluation, tmp_path)
    assert "other.jsonl: items that share something with it: 0\n" in out and "train.jsonl: items" in out
    assert code == 0 and "train.jsonl:1" in out and out.endswith(f"matches: {tmp_path / 'overlap.json'}\n"), err
    words = ["card", "--model", folder, "--results", results, "--overlap", tmp_path / "overlap.json"]
    code, out, err = call(*words)
    assert code == 0, err
    assert "pope/all: verdict off" in out and "left out, another system than this checkpoint: base" in out
    card = ModelCard.load(folder / "README.md")
    assert "## Evaluation" in card.text and card.text.index("## Evaluation") < card.text.index("## Limits")
    assert "`train.jsonl` (SHA-256 " in card.text and "`other.jsonl` (SHA-256 " in card.text
    assert card.data.eval_results and (folder / ".eval_results" / "pope.yaml").exists()
    before = {path: path.read_bytes() for path in (folder / "README.md", folder / ".eval_results" / "pope.yaml")}
    assert call(*words)[0] == 0
    assert before == {path: path.read_bytes() for path in before}


def test_every_mistake_is_one_line_and_changes_nothing(fails, evaluated, tmp_path):
    folder, results = evaluated
    before = (folder / "README.md").read_bytes()
    assert "expected results.json files in it" in fails(
        "card", "--model", folder, "--results", tmp_path / "checkpoint"
    )
    assert "there are no results in" in fails("card", "--model", folder, "--results", tmp_path / "results.json")
    assert "folder of a checkpoint" in fails("card", "--model", "org/name", "--results", results)
    (only_base,) = results.glob("*/base")
    assert "none of 1 results is of the checkpoint" in fails("card", "--model", folder, "--results", only_base)
    (only_off,) = results.glob("*/verdict-off")
    assert "verdict off and on" in fails("card", "--model", folder, "--results", only_off)
    settings = folder / "generation_config.json"
    settings.write_text(settings.read_text() + "\n")
    line = fails("card", "--model", folder, "--results", results)
    assert "the hash of its weights and settings is" in line and "the chat template is the same" in line
    assert (folder / "README.md").read_bytes() == before and not (folder / ".eval_results").exists()


def test_bad_words_of_an_overlap(fails, evaluation, tmp_path):
    (tmp_path / "train.jsonl").write_text("{}\n")
    STANDINS["xstest"](tmp_path / "xstest")
    words = ["--benchmark", "xstest", "--data", tmp_path / "xstest"]
    assert "needs either" in fails("data", "overlap", tmp_path / "train.jsonl", *words)
    assert "nothing.jsonl' does not exist" in fails("data", "overlap", tmp_path / "nothing.jsonl", *words)
    assert "no benchmark 'x'" in fails("data", "overlap", tmp_path / "train.jsonl", "--benchmark", "x", "--data", ".")
    assert "expected NAME=VALUE" in fails("data", "overlap", tmp_path / "train.jsonl", *words, "--option", "a=b")
