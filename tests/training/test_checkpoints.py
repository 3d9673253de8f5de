"""Checkpoints on the way: which are whole, and where a run that was killed goes on."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from support.tiny_training import create_arguments, create_trainer, published, write, write_checkpoint
from transformers import Trainer

from safevlm_hf.training.arguments import LoraArguments, SafetyTrainingArguments
from safevlm_hf.training.checkpoints import (
    checkpoint_size,
    checkpoint_to_resume,
    find_checkpoints,
    missing_part,
    warn_of_size,
)
from safevlm_hf.training.run import run_stage1
from safevlm_hf.training.stages import prepare_stage1, prepare_stage2


pytestmark = pytest.mark.ci


ROOT = Path(__file__).parents[2]
NANO = {"num_safety_tokens": 4, "num_condition_tokens": 4, "num_safety_heads": 4, "projector_depth": 1}
OPTIONS = {
    **NANO,
    "learning_rate": 1e-3,
    "warmup_steps": 0,
    "max_steps": 3,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "save_strategy": "steps",
    "save_steps": 1,
    "report_to": "none",
}
KILLED = """
import os, signal, sys
from safevlm_hf.training.run import run_stage1
from safevlm_hf.training.trainer import SafetyTrainer

save = SafetyTrainer._save_optimizer_and_scheduler

def save_or_die(trainer, folder):
    if trainer.state.global_step == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    save(trainer, folder)

