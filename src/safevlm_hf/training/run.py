"""The main of both stages, called by examples/run_stage1.py and examples/run_stage2.py."""

import logging
import math
import os
import platform
import random
import shlex
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
import yaml
from datasets import concatenate_datasets
from transformers import PreTrainedConfig, set_seed
from transformers.integrations import is_deepspeed_zero3_enabled

from ..data.records import load_records
from ..data.riskcards import NEW_CATEGORY, write_riskcards
from ..families import find_family
from .arguments import PAPER_CLEAN_SHARE, ModelArguments, parse_arguments
from .collator import SafetyCollator
from .stages import SAFETY_PREFIX, count_parameters, prepare_stage1, prepare_stage2
from .trainer import SafetyTrainer


logger = logging.getLogger(__name__)

FIGURES = ("attack_success_rate", "over_refusal_rate", "category_accuracy", "level_accuracy")  # on the model card
NUM_REPLAYED_RISKCARDS = 3600  # as many as the embedded default's stage 1 has seen
SPEED = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second")


def run_stage1(args: list[str] | None = None) -> SafetyTrainer:
    """Stage 1: a stock checkpoint to one with a trained head. `args` as `sys.argv[1:]`, which is the default."""
    model_args, data_args, training_args = parse_arguments(1, args)
    set_seed(training_args.seed)
    config_class = find_family(model_args.model_name_or_path, model_args.revision).config
    config = config_class.from_pretrained(model_args.model_name_or_path, revision=model_args.revision)
    stored, _ = PreTrainedConfig.get_config_dict(model_args.model_name_or_path, revision=model_args.revision)
    is_new = "safety_config" not in stored
    if is_new and model_args.new_categories:
        raise ValueError(
            f"`new_categories` extends a trained checkpoint, and {model_args.model_name_or_path} has no safety "
            "modules yet: name all categories in `taxonomy_file`."
        )
    if is_new:
        config = config_class.from_base_config(
            config, **read_taxonomy(model_args.taxonomy_file), **safety_sizes(model_args)
        )
    else:
        _refuse_other_sizes(model_args, config.safety_config)
    model, processor = load(model_args, config)
    model.config.safety_config.is_trained = True  # in checkpoints on the way, too
    with whole_weights(model):
        if is_new:
            model.initialize_from_embeddings(processor.tokenizer)
        if model_args.new_categories:
            model.extend_categories(model_args.new_categories)
    if model_args.new_categories:
        processor.categories = model.config.safety_config.categories
    trainer = train(1, prepare_stage1(model), processor, data_args, training_args, model_args.risk_prior)
    return finish(1, trainer, model_args, data_args)


def read_taxonomy(path: str | None) -> dict[str, list[str]]:
    """`categories` and `levels`, either or both, from a YAML or JSON file; nothing from no file."""
    if path is None:
        return {}
    try:
        taxonomy = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is neither YAML nor JSON: {error}") from None
    is_valid = isinstance(taxonomy, dict) and set(taxonomy) <= {"categories", "levels"} and taxonomy
    if not is_valid or not all(isinstance(names, list) for names in taxonomy.values()):
        raise ValueError(f"{path} must hold lists of names under `categories` and `levels`, got {taxonomy!r}.")
    return {name: [str(item) for item in names] for name, names in taxonomy.items()}


def safety_sizes(model_args) -> dict:
    """The options that say how large new safety modules are, under the names of `SafetyConfig`."""
    return {
        "num_safety_tokens": model_args.num_safety_tokens,
        "num_condition_tokens": model_args.num_condition_tokens,
        "num_attention_heads": model_args.num_safety_heads,
        "projector_depth": model_args.projector_depth,
        "head_pooling": model_args.head_pooling,
        "head_gate_size": model_args.head_gate_size,
        "head_gate_dropout": model_args.head_gate_dropout,
    }


