"""Two processes (gloo, CPU) train as one does, and go on from each other's checkpoints: DDP, FSDP2 and DeepSpeed."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distributed_worker import SHARDED, STAGES, train
from safetensors.torch import load_file
from support.tiny_training import NANO_SAFETY

from safevlm_hf import SafeLlavaForConditionalGeneration, SafeLlavaProcessor
from safevlm_hf.data import NANO_BASE
from safevlm_hf.data.riskcards import write_riskcards
from safevlm_hf.training.run import run_stage2


pytestmark = pytest.mark.ci  # starts several processes

TESTS = Path(__file__).parents[1]
CONFIGS = TESTS.parent / "examples" / "configs"
WORKER = Path(__file__).with_name("distributed_worker.py")
LOGGED = ("loss", "lm_loss", "safety_loss", "level_accuracy", "category_accuracy", "grad_norm")
WHOLE = {  # what each of two processes holds whole, of weights and of Adam's state
    "DDP": ("weights", "optimizer"),
    "FSDP2": (),
    "ZeRO-2": ("weights",),
    "ZeRO-3": (),
}
needs_deepspeed = pytest.mark.skipif(not importlib.util.find_spec("deepspeed"), reason="deepspeed is not installed")
SHARDING = ["FSDP2", *(pytest.param(way, marks=needs_deepspeed) for way in ("ZeRO-2", "ZeRO-3"))]
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc_per_node"]
ACCELERATE = ["accelerate.commands.launch", "--config_file", str(CONFIGS / "fsdp2.yaml"), "--main_process_port", "0"]


def run_python(module: list[str], way: str):
    paths = [str(TESTS.parent / "src"), str(TESTS), str(WORKER.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    if way != "DDP":
        environment |= {SHARDED: "1", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(
        [sys.executable, "-m", *module], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-6000:]


def run_processes(runs: list[dict], folder, processes: int = 2, way: str = "DDP", precision: str = "no"):
    """Do the runs, as `train` in distributed_worker.py takes them, in `processes` processes."""
    file = Path(folder) / "runs.json"
    file.write_text(json.dumps(runs))
    launcher = [*TORCHRUN, str(processes)]
    if way == "FSDP2":
        launcher = [*ACCELERATE, "--mixed_precision", precision, "--num_processes", str(processes)]
    run_python([*launcher, str(WORKER), str(file)], way)


def logs(folder, *names: str) -> list[list[dict]]:
    return [json.loads((Path(folder) / name / "logs.json").read_text()) for name in names]


def same(logs: list[dict], wanted_logs: list[dict]):
    """The same losses at each step, and the same figures at each evaluation."""
    assert [log["step"] for log in logs] == [log["step"] for log in wanted_logs]
    for log, wanted in zip(logs, wanted_logs):
        names = {name for name in wanted if name in LOGGED or is_figure(name)}
        assert names == {name for name in log if name in LOGGED or is_figure(name)}
        for name in names:
            assert log[name] == pytest.approx(wanted[name], abs=1e-4, rel=1e-4), (log["step"], name)


def is_figure(name: str) -> bool:
    return name.startswith("eval_") and "second" not in name and "time" not in name


def same_weights(folder, wanted_folder):
    """The saved results, whole and under the same names."""
    (wanted_file,) = Path(wanted_folder).glob("*model.safetensors")
    weights, wanted = load_file(Path(folder) / wanted_file.name), load_file(wanted_file)
    assert weights.keys() == wanted.keys()
    for name, weight in weights.items():
        difference = (weight - wanted[name]).abs()
        # Adam may turn a gradient of nearly 0 into a whole step: here and there, not on average.
        assert difference.max() < 1e-3 and difference.mean() < 5e-6, (folder, name)


def check_shares(folder, way: str):
    for name, share in json.loads((Path(folder) / "shares.json").read_text()).items():
        assert share == pytest.approx(1 if name in WHOLE[way] else 0.5, abs=0.05), name


@pytest.fixture(autouse=True)
def one_thread(seed):
    torch.set_num_threads(1)  # as each of the processes has


@pytest.fixture
def start(nano_model, nano_processor, tmp_path):
    """A checkpoint from which every run starts."""
    for part in (nano_model, nano_processor):
        part.save_pretrained(tmp_path / "start")
    return str(tmp_path / "start")


@pytest.fixture
def records_file(tmp_path):
    return str(write_riskcards(tmp_path / "cards", "train", 12, seed=0, clean_share=0.5))


def settings(way: str, universal: bool = False) -> dict:
    """A run's arguments for a way. DeepSpeed's are the shipped file; the nano base's weights are smaller than those
    that ZeRO-3 leaves whole, so here it leaves none. FSDP2's are read by its launcher."""
    if "ZeRO" not in way:
        return {}
    config = json.loads((CONFIGS / f"{way.replace('-', '').lower()}.json").read_text())
    if way == "ZeRO-3":
        config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    return {"deepspeed": {**config, "checkpoint": {"load_universal": universal}}}


