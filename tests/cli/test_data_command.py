"""`safevlm data` as a user types it: what is shown, where, and the exit code."""

import json
from pathlib import Path

import pytest
from command_line import HOSTILE, rows, write_json
from support.standins import write_rtvlm, write_vlguard
from support.tiny_training import messages, plain_text, published, write


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

    code, out, err = call("data", "mix", "few", "--stage", 2, *words[5:9])
    warning = json.loads(Path("few/stage2.json").read_text())["warning"]
    assert code == 0 and err == f"Warning: {warning}\n" and "wanted is 11:89" in err

    assert "expected train or data/train" in fails("data", "mix", "other", "--stage", 1, "--vlguard", "rtvlm")
    assert "there is no folder [red]x" in fails("data", "mix", "other", "--stage", 1, "--rtvlm", "[red]x")
    assert "no risky records without a source" in fails("data", "mix", "other", "--stage", 2)
    assert "stage" in fails("data", "mix", "other", "--stage", 3)
    assert "Missing option" in fails("data", "mix", "other")
    assert not Path("other").exists()


# --------------------------------------------------------------------------------------------------
# Checking records
# --------------------------------------------------------------------------------------------------


def test_data_check_names_every_bad_record(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bad = [published(level=7), messages(category=HOSTILE), published(image="gone.png"), messages(level="low")]
    write(Path("a.jsonl"), published(), bad[0], bad[1], messages(), plain_text())
    write(Path("b.jsonl"), bad[2], bad[3])
    with Path("b.jsonl").open("a") as file:
        file.write("{\n")
    code, out, err = call("data", "check", "a.jsonl", "b.jsonl")
    assert (code, err) == (1, "") and "\x1b" not in out
    *found, count = out.splitlines()
    wanted = ["a.jsonl:2: safe_level is 7, expected 0 to 3", "a.jsonl:3: safety_category is '[red]a[/]"]
    wanted += ["b.jsonl:1: image not found: ", "b.jsonl:2: contradiction: ", "b.jsonl:3: broken JSON: "]
    assert len(found) == len(wanted) and all(map(str.startswith, found, wanted)), found
    assert count == "5 bad, 3 good"


def test_data_check_of_good_records(call, fails, tmp_path):
    good = write(tmp_path / "good.jsonl", published(), messages(), plain_text())
    assert call("data", "check", good) == (0, "0 bad, 3 good\n", "")
    assert "gone.jsonl' does not exist" in fails("data", "check", tmp_path / "gone.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    code, out, _ = call("data", "check", tmp_path / "empty.jsonl")
    assert code == 1 and out.startswith(f"{tmp_path}/empty.jsonl: no records\n")


def test_a_picture_is_no_file_of_records(call, picture):
    code, out, _ = call("data", "check", picture)
    assert code == 1 and out == f"{picture}: it is no text file, expected JSON lines\n1 bad, 0 good\n"


@pytest.mark.parametrize("option", ["--taxonomy_file", "--taxonomy-file"])
def test_data_check_knows_other_names(call, fails, tmp_path, option):
    taxonomy = write_json(tmp_path / "taxonomy.yaml", {"categories": ["fraud", "safe"], "levels": ["safe", "bad"]})
    (tmp_path / "pictures").mkdir()
    data = write(tmp_path / "pictures" / "own.jsonl", messages(level="bad", category="fraud"), published())
    data = data.rename(tmp_path / "own.jsonl")
    words = ["data", "check", data, "--image-root", tmp_path / "pictures"]
    code, out, _ = call(*words, option, taxonomy)
    assert code == 1 and out.splitlines()[0].startswith(f"{data}:2: safe_level is 3, expected 0 to 1")
    assert f"{data}:1: " in call(*words)[1]
    taxonomy.write_text("[]")
    assert "taxonomy.yaml must hold lists of names" in fails(*words, option, taxonomy)
