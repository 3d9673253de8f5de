"""`safevlm assess` as a user types it: what is shown, where, and the exit code."""

import json
from pathlib import Path

from command_line import HOSTILE, SHOWN, write_json


def test_assess_shows_a_table(call, checkpoint, picture, monkeypatch):
    monkeypatch.chdir(picture.parent)
    other = Path(f"{HOSTILE}.png")
    other.parent.mkdir()  # it has a slash
    picture.rename(other)
    code, out, err = call("assess", other, "--model", checkpoint)
    assert (code, err) == (1, "")
    (row,) = [line for line in out.splitlines() if "condition" in line]
    assert [cell.strip() for cell in row.strip("│").split("│")][:4] == [f"{SHOWN}.png", "condition", "privacy", "high"]


def test_a_narrow_table_cuts_nothing(call, checkpoint, picture, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    _, out, _ = call("assess", picture, "--model", checkpoint)
    first = [line.split("│")[1].strip() for line in out.splitlines() if line.startswith("│")]
    assert "".join(first) == str(picture) and "…" not in out


def test_assess_in_json(call, checkpoint, picture, tmp_path):
    code, out, err = call("assess", picture, picture, "--model", checkpoint, "--json", "--question", "Whose is it?")
    assert (code, err) == (1, "")
    first, second = map(json.loads, out.splitlines())
    assert first == second and first["image"] == str(picture)
    assert (first["category"], first["level"], first["action"]) == ("privacy", "high", "condition")
    assert first["flagged_categories"] == ["privacy"] and first["risk"] > 0.99
    policy = write_json(tmp_path / "policy.json", {"categories": {"privacy": False}})
    code, out, err = call("assess", picture, "--model", checkpoint, "--json", "--policy", policy)
    assert (code, err, json.loads(out)["action"]) == (0, "", "answer")


def test_pictures_that_cannot_be_read(call, checkpoint, picture, tmp_path):
    broken, missing = tmp_path / "[red]broken.png", tmp_path / "missing.png"
    broken.write_bytes(picture.read_bytes()[:60])
    words = ["assess", picture, broken, missing, picture, tmp_path, "--model", checkpoint]
    code, out, err = call(*words, "--json")
    assert code == 2
    assert [json.loads(line)["image"] for line in out.splitlines()] == [str(picture)] * 2
    errors = err.splitlines()
    assert len(errors) == 3 and all(line.startswith("Error: ") for line in errors)
    assert f"unreadable image: {broken}" in errors[0] and f"image not found: {missing}" in errors[1]
    code, out, _ = call(*words)
    assert code == 2 and out.count("privacy") == 4  # category and flagged
    assert call("assess", missing, "--model", checkpoint)[:2] == (2, "")
