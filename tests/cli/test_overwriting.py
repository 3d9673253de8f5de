"""No command replaces what it did not write. Its outputs are found in the program itself, so that a new one counts."""

import json
import re
import runpy
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from command_line import REFUSE, ROOT, write_json
from support.standins import write_rtvlm, write_vlguard, write_xstest
from support.tiny_training import plain_text

from safevlm_cli import app
from safevlm_hf.data import NANO_BASE
from safevlm_hf.demo.run import find_places, parse_args
from safevlm_hf.harness import export


pytestmark = pytest.mark.ci  # runs every command that writes

OLD = "of somebody else\n"


def paths(typer=app, *groups: str) -> list[tuple[str, str]]:
    """Command and parameter of each path, but for files that have to be there, which are read."""
    found = []
    for command in typer.registered_commands:
        words = " ".join([*groups, command.name or command.callback.__name__])
        for name, hint in get_type_hints(command.callback, include_extras=True).items():
            kind, *details = get_args(hint) or (hint,)
            if "pathlib.Path" in f"{kind}" and not any(one.exists for one in details):
                found.append((words, name))
    for group in typer.registered_groups:
        found += paths(group.typer_instance, *groups, group.name)
    return found


READ = {
    ("init", "taxonomy"),
    ("chat", "image"),
    ("evaluate", "data"),
    ("evaluate", "judges"),
    ("card", "results"),
    ("card", "overlap"),
    ("serve", "api_key_file"),
    ("data mix", "vlguard"),
    ("data mix", "rtvlm"),
    ("data mix", "llava"),
    ("data mix", "coco"),
    ("data check", "image_root"),
    ("data scenes", "sources"),
    ("data overlap", "data"),
    ("data overlap", "image_root"),
    ("policy replay", "audit"),
    ("policy replay", "policy"),
}
APPENDED_TO = {("chat", "audit"), ("serve", "audit")}

CALIBRATE = "calibrate --model {model} --target-miss-rate 0.5 --num-riskcards 20"
EVALUATE = "evaluate --model {model} --benchmark xstest --data {data}/xstest --output {there} --max-new-tokens 1"
MIX = "data mix {there} --stage 1 --vlguard {data}/vlguard --rtvlm {data}/rtvlm --size 14"
REPLAY = "policy replay {data}/audit.jsonl --policy {data}/policy.json"
OVERLAP = "data overlap {data}/train.jsonl --benchmark xstest --data {data}/xstest"
DEMO, TRAIN = "demo --output_dir {there}", "train --output_dir {there}"
REPLACED = {
    ("calibrate", "output", ""): f"{CALIBRATE} --output {{there}}",
    ("calibrate", "report", ""): f"{CALIBRATE} --output new.json --report {{there}}",
    ("evaluate", "output", "report.html"): EVALUATE,
    ("data mix", "output_dir", "stage1.jsonl"): MIX,
    ("data mix", "output_dir", "stage1.json"): MIX,
    ("data overlap", "output", ""): f"{OVERLAP} --output {{there}}",
    ("policy replay", "changes", ""): f"{REPLAY} --changes {{there}}",
}
"""Command, its output, and what lies there, to what `--overwrite` lets through."""

KEPT = {
    ("data scenes", "output_dir", "scenes.json"): (
        "data scenes {there} --sources {data}",
        "was not built here: name another folder",
    ),
    ("init", "output", "config.json"): (f"init {NANO_BASE} {{there}}", "name a new or empty folder"),
    ("init", "base", "config.json"): (
        "init {there} new --language-model {data} --vision-tower {data}",
        "name a new or empty folder",
    ),
    **{
        ("demo", "output_dir", f"{name}{extent}"): (f"{DEMO}{extent}", "`--overwrite_output_dir` replaces it")
        for name in ("stage1/model.safetensors", "stage2/config.json", "stage1.yaml", "figures.json", "report.html")
        for extent in ("", " --fast", " --full")
    },
    ("demo", "report", ""): ("demo --output_dir new --report {there}", "`--overwrite_output_dir` replaces it"),
    **{
        ("train", "output_dir", f"{name}{options}"): (f"{TRAIN}{options}", "`--overwrite_output_dir` replaces it")
        for name in ("stage1/config.json", "stage2/model.safetensors", "stage1/tokenizer.json")
        for options in ("", " --seed 3")
    },
    ("train", "output_dir", "stage1/nano_stage1.yaml"): (TRAIN, "`--overwrite_output_dir` replaces it"),
}
"""The same for what takes long or is never replaced, and what the error says to do."""