SafetyTrainer._save_optimizer_and_scheduler = save_or_die
run_stage1(sys.argv[1:])
"""


def flags(**values) -> list[str]:
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def cut(file: Path):
    file.write_bytes(file.read_bytes()[:-20])


@pytest.mark.parametrize(
    "name",
    [
        "trainer_state.json",
        "config.json",
        "model.safetensors",
        "optimizer.pt",
        "training_args.bin",
        "rng_state_0.pth",
        "global_step2/zero_rank_0_optim_states.pt",
    ],
)
def test_a_file_that_breaks_off_is_found(tmp_path, name):
    folder = write_checkpoint(tmp_path / "checkpoint-2")
    assert missing_part(folder) is None
    cut(folder / name)
    assert missing_part(folder) == Path(name).name
    (folder / name).write_bytes(b"")
    assert missing_part(folder) == Path(name).name


@pytest.mark.parametrize(
    ("name", "content", "missing"),
    [
        ("trainer_state.json", "{}", "trainer_state.json"),
        ("trainer_state.json", "null", "trainer_state.json"),
        ("trainer_state.json", "[" * 10**5, "trainer_state.json"),
        ("config.json", "[]", "config.json"),
        ("model.safetensors.index.json", '{"weight_map": {"a": "model-00001-of-00002.safetensors"}}', "model-00001"),
        ("model.safetensors.index.json", '{"weight_map": ', "model.safetensors.index.json"),
        ("model.safetensors.index.json", '{"weight_map": []}', "model.safetensors.index.json"),
    ],
)
def test_json_that_says_nothing_is_a_missing_part(tmp_path, name, content, missing):
    folder = write_checkpoint(tmp_path / "checkpoint-2")
    (folder / name).write_text(content)
    assert missing_part(folder).startswith(missing)


@pytest.mark.parametrize(
    "weights",
    [
        "adapter_model.safetensors",
        "pytorch_model_fsdp_0/.metadata",
        "global_step2/mp_rank_00_model_states.pt",
        "model-00001-of-00001.safetensors",
    ],
)
def test_a_checkpoint_without_weights_is_not_whole(tmp_path, weights):
    folder = write_checkpoint(tmp_path / "checkpoint-2")
    whole = (folder / "model.safetensors").rename(tmp_path / "weights")
    assert missing_part(folder) == "model.safetensors"
    (folder / weights).parent.mkdir(exist_ok=True)
    shutil.copy(folder / "optimizer.pt" if weights.endswith(".pt") else whole, folder / weights)
    if "-of-" in weights:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"weight": weights}}))
    assert missing_part(folder) is None


def test_what_a_user_has_put_beside_the_files_of_a_checkpoint_says_nothing_of_it(tmp_path):
    folder = write_checkpoint(tmp_path / "checkpoint-2")
    (folder / "notes.bin").write_text("no zip file")
    (folder / "mine.safetensors").write_text("none either")
    (folder / "x.pt").symlink_to(tmp_path / "nowhere")
    (folder / "runs" / "y.pt").mkdir(parents=True)
    assert missing_part(folder) is None


def test_the_last_whole_one_is_resumed(tmp_path):
    for step in (9, 10, 20):
        write_checkpoint(tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-mine").mkdir()  # not the Trainer's
    (tmp_path / "checkpoint-20" / "trainer_state.json").unlink()
    whole, half = find_checkpoints(tmp_path)
    assert [path.name for path in whole] == ["checkpoint-9", "checkpoint-10"] and half == [tmp_path / "checkpoint-20"]
    for wanted in (True, "true"):
        assert checkpoint_to_resume(tmp_path, wanted) == str(tmp_path / "checkpoint-10")
    assert checkpoint_to_resume(tmp_path, str(tmp_path / "checkpoint-9")) == str(tmp_path / "checkpoint-9")
    assert checkpoint_to_resume(tmp_path, None) is checkpoint_to_resume(tmp_path, False) is None
    with pytest.raises(ValueError, match=r"checkpoint-20 is no whole .*whole in .*: checkpoint-9, checkpoint-10\."):
        checkpoint_to_resume(tmp_path, str(tmp_path / "checkpoint-20"))


def test_without_a_whole_one_nothing_is_resumed_and_nothing_removed(tmp_path):
    (tmp_path / "checkpoint-1").mkdir()
    with pytest.raises(ValueError, match="no whole checkpoint to resume from, only checkpoint-1, which broke off"):
        SafetyTrainingArguments(output_dir=str(tmp_path), resume_from_checkpoint="true").refuse_to_overwrite()
    with pytest.raises(ValueError, match="holds checkpoint-1, no whole .* another `output_dir` keeps it"):
        SafetyTrainingArguments(output_dir=str(tmp_path)).refuse_to_overwrite()
    SafetyTrainingArguments(output_dir=str(tmp_path), overwrite_output_dir=True).refuse_to_overwrite()


def test_a_link_is_no_place_for_a_checkpoint(tmp_path):
    elsewhere, output_dir = write_checkpoint(tmp_path / "elsewhere"), tmp_path / "run"
    write_checkpoint(output_dir / "checkpoint-8")
    (output_dir / "checkpoint-9").symlink_to(elsewhere)
    assert find_checkpoints(output_dir) == ([output_dir / "checkpoint-8"], [])
    for options in ({}, {"overwrite_output_dir": True}, {"resume_from_checkpoint": "true"}):
        with pytest.raises(ValueError, match="holds links where checkpoints would be written: checkpoint-9"):
            SafetyTrainingArguments(output_dir=str(output_dir), **options).refuse_to_overwrite()


def test_only_a_checkpoint_of_the_output_folder_goes_on_with_what_lies_there(tmp_path):
    elsewhere, output_dir = write_checkpoint(tmp_path / "other" / "checkpoint-1"), tmp_path / "run"
    write_checkpoint(output_dir / "checkpoint-1")

    def refuse(resumed):
        SafetyTrainingArguments(output_dir=str(output_dir), resume_from_checkpoint=str(resumed)).refuse_to_overwrite()

    refuse(output_dir / "checkpoint-1")
    for resumed in (elsewhere, "false", "False"):
        with pytest.raises(ValueError, match="holds checkpoints of a run that did not end"):
            refuse(resumed)
    (output_dir / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds a model"):
        refuse(elsewhere)
    refuse(output_dir / "checkpoint-1")


def test_the_state_is_written_when_all_processes_are_done(
    nano_model, nano_processor, riskcards, tmp_path, monkeypatch
):
    """Of several processes, each writes its random numbers: by the state the checkpoint is whole."""
    trainer = create_trainer(
        prepare_stage1(nano_model),
        nano_processor,
        riskcards,
        tmp_path,
        max_steps=1,
        save_strategy="steps",
        save_steps=1,
    )
    folder, seen = tmp_path / "checkpoint-1", []
    write_checkpoint(folder)  # a run that went back writes it again
    monkeypatch.setattr(Trainer, "_save_rng_state", lambda *_: seen.append((folder / "trainer_state.json").exists()))
    wait = trainer.accelerator.wait_for_everyone
    monkeypatch.setattr(trainer.accelerator, "wait_for_everyone", lambda: seen.append("waited") or wait())
    trainer.train()
    assert seen[:2] == [False, "waited"] and missing_part(folder) is None


@pytest.mark.ci
def test_a_run_goes_back_to_the_last_whole_checkpoint(tmp_path, caplog):
    data = write(tmp_path / "own.jsonl", *[published() for _ in range(3)])
    words = flags(**OPTIONS, train_file=data, output_dir=tmp_path / "run", save_total_limit=0)
    run_stage1(words)
    for name, step in (("trainer_state.json", 3), ("optimizer.pt", 2)):
        cut(tmp_path / "run" / f"checkpoint-{step}" / name)
    with caplog.at_level(logging.WARNING):
        assert run_stage1([*words, "--resume_from_checkpoint", "true"]).state.global_step == 3
    said = "\n".join(record.getMessage() for record in caplog.records)
    for name, step in (("trainer_state.json", 3), ("optimizer.pt", 2)):
        assert f"checkpoint-{step} is not whole" in said and f"({name} is missing or breaks off)" in said
    assert f"the training goes on from {tmp_path / 'run' / 'checkpoint-1'}." in said
    assert len(find_checkpoints(tmp_path / "run")[0]) == 3


@pytest.mark.ci
@pytest.mark.parametrize("best", [{}, {"load_best_model_at_end": "true", "eval_strategy": "steps", "eval_steps": 1}])
def test_a_folder_of_somebody_else_stays(tmp_path, best):
    data, run = write(tmp_path / "own.jsonl", *[published() for _ in range(3)]), tmp_path / "run"
    notes = run / "checkpoint-500" / "NOTES.md"
    notes.parent.mkdir(parents=True)
    save_file({"weight": torch.ones(64)}, notes.with_name("model.safetensors"))
    notes.write_text("mine\n")
    words = flags(**OPTIONS, **best, train_file=data, validation_file=data, output_dir=run)
    with pytest.raises(ValueError, match="holds checkpoint-500, no whole checkpoint to go on from"):
        run_stage1(words)
    assert notes.read_text() == "mine\n"
    notes.parent.rename(tmp_path / "kept")
    run_stage1([*words, "--max_steps", "1"])
    (tmp_path / "kept").rename(notes.parent)
    assert run_stage1([*words, "--resume_from_checkpoint", "true"]).state.global_step == 3
    assert len(find_checkpoints(run)[0]) <= 2 and notes.read_text() == "mine\n"


def test_the_last_checkpoint_alone_is_kept(nano_model, nano_processor, riskcards, tmp_path):
    saved = {"save_strategy": "steps", "save_steps": 1}
    create_trainer(prepare_stage1(nano_model), nano_processor, riskcards, tmp_path, **saved).train()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["checkpoint-3"]


@pytest.mark.parametrize("stage", ["stage 1", "stage 2, LoRA"])
def test_the_size_of_a_checkpoint_is_said_where_the_disk_is_small(
    nano_model, nano_processor, riskcards, tmp_path, caplog, monkeypatch, stage
):
    lora = LoraArguments(lora_r=4)
    model = prepare_stage1(nano_model) if stage == "stage 1" else prepare_stage2(nano_model, lora)
    trainer = create_trainer(
        model, nano_processor, riskcards, tmp_path, max_steps=1, save_strategy="steps", save_steps=1
    )
    trainer.train()
    files = ("model.safetensors", "adapter_model.safetensors", "optimizer.pt")
    written = sum(file.stat().st_size for file in (tmp_path / "checkpoint-1").iterdir() if file.name in files)
    size = checkpoint_size(model)
    assert size == pytest.approx(written, rel=0.1)
    for free, is_said in ((9 * size, True), (11 * size, False)):
        caplog.clear()
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        warn_of_size(model, trainer.args)
        said = (
            f"A checkpoint on the way takes about {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free in {tmp_path}."
        )
        assert (said in caplog.text) is is_said
        warn_of_size(model, create_arguments(tmp_path, save_strategy="no"))
        assert caplog.text.count("GB are free") == is_said


@pytest.mark.ci
def test_a_run_that_is_killed_while_it_writes_a_checkpoint_is_resumed(tmp_path, caplog):
    data = write(tmp_path / "own.jsonl", *[published() for _ in range(3)])
    words = flags(**OPTIONS, train_file=data, output_dir=tmp_path / "run")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    killed = subprocess.run([sys.executable, "-c", KILLED, *words], env=environment, capture_output=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    assert (tmp_path / "run" / "checkpoint-2" / "model.safetensors").exists()
    resumed = run_stage1([*words, "--resume_from_checkpoint", "true"])
    assert f"the training goes on from {tmp_path / 'run' / 'checkpoint-1'}." in caplog.text
    assert resumed.state.global_step == 3 and not find_checkpoints(tmp_path / "run")[1]