def _refuse_other_sizes(model_args, safety_config):
    overrides = safety_sizes(model_args)
    unset = {"num_attention_heads": "num_safety_heads"}
    if model_args.taxonomy_file is not None:
        raise ValueError(
            f"{model_args.model_name_or_path} already has safety modules with categories and levels of their own: "
            "leave `taxonomy_file` out, and add categories with `new_categories`."
        )
    other = {
        name: value
        for name, value in overrides.items()
        if value not in (getattr(safety_config, name), getattr(ModelArguments, unset.get(name, name)))
    }
    if other:
        raise ValueError(
            f"{model_args.model_name_or_path} already has safety modules, which {other} do not fit: start from a "
            "stock checkpoint, or leave these options out."
        )


def run_stage2(args: list[str] | None = None) -> SafetyTrainer:
    """Stage 2: the language model learns to answer under the conditions. `args` as in [`run_stage1`]."""
    model_args, data_args, training_args, lora_args = parse_arguments(2, args)
    if training_args.lm_loss_every != 1:
        raise ValueError(
            f"Stage 2 trains the language model: `lm_loss_every` must be 1, got {training_args.lm_loss_every}."
        )
    config_class = find_family(model_args.model_name_or_path, model_args.revision).config
    config = config_class.from_pretrained(model_args.model_name_or_path, revision=model_args.revision)
    if not config.safety_config.is_trained:
        raise ValueError(
            f"{model_args.model_name_or_path} has an untrained safety head, stage 2 needs the result of stage 1 "
            "(examples/run_stage1.py)."
        )
    _refuse_other_sizes(model_args, config.safety_config)
    if model_args.new_categories:
        raise ValueError("`new_categories` are learned in stage 1 (examples/run_stage1.py), not in stage 2.")
    if model_args.risk_prior is not None:
        raise ValueError("`risk_prior` is learned in stage 1 (examples/run_stage1.py), not in stage 2.")
    model, processor = load(model_args, config)
    set_seed(training_args.seed)  # for new adapters: loading draws numbers with ZeRO-3, and none without
    trainer = train(2, prepare_stage2(model, lora_args), processor, data_args, training_args)
    return finish(2, trainer, model_args, data_args, lora_args)


def load(model_args, config):
    """Model and processor of a checkpoint."""
    checkpoint, source = model_args.model_name_or_path, {"revision": model_args.revision}
    family = find_family(checkpoint, **source)
    model = family.model.from_pretrained(checkpoint, config=config, dtype=model_args.dtype, **source)
    processor = family.processor.from_pretrained(checkpoint, safety_config=config.safety_config, **source)
    return model, processor


def whole_weights(model):
    """A context in which what stage 1 starts from is whole, to be read and set: safety modules and word embeddings.
    DeepSpeed's ZeRO-3 shards all weights as they are loaded."""
    if not is_deepspeed_zero3_enabled():
        return nullcontext()
    import deepspeed

    weights = [weight for name, weight in model.named_parameters() if name.startswith(SAFETY_PREFIX)]
    return deepspeed.zero.GatheredParameters([*weights, model.get_input_embeddings().weight], modifier_rank=0)


def train(stage: int, model, processor, data_args, training_args, risk_prior: float | None = None) -> SafetyTrainer:
    """Train the parameters that require gradients; every record is checked before."""
    if any(weight.is_meta for weight in model.parameters()):
        raise ValueError(
            "With FSDP's `fsdp_cpu_ram_efficient_loading` only the main process has new weights, and only it would "
            "train them: set it to false."
        )
    safety_config = model.config.safety_config
    train_records, eval_records = load_data(stage, data_args, safety_config, training_args.seed)
    if risk_prior is not None:
        safety_config.safe_margin = safe_margin(train_records["safety_level"], risk_prior)
    trained, total = count_parameters(model)
    logger.info("Stage %d trains %d of %d parameters on %d records.", stage, trained, total, len(train_records))
    trainer = SafetyTrainer(
        model=model,
        args=training_args,
        data_collator=SafetyCollator(
            processor, safety_config, training_args.head_condition_share, training_args.unmasked_share
        ),
        train_dataset=train_records,
        eval_dataset=eval_records,
        processing_class=processor,
    )
    resume = training_args.resume_from_checkpoint
    if resume in ("true", "True"):  # from the command line; it means the last one
        resume = True
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def safe_margin(levels: list[int], risk_prior: float) -> float:
    """The log-odds of a risky record among those with a level, less those of a risky prompt in use."""
    if not 0 < risk_prior < 1:
        raise ValueError(f"`risk_prior` must be between 0 and 1, got {risk_prior}.")
    known = [level > 0 for level in levels if level >= 0]
    if len(set(known)) < 2:
        raise ValueError(
            f"`risk_prior` needs risky and clean training records, got {sum(known)} of {len(known)} risky."
        )
    odds = sum(known) / (len(known) - sum(known))
    return math.log(odds) - math.log(risk_prior / (1 - risk_prior))


