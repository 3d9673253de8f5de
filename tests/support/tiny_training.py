"""Training of a few steps, for the tests."""

import json
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

from safevlm_hf.data.records import load_records
from safevlm_hf.data.riskcards import write_riskcards
from safevlm_hf.modeling.configuration_safety import DEFAULT_CATEGORIES, DEFAULT_LEVELS
from safevlm_hf.training.arguments import SafetyTrainingArguments
from safevlm_hf.training.collator import SafetyCollator
from safevlm_hf.training.trainer import SafetyTrainer


NANO_SAFETY = {
    "num_safety_tokens": 4,
    "num_condition_tokens": 4,
    "num_attention_heads": 4,
    "projector_depth": 1,
    "head_gate_dropout": 0.0,
}


def read_records(path):
    return load_records(path, DEFAULT_CATEGORIES, DEFAULT_LEVELS)


def draw_records(folder):
    """A dozen RiskCards, half of them clean, each one picture with its question alone."""
    return read_records(write_riskcards(folder, "train", 12, seed=0, clean_share=0.5, surroundings="alone"))


def write_checkpoint(folder: Path) -> Path:
    """As the Trainer writes one, with DeepSpeed's part of two processes."""
    (folder / "global_step2").mkdir(parents=True)
    save_file({"weight": torch.ones(64)}, folder / "model.safetensors")
    for name in ("optimizer.pt", "training_args.bin", "rng_state_0.pth", "global_step2/zero_rank_0_optim_states.pt"):
        torch.save({"state": torch.ones(64)}, folder / name)
    (folder / "config.json").write_text('{"model_type": "safe_llava"}')
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 2}))
    return folder


def create_arguments(folder, **arguments) -> SafetyTrainingArguments:
    """Four records per step, every step logged."""
    defaults = {
        "learning_rate": 1e-3,
        "max_steps": 3,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "report_to": "none",
    }
    return SafetyTrainingArguments(output_dir=str(folder), **{**defaults, **arguments})


def create_trainer(model, processor, records, folder, eval_records=None, args=None, **arguments) -> SafetyTrainer:
    """The Trainer of both stages. `args`: where they must be made before the model is loaded, as for sharding."""
    args = create_arguments(folder, **arguments) if args is None else args
    return SafetyTrainer(
        model=model,
        args=args,
        data_collator=SafetyCollator(processor, model.config.safety_config, args.head_condition_share),
        train_dataset=records,
        eval_dataset=eval_records,
        processing_class=processor,
    )


def step_logs(trainer) -> list[dict]:
    """What was logged at each step of training."""
    return [log for log in trainer.state.log_history if "loss" in log]


# --------------------------------------------------------------------------------------------------
# A user's own data
# --------------------------------------------------------------------------------------------------


def write(path: Path, *records) -> Path:
    Image.new("RGB", (40, 30), "teal").save(path.parent / "a.png")
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def published(level=3, category=1, **others):
    turns = [{"from": "USER", "value": "<image>\nWhat is this?"}, {"from": "ASSISTANT", "value": "I cannot help."}]
    return {"image": "a.png", "safe_type": category, "safe_level": level, "conversations": turns, **others}


def messages(level="safe", category="safe", **others):
    content = [{"type": "image"}, {"type": "text", "text": "What is this?"}]
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": "A card."}]
    return {"images": ["a.png"], "safety_level": level, "safety_category": category, "messages": turns, **others}


def plain_text():
    turns = [{"role": "user", "content": "What is two plus two?"}, {"role": "assistant", "content": "It is four."}]
    return {"messages": turns}
