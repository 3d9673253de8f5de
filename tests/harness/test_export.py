"""Benchmarks on disk, as lmms-eval's tasks and geh read them."""

import json
import subprocess
import sys

import pytest
from PIL import Image
from support.standins import STANDINS

from safevlm_hf.benchmarks import Loaded
from safevlm_hf.harness.export import export_benchmark, main
from safevlm_hf.items import Item


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_rows_have_the_question_the_pictures_and_the_side(export):
    done = export("vlguard")
    rows = read_lines(done.folder / "test.jsonl")
    assert done.written == len(rows) == 5 and not done.missing
    first = rows[0]
    assert (first["id"], first["prompt"], first["is_risky"]) == ("unsafes/a1", "Read the address.", True)
    assert json.loads(first["labels"])["category"] == "privacy" and first["split"] == "test/all"
    assert [row["is_risky"] for row in rows].count(False) == 2
    for row in rows:
        for name in row["images"]:
            Image.open(done.folder / name).load()


def test_geh_gets_one_picture_and_a_side_and_the_rest_is_named(export):
    done = export("rtvlm", mode="zero-shot")
    rows, for_geh = (read_lines(done.folder / name) for name in ("test.jsonl", "geh.jsonl"))
    pairs = [row["id"] for row in rows if len(row["images"]) == 2]
    assert pairs and done.written_for_geh == len(for_geh) == len(rows) - len(pairs)
    assert not {row["id"] for row in for_geh} & set(pairs)
    listed = (done.folder / "missing.txt").read_text().splitlines()
    assert len(listed) == len(pairs) and all(f"{pair}: not in geh.jsonl" in " ".join(listed) for pair in pairs)
    assert {row["unsafe"] for row in for_geh} == {True, False}


def test_plain_text_has_no_row_for_geh(export):
    done = export("xstest")
    assert [row["images"] for row in read_lines(done.folder / "test.jsonl")] == [[], []]
    assert done.written_for_geh == 0 and len(done.missing) == 2


def test_what_a_published_copy_lacks_stays_named(export):
    assert "question is empty" in (export("vlsbench").folder / "missing.txt").read_text()


def test_an_item_of_several_turns_is_refused(tmp_path):
    turns = [{"role": role, "content": [{"type": "text", "text": "Hi."}]} for role in ("user", "assistant", "user")]
    with pytest.raises(ValueError, match="a1 is no single turn"):
        export_benchmark(Loaded([Item("a1", [], turns)], benchmark="ours"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_command_writes_and_counts(tmp_path, capsys):
    copy = STANDINS["mossbench"](tmp_path / "copy")
    main(["mossbench", "--data", str(copy), "--output", str(tmp_path / "data"), "--option", "part=contrast"])
    assert "mossbench/contrast: 3 items, 3 of them for geh; 0 left out" in capsys.readouterr().out
    assert all(row["is_risky"] for row in read_lines(tmp_path / "data/mossbench/test.jsonl"))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["vlguard", "--data", "nowhere"], "there is no folder nowhere"),
        (["vlguard", "--data", ".", "--option", "part"], "expected NAME=VALUE"),
        (["vlguard", "--data", ".", "--option", "colour=red"], "has no option 'colour'"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, words, reason):
    with pytest.raises(SystemExit) as end:
        main([*words, "--output", str(tmp_path / "data")])
    assert end.value.code == 2 and reason in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


@pytest.mark.ci
def test_the_package_needs_no_harness():
    """The plugin is loaded by lmms-eval alone: neither the package nor the exporter imports it."""
    code = "import sys, safevlm_hf, safevlm_hf.harness.export; print('lmms_eval' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
