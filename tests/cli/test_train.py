"""`safevlm train` as a user types it: what is shown, where, and the exit code."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from command_line import SAFETY_FLAGS, SHORT, flags
from support.tiny_training import write_checkpoint
from transformers import AutoModel

import safevlm_hf.demo.run
import safevlm_hf.training.run
from safevlm_hf.data import NANO_BASE
from safevlm_hf.training.arguments import nano_config, parse_arguments


@pytest.fixture
def runs(monkeypatch):
    """What the stages are called with, in place of training."""
    called = []
    for number in (1, 2):

        def run(arguments, number=number):
            called.append((number, arguments))
            stage = {"stage": number, "metrics": {}}
            model = SimpleNamespace(config=SimpleNamespace(training_record={"stages": [stage]}))
            args = parse_arguments(number, arguments)[2]
            return SimpleNamespace(args=args, model=model, is_world_process_zero=lambda: True)

        monkeypatch.setattr(safevlm_hf.training.run, f"run_stage{number}", run)
    return called


def test_train_without_options_is_the_embedded_default(call, runs, tmp_path):
    code, out, _ = call("train", "--output-dir", tmp_path)
    expected = []
    for one in (1, 2):
        expected.append(f"stage {one} had no validation records (`--validation_file`), so there are no figures")
        expected.append(f"stage {one} is done: {tmp_path}/stage{one}")
    assert code == 0 and out.splitlines() == expected
    assert [number for number, _ in runs] == [1, 2]
    for number, (config,) in runs:
        ours = {"output_dir": f"{tmp_path}/stage{number}"}
        ours |= {"model_name_or_path": f"{tmp_path}/stage1"} if number == 2 else {}
        assert yaml.safe_load(Path(config).read_text()) == yaml.safe_load(nano_config(number).read_text()) | ours


def test_train_gives_its_options_to_the_stages(call, runs, tmp_path):
    options = flags(model_name_or_path="base", learning_rate="1e-4", lora_r="8", use_cpu="true", seed=3)
    options += flags(taxonomy_file="a.yaml", num_safety_tokens=8, dtype="bfloat16", replay_share=0.7)
    options += ["--new_categories", "gambling", "fraud"]
    assert call("train", *options, "--output_dir", tmp_path)[0] == 0
    (model1, data1, args1), (model2, data2, args2, lora) = (parse_arguments(*run) for run in runs)
    assert (model1.model_name_or_path, model2.model_name_or_path) == ("base", f"{tmp_path}/stage1")
    assert [one.output_dir for one in (args1, args2)] == [f"{tmp_path}/stage1", f"{tmp_path}/stage2"]
    assert (
        args1.learning_rate == args2.learning_rate == 1e-4 and args1.use_cpu and args2.seed == 3 and lora.lora_r == 8
    )
    assert (model1.taxonomy_file, model1.num_safety_tokens) == ("a.yaml", 8)
    assert model1.new_categories == ["gambling", "fraud"]
    assert model2.taxonomy_file is model2.new_categories is model2.num_safety_tokens is None
    assert model1.dtype == model2.dtype == "bfloat16" and data1.replay_share == data2.replay_share == 0.7


@pytest.mark.parametrize("stage", [1, 2])
def test_train_one_stage(call, fails, runs, tmp_path, stage, monkeypatch):
    monkeypatch.chdir(tmp_path)  # what lies in the default folders does not count
    (tmp_path / "stage1").mkdir()
    if stage == 2:
        (tmp_path / "stage1" / "config.json").write_text("{}")
    assert call("train", "--stage", stage, "--output-dir", tmp_path, "--seed", 3)[0] == 0
    ((number, arguments),) = runs
    parsed = parse_arguments(number, arguments)
    assert number == stage and parsed[2].output_dir == f"{tmp_path}/stage{stage}"
    assert parsed[0].model_name_or_path == (f"{tmp_path}/stage1" if stage == 2 else str(NANO_BASE))
    call("train", "--stage", stage, "--model_name_or_path", "other")
    assert parse_arguments(*runs[-1])[0].model_name_or_path == "other"
    config = tmp_path / "run.yaml"
    config.write_text(f"output_dir: {tmp_path}/own\nmodel_name_or_path: other\n")
    assert f"stage {stage} is done: {tmp_path}/own" in call("train", "--stage", stage, config)[1]
    assert runs[-1] == (stage, [str(config)])
    assert call("train", "--stage", stage, config, "--output_dir", tmp_path / "a", "--seed", 7)[0] == 0
    parsed = parse_arguments(*runs[-1])
    assert (parsed[0].model_name_or_path, parsed[2].seed) == ("other", 7)
    assert parsed[2].output_dir == f"{tmp_path}/a/stage{stage}"
    assert "A YAML file is for one stage" in fails("train", config, "--seed", 1)


def test_both_stages_go_on_where_they_were(call, fails, runs, tmp_path):
    write_checkpoint(tmp_path / "stage1" / "checkpoint-7")
    assert call("train", "--output-dir", tmp_path, "--resume_from_checkpoint", "true", "--seed", 3)[0] == 0
    resumed = [parse_arguments(*run)[2].resume_from_checkpoint for run in runs]
    assert resumed == ["true", None]  # stage 2 has no whole one
    runs.clear()
    (tmp_path / "stage2" / "checkpoint-1").mkdir(parents=True)  # killed while it was written
    line = fails("train", "--output-dir", tmp_path, "--resume_from_checkpoint", "true", "--seed", 3)
    assert "stage2 holds checkpoint-1, no whole checkpoint to go on from" in line and not runs
    words = ["--overwrite_output_dir", "--resume_from_checkpoint"]
    assert call("train", "--output-dir", tmp_path, *words, "true", "--seed", 3)[0] == 0
    assert call("train", "--output-dir", tmp_path, *words, "false", "--seed", 3)[0] == 0
    runs.clear()
    line = fails("train", "--output-dir", tmp_path, "--resume_from_checkpoint", tmp_path / "stage1/checkpoint-7")
    assert "is a checkpoint of one stage: name the stage with `--stage`" in line and not runs


def test_train_checks_the_options_of_both_stages_first(fails, runs):
    assert "lora_alpha" in fails("train", "--lora_alpha", "x")
    assert "lora_r" in fails("train", "--stage", 1, "--lora_r", 8)
    assert not runs


def test_stage_2_says_where_its_stage_1_is_missing(call, fails, runs, tmp_path):
    for words in ([], ["--seed", 3]):
        line = fails("train", "--stage", 2, "--output_dir", tmp_path, *words)
        assert (
            f"there is no stage 1 in {tmp_path}: run `safevlm train --stage 1 --output_dir {tmp_path}` first" in line
        )
    assert not runs and call("train", "--stage", 2, "--output_dir", tmp_path, "--model_name_or_path", "other")[0] == 0


def test_bad_records_take_a_line_each(call, tmp_path):
    data = tmp_path / "own.jsonl"
    data.write_text("{\n" * 12)
    code, out, err = call("train", "--output_dir", tmp_path, "--train_file", data)
    assert code == 2 and not out
    first, *problems, more, last = err.splitlines()
    assert first == "Error: 12 bad records:" and more == "... and 2 more"
    assert [line.split(": ")[0] for line in problems] == [f"- {data}:{number}" for number in range(1, 11)]
    assert last == f"`safevlm data check {data}` lists all of them, and loads no model."


@pytest.mark.parametrize("stage", [1, 2])
def test_a_result_is_replaced_only_where_that_is_said(call, fails, runs, tmp_path, stage):
    (tmp_path / f"stage{stage}").mkdir()
    (tmp_path / f"stage{stage}" / "config.json").write_text("{}")
    config = tmp_path / "run.yaml"
    config.write_text(f"output_dir: {tmp_path}/stage{stage}\nmodel_name_or_path: other\n")
    assert "a YAML file stands in front of all flags" in fails(
        "train", "--stage", stage, "--overwrite_output_dir", config
    )
    for words in ([], ["--seed", 3], ["--stage", stage], ["--stage", stage, config]):
        line = fails("train", *words, "--output-dir", tmp_path)
        assert f"{tmp_path}/stage{stage} holds a model: `--overwrite_output_dir` replaces it" in line
        assert not runs  # not even stage 1, where stage 2's result is there
        if words[:1] == ["--stage"]:
            (tmp_path / "stage1").mkdir(exist_ok=True)
            (tmp_path / "stage1" / "config.json").write_text("{}")
        for replacing in (["--overwrite_output_dir"], ["--overwrite-output-dir", "true"]):
            assert call("train", *words, *replacing, "--output-dir", tmp_path)[0] == 0
            parsed = [parse_arguments(*run)[2] for run in runs]
            assert all(args.overwrite_output_dir for args in parsed) and parsed[-1].seed == (3 if 3 in words else 42)
            # Alone, it does not change what is trained.
            assert words in ([], ["--stage", stage]) or parsed[-1].learning_rate == 1e-5
            assert words not in ([], ["--stage", stage]) or parsed[-1].learning_rate > 1e-5
            runs.clear()
    assert "yes/no" in fails("train", "--overwrite_output_dir", "perhaps", "--output-dir", tmp_path)


@pytest.mark.ci
def test_train_both_stages_and_assess(call, tmp_path, picture):
    options = flags(**SAFETY_FLAGS, **SHORT, lora_r=4, riskcards_dir=tmp_path / "riskcards")
    code, out, err = call("train", "--output-dir", tmp_path, *options)
    assert code == 0 and "Traceback" not in err
    for stage in (1, 2):  # validation figures, in a table
        table = out[out.index(f"stage {stage}, validation data") : out.index(f"stage {stage} is done")]
        assert re.search(r"right levels +\d\.\d{3} +0\.500\n", table) and "risky prompts answered" in table
    record = AutoModel.from_pretrained(tmp_path / "stage2").config.training_record
    assert [stage["stage"] for stage in record["stages"]] == [1, 2]
    code, out, _ = call("assess", picture, "--model", tmp_path / "stage2", "--json")
    assert code in (0, 1) and json.loads(out)["image"] == str(picture)