def create_run(stage: str, start: str, records: str, **arguments) -> dict:
    """Three steps of four records, judged and saved at the second. Stage 1 with the language model's loss at every
    second step alone."""
    run = {"start": start, "records": records, "stage": stage, "max_steps": 3, "head_condition_share": 0.5}
    run |= {
        "save_strategy": "steps",
        "save_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_total_limit": 0,
    }
    return {**run, "lm_loss_every": 2 if stage == "stage 1" else 1, **arguments}


ALONE = {"gradient_accumulation_steps": 2}


@pytest.mark.parametrize(
    "stage", [pytest.param(stage, marks=() if stage == "stage 1" else pytest.mark.slow) for stage in STAGES]
)
def test_two_processes_train_as_one(stage, start, records_file, tmp_path):
    """DDP; and from each other's checkpoints."""
    run = create_run(stage, start, records_file)
    _, one = train(**run, **ALONE, folder=str(tmp_path / "one"))
    resumed = {**run, "resume": str(tmp_path / "one" / "checkpoint-2")}
    run_processes(
        [{**run, "folder": str(tmp_path / "two")}, {**resumed, "folder": str(tmp_path / "one-two")}], tmp_path
    )
    folder = tmp_path / "two-one"
    _, resumed_by_one = train(**run, **ALONE, folder=str(folder), resume=str(tmp_path / "two" / "checkpoint-2"))
    for logged in (*logs(tmp_path, "two", "one-two"), resumed_by_one):
        same(logged, one)
    for name in ("two", "one-two", "two-one"):
        same_weights(tmp_path / name, tmp_path / "one")
    check_shares(tmp_path / "two", "DDP")


def test_two_processes_share_the_weights_and_train_as_one(start, records_file, tmp_path):
    """FSDP2, stage 1; all else is in the slow tests."""
    run = create_run("stage 1", start, records_file)
    _, one = train(**run, **ALONE, folder=str(tmp_path / "one"))
    run_processes([{**run, "folder": str(tmp_path / "two")}], tmp_path, way="FSDP2")
    same(*logs(tmp_path, "two"), one)
    same_weights(tmp_path / "two", tmp_path / "one")
    check_shares(tmp_path / "two", "FSDP2")


@pytest.mark.slow
def test_verdicts_are_judged_in_bfloat16(start, records_file, tmp_path):
    """FSDP2 with the precision of the shipped config."""
    run = create_run("stage 2, LoRA", start, records_file)
    _, one = train(**run, **ALONE, folder=str(tmp_path / "one"))
    run_processes([{**run, "folder": str(tmp_path / "two")}], tmp_path, way="FSDP2", precision="bf16")
    for log, wanted in zip(*logs(tmp_path, "two"), one, strict=True):
        assert set(filter(is_figure, log)) == set(filter(is_figure, wanted))
        if "loss" in wanted:
            # It keeps 8 bits, and the logits of this untrained head are large.
            assert log["loss"] == pytest.approx(wanted["loss"], rel=2e-2)


def to_universal(checkpoint: Path):
    """DeepSpeed's own way to another number of processes; the step's folder is named in `latest`."""
    step = checkpoint / (checkpoint / "latest").read_text()
    words = ["--input_folder", str(step), "--output_folder", f"{step}_universal", "--inject_missing_state"]
    run_python(["deepspeed.checkpoint.ds_to_universal", *words], "DeepSpeed")