def load_data(stage: int, data_args, safety_config, seed: int):
    """Training and validation records; RiskCards where no file is named."""
    clean_share = data_args.clean_share
    if clean_share is None and stage == 1:
        clean_share = PAPER_CLEAN_SHARE
    files = [data_args.train_file, data_args.validation_file, data_args.replay_file]
    if data_args.train_file is None:
        files = draw_files(stage, data_args, safety_config, seed, 0.5 if clean_share is None else clean_share)
    train_file, validation_file, replay_file = files
    names = {"categories": safety_config.categories, "levels": safety_config.levels}
    options = {"image_root": data_args.image_root, "skip_bad_records": data_args.skip_bad_records}
    records = load_records(train_file, **names, **options)
    if stage == 1:
        records = with_images(records)
    if data_args.train_file is not None and clean_share is not None:
        records = with_clean_share(records, clean_share, seed)
    if replay_file is not None:
        replay = load_records(replay_file, **names, **options)
        records = with_replay(records, with_images(replay) if stage == 1 else replay, data_args.replay_share, seed)
    records = with_lengths(records)
    if validation_file is None:
        return records, None
    held_out = load_records(validation_file, **names, **options)
    if len(held_out) > data_args.max_eval_samples:
        logger.warning(
            "Judging %d of %d validation records (--max_eval_samples).", data_args.max_eval_samples, len(held_out)
        )
        held_out = held_out.shuffle(seed=seed).select(range(data_args.max_eval_samples))
    return records, with_lengths(held_out)


def draw_files(stage: int, data_args, safety_config, seed: int, clean_share: float) -> list[Path | None]:
    """RiskCards to train on, to judge, and to replay where there is a new category; those that are named stay."""
    has_new = NEW_CATEGORY in safety_config.categories
    folder = Path(data_args.riskcards_dir) / f"seed{seed}"
    new = folder.with_name(f"{folder.name}-{NEW_CATEGORY}") if has_new else folder
    options = {"new_category": has_new, "surroundings": None if stage == 1 else "mixed-short"}
    train_file = write_riskcards(new, "train", data_args.num_riskcards, seed, clean_share, **options)
    validation_file = data_args.validation_file or write_riskcards(
        new, "validation", data_args.max_eval_samples, seed, new_category=has_new
    )
    replay_file = data_args.replay_file
    if has_new and replay_file is None:
        replay_file = write_riskcards(folder, "train", NUM_REPLAYED_RISKCARDS, seed, clean_share)
    return [train_file, validation_file, replay_file]


