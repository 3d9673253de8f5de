"""Training runs for the tests, in this process or, by a launcher, in one of several: `distributed_worker.py RUNS`."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import torch
from accelerate.state import DistributedType, PartialState
from support.tiny_training import create_arguments, create_trainer, read_records, step_logs
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import set_seed

from safevlm_hf import SafeLlavaForConditionalGeneration, SafeLlavaProcessor
from safevlm_hf.training.arguments import LoraArguments
from safevlm_hf.training.run import run_stage1, run_stage2
from safevlm_hf.training.stages import prepare_stage1, prepare_stage2


SHARDED = "SAFEVLM_TEST_SHARDED"  # environment variable of the workers: FSDP or DeepSpeed on the CPU
LORA = LoraArguments(lora_r=4, lora_alpha=8, lora_dropout=0.0)
STAGES = {
    "stage 1": prepare_stage1,
    "stage 2, LoRA": lambda model: prepare_stage2(model, LORA),
    "stage 2, full": lambda model: prepare_stage2(model, LoraArguments(use_lora=False)),
}


def train(start: str, records: str, folder: str, stage: str = "stage 1", resume: str | None = None, **arguments):
    """
    A training run from the checkpoint `start`. The result is saved in `folder`.

    Args:
        arguments: as for `create_trainer`; two records per process and step, if nothing else is said.

    Returns:
        the `SafetyTrainer`, and what it logged at each step; at the end also what it judged, where it evaluates.
    """
    defaults = {
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 2,
        "use_cpu": SHARDED not in os.environ,
    }
    args = create_arguments(folder, **{**defaults, **arguments})  # first: it says how weights are loaded
    model = SafeLlavaForConditionalGeneration.from_pretrained(start)
    set_seed(0)  # for the adapters: loading has drawn numbers with ZeRO-3, and none without
    processor = SafeLlavaProcessor.from_pretrained(start, safety_config=model.config.safety_config)
    trainer = create_trainer(
        STAGES[stage](model),
        processor,
        read_records(records),
        folder,
        eval_records=read_records(records).select(range(4)) if arguments.get("eval_strategy") else None,
        args=args,
    )
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model()
    judged = [log for log in trainer.state.log_history if any(name.startswith("eval_") for name in log)]
    return trainer, [*step_logs(trainer), *judged]


def shard_on_cpu():
    """accelerate knows FSDP and DeepSpeed on accelerators alone, though both run on the CPU, too (gloo). So say that
    these processes have GPUs; the device that is named keeps every tensor on the CPU."""
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    PartialState._prepare_backend = lambda *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)
    if importlib.util.find_spec("deepspeed"):
        from deepspeed.comm import torch as backend

        backend.build_shm_op = lambda: None  # it compiles a faster way between processes; gloo will do


def shares(trainer) -> dict[str, float]:
    """The share of all weights, and of Adam's state, that lies in this process."""
    for module in trainer.model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # the last evaluation has left some whole
    weights = list(trainer.model.parameters())
    states = [state["exp_avg"] for state in trainer.optimizer.state.values()]
    sizes = [getattr(weight, "ds_numel", weight.numel()) for weight in weights]
    trained = sum(size for size, weight in zip(sizes, weights) if weight.requires_grad)
    return {"weights": sum(map(_held, weights)) / sum(sizes), "optimizer": sum(map(_held, states)) / trained}


def _held(tensor: torch.Tensor) -> int:
    """How many of a tensor's numbers lie in this process: FSDP2 has a DTensor, ZeRO-3 its part aside."""
    return tensor.to_local().numel() if isinstance(tensor, DTensor) else getattr(tensor, "ds_tensor", tensor).numel()


def main(file: str):
    """Run what the file lists, one after the other; the main process writes the logs of each into its folder."""
    torch.set_num_threads(1)
    if SHARDED in os.environ:
        shard_on_cpu()
    for run in json.loads(Path(file).read_text()):
        if "command" in run:
            {1: run_stage1, 2: run_stage2}[run["stage"]](run["command"])
        else:
            write_logs(run["folder"], *train(**run))
        torch.distributed.barrier()  # the next run may start from what the main process has saved


def write_logs(folder: str, trainer, logs: list[dict]):
    if trainer.is_world_process_zero():
        (Path(folder) / "logs.json").write_text(json.dumps(logs))
        (Path(folder) / "shares.json").write_text(json.dumps(shares(trainer)))


if __name__ == "__main__":
    main(sys.argv[1])
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)