@pytest.mark.slow
@pytest.mark.parametrize("way", SHARDING)
def test_sharded_checkpoints_are_resumed_by_another_number_of_processes(way, start, records_file, tmp_path):
    """All stages, from 1 to 2 and from 2 to 1; every run trains as one plain process does."""
    is_zero = "ZeRO" in way

    def runs(name: str, resumed: str | None = None, **arguments) -> list[dict]:
        listed = []
        for stage in STAGES:
            run = create_run(stage, start, records_file, folder=str(tmp_path / stage / name), **arguments)
            if resumed is not None:
                checkpoint = tmp_path / stage / resumed / "checkpoint-2"
                if is_zero:
                    to_universal(checkpoint)
                run["resume"] = str(checkpoint)
            listed.append({**run, **settings(way, universal=resumed is not None)})
        return listed

    run_processes(runs("one", **ALONE), tmp_path, 1, way)
    run_processes(runs("two") + runs("one-two", "one"), tmp_path, 2, way)
    run_processes(runs("two-one", "two", **ALONE), tmp_path, 1, way)
    for stage in STAGES:
        folder = tmp_path / stage
        _, plain = train(**create_run(stage, start, records_file, **ALONE), folder=str(folder / "plain"))
        names = ("one", "two", "one-two", "two-one")
        for name, logged in zip(names, logs(folder, *names)):
            same(logged, plain)
            same_weights(folder / name, folder / "plain")
        check_shares(folder / "two", way)


# --------------------------------------------------------------------------------------------------
# The examples' main
# --------------------------------------------------------------------------------------------------


SHORT = {"num_riskcards": 12, "max_eval_samples": 4, "clean_share": 0.5, "learning_rate": 1e-3, "warmup_steps": 0}
SHORT |= {"max_steps": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "save_strategy": "no"}
SHORT |= {"report_to": "none", "eval_strategy": "steps", "eval_steps": 1}
SIZES = {
    "num_safety_tokens": 4,
    "num_condition_tokens": 4,
    "num_safety_heads": 4,
    "projector_depth": 1,
    # Two processes drop other words and states than one, so that no dropout is in this head.
    "head_reading": "embeddings",
    "head_gate_dropout": 0.0,
}


def command(**values) -> list[str]:
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["DDP", *SHARDING])
def test_examples_run_in_two_processes(way, records_file, tmp_path):
    """By the shipped configs: stage 1 from the stock base, and from its result stage 2 and a new category."""
    split = {"use_cpu": True} if way == "DDP" else {}
    if "ZeRO" in way:
        split = {"deepspeed": CONFIGS / f"{way.replace('-', '').lower()}.json"}
    values = {**SHORT, "riskcards_dir": tmp_path / "cards"}
    first = {**values, **SIZES, "output_dir": tmp_path / "first"}
    second = {**values, "model_name_or_path": tmp_path / "first", "lora_r": 4, "lora_dropout": 0}
    more = {**SHORT, "model_name_or_path": tmp_path / "first", "new_categories": "gambling"}
    more |= {"train_file": records_file, "eval_strategy": "no", "output_dir": tmp_path / "more"}
    runs = [
        {"stage": 1, "command": command(**first, **split)},
        {"stage": 2, "command": command(**second, **split, output_dir=tmp_path / "second")},
        {"stage": 1, "command": command(**more, **split)},
    ]
    run_processes(runs, tmp_path, way=way)

    trained = SafeLlavaForConditionalGeneration.from_pretrained(tmp_path / "first")
    fresh = SafeLlavaForConditionalGeneration.from_pretrained(NANO_BASE, safety_config=NANO_SAFETY)
    fresh.initialize_from_embeddings(SafeLlavaProcessor.from_pretrained(tmp_path / "first").tokenizer)
    moved = (trained.model.safety_conditions.weight - fresh.model.safety_conditions.weight).abs().max()
    assert 0 < moved < 3e-3  # two steps from the words
    std, wanted = (model.model.safety_head.q_proj.weight.std().item() for model in (trained, fresh))
    assert std == pytest.approx(wanted, rel=0.05)

    extended = SafeLlavaForConditionalGeneration.from_pretrained(tmp_path / "more").model
    old, new = (model.safety_head.category_head.bias for model in (trained.model, extended))
    assert (new - torch.cat([old, torch.tensor([-10.0])])).abs().max() < 3e-3
    old, new = (model.safety_conditions.weight for model in (trained.model, extended))
    assert len(new) == len(old) + 3 and (new[: len(old)] - old).abs().max() < 3e-3

    run_stage2(command(**{**second, "gradient_accumulation_steps": 2}, use_cpu=True, output_dir=tmp_path / "one"))
    same_weights(tmp_path / "second", tmp_path / "one")  # merged
    two, one = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("second", "one"))
    two, one = (config["training_record"]["stages"][1] for config in (two, one))
    assert two["batch_size"] == one["batch_size"] == 4
    assert two["metrics"] == pytest.approx(one["metrics"], abs=1e-3)
    SafeLlavaProcessor.from_pretrained(tmp_path / "second")
    assert "Stage 2" in (tmp_path / "second" / "README.md").read_text()