def with_lengths(records):
    """With a column `length` for `--train_sampling_strategy group_by_length`: how long all texts are, so that a long
    conversation pads no batch of short questions.

    In powers of four: sorted to the character, a batch would hold one question again and again, and so one label."""
    characters = [
        sum(len(part["text"] or "") for message in messages for part in message["content"])
        for messages in records["messages"]
    ]
    return records.add_column("length", [4 ** (count.bit_length() // 2) for count in characters])


def with_images(records):
    """Without plain text, in which the safety modules have no part; logs what is left out."""
    kept = [index for index, images in enumerate(records["images"]) if images]
    if not kept:
        raise ValueError("Stage 1 trains on images, and no record has one.")
    if len(kept) < len(records):
        logger.warning("Left out %d records without an image: stage 1 learns nothing there.", len(records) - len(kept))
    return records.select(kept)


def with_clean_share(records, clean_share: float, seed: int):
    """All risky records, and clean ones up to `clean_share` of the whole, chosen by `seed`; logs what is left out."""
    levels = records["safety_level"]
    risky = [index for index, level in enumerate(levels) if level > 0]
    clean = [index for index, level in enumerate(levels) if level <= 0]
    if not 0 <= clean_share <= 1:
        raise ValueError(f"`clean_share` must be in [0, 1], got {clean_share}.")
    wanted = len(clean) if clean_share == 1 or not risky else round(len(risky) * clean_share / (1 - clean_share))
    kept = random.Random(seed).sample(clean, min(wanted, len(clean)))
    if wanted > len(clean):
        logger.warning(
            "A clean share of %.3f wants %d clean records, the data has %d.", clean_share, wanted, len(clean)
        )
    if len(kept) < len(clean):
        logger.warning(
            "Left out %d of %d clean records to keep their share at %.3f.",
            len(clean) - len(kept),
            len(clean),
            clean_share,
        )
    return records.select(sorted(risky + kept))


def with_replay(records, replay, replay_share: float, seed: int):
    """The records and old ones, `replay_share` of the whole, chosen by `seed`; logs what is left out."""
    if not 0 <= replay_share < 1:
        raise ValueError(f"`replay_share` must be in [0, 1), got {replay_share}.")
    wanted = round(len(records) * replay_share / (1 - replay_share))
    if wanted > len(replay):
        logger.warning("A replay share of %.3f wants %d old records, there are %d.", replay_share, wanted, len(replay))
    chosen = sorted(random.Random(seed).sample(range(len(replay)), min(wanted, len(replay))))
    logger.info("Replaying %d of %d old records beside %d new ones.", len(chosen), len(replay), len(records))
    return concatenate_datasets([records, replay.select(chosen)])


def finish(stage: int, trainer: SafetyTrainer, model_args, data_args, lora_args=None) -> SafetyTrainer:
    """Write the run into the config, save model, processor and card, and push them where asked."""
    args, config = trainer.args, trainer.model.config
    metrics = trainer.evaluate() if trainer.eval_dataset is not None else {}
    metrics = {
        name: round(value, 4) for name, value in metrics.items() if name.startswith("eval_") and name not in SPEED
    }
    if _uses_lora(lora_args) and lora_args.merge_adapter:
        trainer.merge_adapter()
    record = dict(config.training_record or {"base_model": str(model_args.model_name_or_path), "stages": []})
    record["stages"] = [
        *[done for done in record["stages"] if done["stage"] < stage],
        {
            "stage": stage,
            "train_data": str(data_args.train_file or "RiskCards"),
            "num_records": len(trainer.train_dataset),
            "epochs": round(trainer.state.epoch, 2),
            "learning_rate": args.learning_rate,
            "batch_size": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
            **({"lora_r": lora_args.lora_r, "lora_alpha": lora_args.lora_alpha} if _uses_lora(lora_args) else {}),
            "seed": args.seed,
            "command": command_line(args.hub_token),
            "metrics": metrics,
        },
    ]
    record["figures"] = {name: metrics[f"eval_{name}"] for name in FIGURES if f"eval_{name}" in metrics}
    record["eval_data"] = str(data_args.validation_file or "RiskCards, validation split") if metrics else None
    device = torch.cuda.get_device_name() if args.device.type == "cuda" else f"{platform.machine()} CPU"
    record["machine"] = f"{device}, torch {torch.__version__}"
    config.training_record = record
    trainer.save_state()
    trainer.save_model()  # pushes, too, where asked
    trainer.create_model_card()
    return trainer


def _uses_lora(lora_args) -> bool:
    return lora_args is not None and lora_args.use_lora


def command_line(hub_token: str | None) -> str:
    """The command line for the record, which is published: no token, and no folders of this machine."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = ["python", "-m", spec.name.removesuffix(".__main__")] if spec else [sys.argv[0]]
    words = [Path(word).name if os.path.isabs(word) else word for word in [*program, *sys.argv[1:]]]
    return shlex.join("..." if hub_token and hub_token in word else word for word in words)
