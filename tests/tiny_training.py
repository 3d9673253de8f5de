"""Training of a few steps, for the tests."""

from safevlm_hf.data.records import load_records
from safevlm_hf.data.riskcards import write_riskcards
from safevlm_hf.modeling.configuration_safety import DEFAULT_CATEGORIES, DEFAULT_LEVELS
from safevlm_hf.training.arguments import SafetyTrainingArguments
from safevlm_hf.training.collator import SafetyCollator
from safevlm_hf.training.trainer import SafetyTrainer


def read_records(path):
    return load_records(path, DEFAULT_CATEGORIES, DEFAULT_LEVELS)


def draw_records(folder):
    """A dozen RiskCards, half of them clean, each one picture with its question alone."""
    return read_records(write_riskcards(folder, "train", 12, seed=0, clean_share=0.5, surroundings="alone"))


def create_arguments(folder, **arguments) -> SafetyTrainingArguments:
    """Four records a step, every step logged."""
    defaults = {
        "learning_rate": 1e-3,
        "max_steps": 3,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
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
