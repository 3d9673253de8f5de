"""The scripts and the notebook of examples/."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest


EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_every_script_has_help(script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0 and capsys.readouterr().out.startswith("usage: ")
    assert list(tmp_path.iterdir()) == []


NOTEBOOK = EXAMPLES / "quickstart.ipynb"


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