@pytest.fixture
def words(checkpoint, tmp_path, monkeypatch):
    """Fill in a command's words: files to read, and the place where something lies."""
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    write_xstest(data / "xstest")
    write_vlguard(data / "vlguard", split="train")
    write_rtvlm(data / "rtvlm", copies=4)
    (data / "train.jsonl").write_text(json.dumps(plain_text()) + "\n")
    (data / "audit.jsonl").write_text('{"action": "answer", "verdicts": [{"action": "answer"}]}\n')
    write_json(data / "policy.json", REFUSE)

    def fill(line: str, there: Path) -> list[str]:
        return line.format(model=checkpoint, data=data, there=there).split()

    return fill


def put_there(folder: Path, name: str) -> Path:
    """Something old under this name in the folder; without a name, in place of the folder."""
    file = folder / name.partition(" ")[0] if name else folder
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(OLD)
    return file


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_path_of_every_command_is_read_appended_to_or_guarded():
    guarded = {key[:2] for key in (*REPLACED, *KEPT)} - {("init", "base")}  # which names a checkpoint elsewhere
    assert not READ & guarded and not APPENDED_TO & guarded
    assert sorted(READ | APPENDED_TO | guarded) == sorted(paths())


@pytest.mark.parametrize("key", REPLACED, ids=" ".join)
def test_what_is_there_is_replaced_only_with_the_option(call, fails, words, tmp_path, key):
    there = tmp_path / "there"
    file, before = put_there(there, key[2]), files(tmp_path)
    command = words(REPLACED[key], there)
    line = fails(*command)
    assert f"{file} is there already: " in line and "`--overwrite` replaces it" in line
    assert files(tmp_path) == before
    code, _, err = call(*command, "--overwrite")
    assert code == 0, err
    assert file.read_text() != OLD


@pytest.mark.parametrize("key", KEPT, ids=" ".join)
def test_what_took_long_is_not_replaced_unasked(fails, words, tmp_path, key):
    there = tmp_path / "there"
    put_there(there, key[2])
    before, (command, advice) = files(tmp_path), KEPT[key]
    line = fails(*words(command, there))
    assert str(there) in line and advice in line
    assert {path: content for path, content in files(tmp_path).items() if path in before} == before


COLLIDING = {
    "calibrate --output calibration.html --target-miss-rate 0.5": "`--report` calibration.html",
    "calibrate --output a --report ./a --target-miss-rate 0.5": "`--report` a",
    "calibrate --output a --report a/b.html --target-miss-rate 0.5": "`--report` a/b.html",
    "calibrate --output {data}/train.jsonl --data {data}/train.jsonl --target-miss-rate 0.5 --overwrite": "`--data`",
    "calibrate --report {data}/policy.json -p {data}/policy.json --target-miss-rate 0.5 --overwrite": "`--policy`",
    "chat --audit {data}/policy.json --policy {data}/policy.json": "`--policy`",
    "serve --audit {data}/policy.json --policy {data}/policy.json": "`--policy`",
    "serve --audit {data}/train.jsonl --system-prompt {data}/train.jsonl": "`--system-prompt`",
    "data overlap {data}/train.jsonl -b xstest --data {data}/xstest -o {data}/train.jsonl --overwrite": "`TRAIN`",
    "demo --output_dir new --report new": "`--output_dir` new/",
    "demo --output_dir new --report new/figures.json": "`--output_dir` new/figures.json",
    "demo --output_dir new --report new/stage2/report.html": "`--output_dir` new/stage2",
    "init new ./new --language-model {data} --vision-tower {data}": "`BASE` new",
}
"""Commands whose files would take each other's place, to what the error names."""


@pytest.mark.parametrize("command", COLLIDING)
def test_files_of_one_command_are_compared_before_the_work(fails, words, tmp_path, command):
    before = files(tmp_path)
    line = fails(*words(command, tmp_path))
    assert COLLIDING[command] in line and "name another file" in line
    assert files(tmp_path) == before


def test_an_audit_trail_grows(call, words, tmp_path, picture):
    trail = put_there(tmp_path, "trail.jsonl")
    command = words("chat --model {model} --audit {there} --max-new-tokens 1 --image", trail)
    assert call(*command, picture, stdin="What is it?\n")[0] == 0
    assert trail.read_text().startswith(OLD) and len(trail.read_text()) > len(OLD)


