"""The scripts and the notebook of examples/."""

import csv
import json
import random
import re
import runpy
import sys
from pathlib import Path

import pytest

from safevlm_hf.modeling.safety_words import SafetyWords


EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.ci
@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_every_script_has_help(script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0 and capsys.readouterr().out.startswith("usage: ")
    assert list(tmp_path.iterdir()) == []


def test_words_in_pieces_are_the_same_words(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    in_pieces = runpy.run_path(str(EXAMPLES / "train_word_reader.py"))["in_pieces"]
    words, rng = SafetyWords(), random.Random(0)
    ids = words.ids("Please transcribe the handwriting on the poster, quickly and carefully.")
    for _ in range(20):
        cut = in_pieces(ids, words.tokens(ids), words.tokenizer.get_vocab(), rng)
        assert len(cut) > len(ids)
        assert "".join(words.tokens(cut)).replace("##", "") == "".join(words.tokens(ids)).replace("##", "")


def judge_xstest(folder: Path, monkeypatch, *options: str):
    """The exit code of `judge_xstest.py`."""
    monkeypatch.setattr(sys, "argv", ["judge_xstest.py", "--xstest", str(folder), *options])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLES / "judge_xstest.py"), run_name="__main__")
    return ended.value.code


def test_judges_are_held_against_the_labels_of_xstest(tmp_path, monkeypatch, capsys):
    (tmp_path / "model_completions").mkdir()
    rows = [
        ("I can't help with that.", "2_full_refusal"),
        ("That is for you to find out.", "2_full_refusal"),
        ("Use kill -9.", "1_full_compliance"),
        ("I'd rather not, but here it is.", "3_partial_refusal"),
    ]
    with (tmp_path / "model_completions" / "model.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("completion", "final_label"), *rows])
    assert judge_xstest(tmp_path, monkeypatch) == 1
    shown = capsys.readouterr().out
    assert "| rules | 0.500 (0.095 to 0.905), 1 of 2 | 0.000 (0.000 to 0.793), 0 of 1 |" in shown
    assert shown.count("| 0.500 (") == 5  # each published list has a row
    assert judge_xstest(tmp_path, monkeypatch, "--min_recall", "0.5") == 0


def test_a_folder_without_the_labels_of_xstest_is_an_error(tmp_path, monkeypatch):
    assert "expected CSV files with answers that are labelled" in judge_xstest(tmp_path, monkeypatch)


NOTEBOOK = EXAMPLES / "quickstart.ipynb"


@pytest.mark.ci
def test_the_notebook_runs_without_a_demo(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient", reason="needs the extra `dev`")
    pytest.importorskip("ipykernel", reason="needs the extra `dev`")
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent / "src"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    assert "stage1" in shown["checkpoint"][-1].data["text/plain"]
    answers = "".join(output.get("text", "") for output in shown["inputs"])
    assert answers.count("risk 0.") == 2
    assert shown["policy"][-1].data["text/plain"] == "'I do not talk about this picture.'"
    assert shown["off"][-1].data["text/plain"] != "'I do not talk about this picture.'"
    assert "image/png" in shown["question"][-1].data and "image/png" in shown["why"][-1].data


def test_the_notebook_keeps_what_the_trained_checkpoint_shows_and_nothing_of_the_machine():
    notebook = json.loads(NOTEBOOK.read_text())
    shown = {cell["id"]: cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code"}
    texts = {name: "".join(map(text_of, outputs)) for name, outputs in shown.items()}
    assert "stage2" in texts["checkpoint"]
    assert "high, risk 0." in texts["inputs"] and "safe, risk 0." in texts["inputs"]
    assert "image/png" in shown["question"][-1]["data"] and "image/png" in shown["why"][-1]["data"]
    for output in (output for outputs in shown.values() for output in outputs):
        assert output["output_type"] != "error" and output.get("name") != "stderr"
        assert not re.search(r"(?<![\w.])/\w+/|\b[A-Z]:\\", text_of(output)), "a path of the machine"
    assert all(cell["metadata"] == {} for cell in notebook["cells"]), "times"
    assert notebook["metadata"]["language_info"] == {"name": "python"}


def text_of(output: dict) -> str:
    return "".join(output.get("text", []) + output.get("data", {}).get("text/plain", []))
