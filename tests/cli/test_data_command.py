"""`safevlm data` as a user types it: what is shown, where, and the exit code."""

import json
from pathlib import Path

from command_line import rows
from standins import write_rtvlm, write_vlguard


def test_data_mix(call, fails, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_vlguard(Path("vlguard"), split="train")
    write_rtvlm(Path("rtvlm"), copies=4)
    words = ["data", "mix", "mixed", "--stage", 1, "--vlguard", "vlguard", "--rtvlm", "rtvlm", "--size", 14]
    code, out, err = call(*words)
    assert (code, err) == (0, "") and out.endswith("records: mixed/stage1.jsonl   counts: mixed/stage1.json\n")
    assert rows(out)["risky"] == ["11", "11"] and rows(out)["clean"] == ["3", "3"]
    assert "left out of vlguard: an unsafe text beside a safe picture has no published category: 2: safe_" in out
    assert len(Path("mixed/stage1.jsonl").read_text().splitlines()) == 14
    assert json.loads(Path("mixed/stage1.json").read_text())["wanted"] == {"risky": 11, "clean": 3}

    assert "expected train or data/train" in fails("data", "mix", "other", "--stage", 1, "--vlguard", "rtvlm")
    assert "there is no folder [red]x" in fails("data", "mix", "other", "--stage", 1, "--rtvlm", "[red]x")
    assert "no risky records in no source" in fails("data", "mix", "other", "--stage", 2)
    assert "stage" in fails("data", "mix", "other", "--stage", 3)
    assert "Missing option" in fails("data", "mix", "other")
    assert not Path("other").exists()