def test_the_option_of_the_demo_lets_it_begin(tmp_path):
    put_there(tmp_path, "stage1/config.json")
    put_there(tmp_path, "report.html")
    asked = ["--output_dir", str(tmp_path), "--fast", "--overwrite_output_dir"]
    assert find_places(parse_args(asked)) == (tmp_path, tmp_path / "report.html")


def test_a_default_training_that_was_interrupted_begins_anew_unasked(call, monkeypatch, tmp_path):
    """It has left its own config, and nothing to lose."""
    begun = []
    monkeypatch.setattr("safevlm_hf.training.run.run_stage1", lambda words: begun.append(words) or interrupt())
    for _ in range(2):
        assert call("train", "--output_dir", tmp_path)[0] == 130
    assert begun == [[f"{tmp_path}/stage1/nano_stage1.yaml"]] * 2


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.usefixtures("few_draws")
def test_an_evaluation_does_not_take_the_report_of_another_one(call, fails, words, tmp_path):
    there = tmp_path / "there"
    command = words(EVALUATE, there)
    assert call(*command)[0] == 0
    report = (there / "report.html").read_bytes()
    assert call(*command)[0] == 0  # it resumes
    for other in (["--seed", "1"], ["--benchmark", "riskcards", "--option", "size=8"]):
        line = fails(*command, *other)
        assert f"{there}/report.html is there already: it is of another run, `--overwrite` replaces it" in line
        assert (there / "report.html").read_bytes() == report
    both = ["--benchmark", "xstest,riskcards", "--data", tmp_path / "data", "--option", "size=8"]
    assert call(*command, *both)[0] == 0  # the earlier results are in it, too


# --------------------------------------------------------------------------------------------------
# Scripts
# --------------------------------------------------------------------------------------------------

SCRIPTS = {
    "examples/attack_pixels.py": ("--output_dir {there}", "attack.json"),
    "examples/compare_systems.py": ("--output_dir {there}", "comparison.md"),
    "examples/run_evaluation.py": (
        "--model {model} --benchmark xstest --data {data}/xstest --output_dir {there}",
        "report.html",
    ),
    "examples/run_stage1.py": ("--output_dir {there}", "config.json"),
    "examples/run_stage2.py": ("--output_dir {there}", "model.safetensors"),
    "examples/train_nano_base.py": ("--output_dir {there}", "config.json"),
    "examples/train_word_reader.py": ("--encoder {model} --output_dir {there}", "word_reader.safetensors"),
    "src/safevlm_hf/harness/export.py": ("xstest --data {data}/xstest --output {there}", "xstest/test.jsonl"),
}
"""Script to its words and what lies there."""


def test_every_script_with_an_output_is_walked():
    scripts = [*(ROOT / "examples").glob("*.py"), *(ROOT / "src").rglob("*.py")]
    writing = re.compile(r"run_stage\d\(\)|\"--output")
    found = {path.relative_to(ROOT).as_posix() for path in scripts if writing.search(path.read_text())}
    of_commands = {f"src/safevlm_cli/{name}.py" for name in ("calibrate", "data", "demo", "evaluate", "train")}
    assert found - of_commands - {"src/safevlm_hf/demo/run.py"} == set(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_replaces_nothing_unasked(words, tmp_path, monkeypatch, capsys, script):
    there, (line, name) = tmp_path / "there", SCRIPTS[script]
    file, before = put_there(there, name), files(tmp_path)
    monkeypatch.setattr(sys, "argv", [script, *words(line, there)])
    monkeypatch.syspath_prepend(ROOT / "examples")
    with pytest.raises((ValueError, SystemExit)) as end:
        if script.startswith("src/"):
            export.main()
        else:
            runpy.run_path(str(ROOT / script), run_name="__main__")
    said = f"{end.value} {capsys.readouterr().err}"
    assert str(there) in said and re.search("`--overwrite(_output_dir)?` replaces it", said), said
    assert files(tmp_path) == before and file.read_text() == OLD


def test_an_export_does_not_take_the_place_of_what_it_reads(words, tmp_path, capsys):
    before = files(tmp_path)
    with pytest.raises(SystemExit):
        export.main(words("xstest --data {data}/xstest --output {data} --overwrite", tmp_path))
    assert "would replace `--data`" in capsys.readouterr().err and files(tmp_path) == before


def test_an_export_is_replaced_with_the_option(words, tmp_path):
    put_there(tmp_path / "there", "xstest/test.jsonl")
    export.main([*words("xstest --data {data}/xstest --output {there} --overwrite", tmp_path / "there")])
    assert (tmp_path / "there/xstest/test.jsonl").read_text() != OLD
