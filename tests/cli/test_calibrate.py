"""`safevlm calibrate` as a user types it: what is shown, where, and the exit code."""

import json
from pathlib import Path

import pytest
import torch
from command_line import rows
from transformers import AutoModel, AutoProcessor

from safevlm_hf.data.riskcards import write_riskcards


pytestmark = pytest.mark.ci  # calibrates on a hundred cards, several times


@pytest.fixture
def unsure(checkpoint, tmp_path):
    """A checkpoint whose verdicts differ, for nothing is calibrated where all are alike."""
    model = AutoModel.from_pretrained(checkpoint)
    with torch.no_grad():
        for linear in (model.model.safety_head.level_head, model.model.safety_head.category_head):
            linear.weight.normal_(std=0.5)
            linear.bias.zero_()
    model.save_pretrained(tmp_path / "unsure")
    AutoProcessor.from_pretrained(checkpoint).save_pretrained(tmp_path / "unsure")
    return tmp_path / "unsure"


def test_calibrate(call, fails, unsure, picture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = write_riskcards(tmp_path / "cards", "test", 100, seed=0)
    files = ["--output", "made/policy.json", "--report", "made/report.html"]
    code, out, _ = call("calibrate", "--model", unsure, "--data", data, "--target-false-positive-rate", 0.4, *files)
    assert code == 0 and out.endswith("policy: made/policy.json   report: made/report.html\n")
    thresholds = json.loads(Path("made/policy.json").read_text())["thresholds"]
    assert thresholds and all(len(str(value)) < 14 for value in thresholds.values())  # not 0.05000000074505806
    assert set(rows(out)) >= {"clean samples flagged", "risky samples missed"}
    assert "safevlm calibrate --model" in Path("made/report.html").read_text()
    policy = json.loads(Path("made/policy.json").read_text())
    assert set(policy) == {"thresholds", "temperatures"} and len(policy["thresholds"]) == 6
    assert call("policy", "check", "made/policy.json", "--model", unsure)[0] == 0
    assert call("assess", picture, "--model", unsure, "--policy", "made/policy.json")[0] in (0, 1)
    assert not list(Path("made").glob(".*"))

    # An operator's policy is started from where it is named, and never replaced unasked.
    words = ["calibrate", "--model", unsure, "--data", data, "--target-false-positive-rate", 0.4, *files]
    assert "made/policy.json is there already: `--policy made/policy.json` starts from it" in fails(*words)
    Path("made/policy.json").write_text('{"language": "de", "review_thresholds": {"*": 0.9}}')
    again = [*words, "--policy", "made/policy.json"]
    assert "made/report.html is there already: `--overwrite` replaces it, another `--report` keeps it" in fails(*again)
    code, out, _ = call(*again, "--report", "made/second.html")
    policy = json.loads(Path("made/policy.json").read_text())
    assert code == 0 and policy["language"] == "de" and len(policy["thresholds"]) == 6
    assert "its review band is left out" in out

    record = json.loads(data.read_text().splitlines()[0])
    (data.parent / "bad.jsonl").write_text(json.dumps(record | {"safety_category": "[red]x", "safe_type": "[red]x"}))
    words = ["calibrate", "--model", unsure, "--target-miss-rate", 0.4]
    assert "[red]x" in fails(*words, "--data", data.parent / "bad.jsonl")
    assert "missing.jsonl" in fails(*words, "--data", "missing.jsonl")
    assert not Path("policy.json").exists()


def test_calibrate_draws_where_there_is_no_data(call, unsure, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["calibrate", "--model", unsure, "--target-miss-rate", 0.5, "--num-riskcards", 100, "--seed", 3]
    assert call(*words)[0] == 0
    assert Path("runs/riskcards/calibration3/test.jsonl").exists() and Path("calibration.html").exists()
