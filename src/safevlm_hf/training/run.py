"""The main of both stages, called by examples/run_stage1.py and examples/run_stage2.py."""

import logging
import math
import os
import platform
import shlex
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
from transformers import PreTrainedConfig, set_seed
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.trainer_utils import HubStrategy

from ..checkpoints.families import find_family
from ..checkpoints.word_reader import new_reading, read_encoder_sizes, start_sentence_reader, start_word_reader
from ..data.riskcards.tables import TOPICS, scope_of
from ..data.taxonomy import read_taxonomy
from ..extras import needs_extra
from ..modeling.configuration_safety import SafetyConfig
from .arguments import parse_arguments
from .cached_features import CachedFeatures
from .checkpoints import checkpoint_to_resume, find_checkpoints, goes_on, missing_part, warn_of_size
from .collator import SafetyCollator
from .data import find_files, load_data
from .figures import FIGURES, most_frequent_shares, warn_at_chance
from .stages import SAFETY_PREFIX, count_parameters, known_runs, prepare_stage1, prepare_stage2, unwrap
from .trainer import SafetyTrainer


logger = logging.getLogger(__name__)

SPEED = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second")


def run_stage1(args: list[str] | None = None) -> SafetyTrainer:
    """Run stage 1: a stock checkpoint becomes one with a trained head. `args` as `sys.argv[1:]`, which is the
    default."""
    model_args, data_args, training_args = parse_arguments(1, args)
    training_args.refuse_to_overwrite()
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
            config,
            **read_taxonomy(model_args.taxonomy_file),
            **new_reading(safety_sizes(model_args)),
            **read_encoder_sizes(model_args.sentence_encoder),
        )
    else:
        _refuse_other_sizes(model_args, config.safety_config)
    # Records are checked against the categories that the model will have, before it is loaded.
    data = read_data(1, data_args, training_args, with_new_categories(config.safety_config, model_args.new_categories))
    model, processor = load(model_args, config)
    model.config.safety_config.is_trained = True  # in checkpoints on the way, too
    with whole_weights(model):
        if is_new:
            model.initialize_from_embeddings(processor.tokenizer)
            start_word_reader(model)
            start_sentence_reader(model, model_args.sentence_encoder)
        if model_args.new_categories:
            model.extend_categories(model_args.new_categories)
    if model_args.new_categories:
        processor.categories = model.config.safety_config.categories
    prepare_stage1(model, trains_word_reader=training_args.word_reader_rate > 0)
    trainer = train(1, model, processor, data, training_args, model_args.risk_prior)
    return finish(1, trainer, model_args, data_args)


def with_new_categories(safety_config: SafetyConfig, names: list[str] | None) -> SafetyConfig:
    """Return the config as it will be when it has been extended."""
    fields = safety_config.to_dict()
    return SafetyConfig(**{**fields, "categories": [*fields["categories"], *(names or ())]})


def safety_sizes(model_args) -> dict:
    """Return the options that are set of those for new safety modules, under the names of `SafetyConfig`."""
    sizes = {
        "num_safety_tokens": model_args.num_safety_tokens,
        "num_condition_tokens": model_args.num_condition_tokens,
        "num_attention_heads": model_args.num_safety_heads,
        "projector_depth": model_args.projector_depth,
        "projector_grid_size": model_args.projector_grid_size,
        "head_pooling": model_args.head_pooling,
        "head_gate_size": model_args.head_gate_size,
        "head_gate_dropout": model_args.head_gate_dropout,
        "head_reading": model_args.head_reading,
        "head_concepts": model_args.head_concepts,
    }
    return {name: value for name, value in sizes.items() if value is not None}


def _refuse_other_sizes(model_args, safety_config):
    if model_args.taxonomy_file is not None:
        raise ValueError(
            f"{model_args.model_name_or_path} already has safety modules with categories and levels of their own: "
            "leave `taxonomy_file` out, and add categories with `new_categories`."
        )
    if model_args.sentence_encoder is not None:
        raise ValueError(
            f"{model_args.model_name_or_path} already has safety modules, and a sentence encoder is a part of new "
            "ones: leave `sentence_encoder` out, or start from a stock checkpoint."
        )
    asked = safety_sizes(model_args)
    there = {name: getattr(safety_config, name) for name in asked}
    if asked != there:
        raise ValueError(
            f"{model_args.model_name_or_path} already has safety modules, with {there}, and {asked} was asked for: "
            "start from a stock checkpoint, or leave these options out."
        )


def run_stage2(args: list[str] | None = None) -> SafetyTrainer:
    """Run stage 2: the language model learns to answer under the conditions. `args` as in [`run_stage1`]."""
    model_args, data_args, training_args, lora_args = parse_arguments(2, args)
    training_args.refuse_to_overwrite()
    if training_args.lm_loss_every != 1:
        raise ValueError(
            f"Stage 2 trains the language model: `lm_loss_every` must be 1, got {training_args.lm_loss_every}."
        )
    config_class = find_family(model_args.model_name_or_path, model_args.revision).config
    config = config_class.from_pretrained(model_args.model_name_or_path, revision=model_args.revision)
    if not config.safety_config.is_trained:
        raise ValueError(
            f"{model_args.model_name_or_path} has an untrained safety head, stage 2 needs the result of stage 1 "
            "(`safevlm train --stage 1`)."
        )
    _refuse_other_sizes(model_args, config.safety_config)
    warn_at_chance(model_args.model_name_or_path, config.training_record)
    if model_args.new_categories:
        raise ValueError("`new_categories` are learned in stage 1 (`safevlm train --stage 1`), not in stage 2.")
    if model_args.risk_prior is not None:
        raise ValueError("`risk_prior` is learned in stage 1 (`safevlm train --stage 1`), not in stage 2.")
    data = read_data(2, data_args, training_args, config.safety_config)
    model, processor = load(model_args, config)
    set_seed(training_args.seed)  # for new adapters: loading draws numbers with ZeRO-3, and none without
    if _is_merged(lora_args) and training_args.push_to_hub:
        # Checkpoints on the way are adapters of a stage 1 that lies on this machine. The Trainer would push them, and
        # leave them beside the merged weights, to be applied once more.
        training_args.hub_strategy = HubStrategy.END
    trainer = train(2, prepare_stage2(model, lora_args), processor, data, training_args)
    return finish(2, trainer, model_args, data_args, lora_args)


def read_data(stage: int, data_args, training_args, safety_config: SafetyConfig):
    """Return training and validation records. Every one is checked, before the model is loaded."""
    with training_args.main_process_first(local=True):  # it writes a data set's pictures, and the others find them
        find_files(data_args)  # `load_data` finds these files again
    return load_data(stage, data_args, safety_config, training_args.seed)


def load(model_args, config):
    """Load model and processor of a checkpoint."""
    checkpoint, source = model_args.model_name_or_path, {"revision": model_args.revision}
    family = find_family(checkpoint, **source)
    model = family.model.from_pretrained(checkpoint, config=config, dtype=model_args.dtype, **source)
    processor = family.processor.from_pretrained(checkpoint, safety_config=config.safety_config, **source)
    return model, processor


def whole_weights(model):
    """Return a context in which what stage 1 starts from is whole, to be read and set: safety modules and word
    embeddings. DeepSpeed's ZeRO-3 shards all weights as they are loaded."""
    if not is_deepspeed_zero3_enabled():
        return nullcontext()
    with needs_extra("deepspeed"):
        import deepspeed

    weights = [weight for name, weight in model.named_parameters() if name.startswith(SAFETY_PREFIX)]
    return deepspeed.zero.GatheredParameters([*weights, model.get_input_embeddings().weight], modifier_rank=0)


def train(stage: int, model, processor, data, training_args, risk_prior: float | None = None) -> SafetyTrainer:
    """Train the parameters that require gradients on `data`: training and validation records."""
    if any(weight.is_meta for weight in model.parameters()):
        raise ValueError(
            "With FSDP's `fsdp_cpu_ram_efficient_loading` only the main process has new weights, and only it would "
            "train them: set it to false."
        )
    if training_args.n_gpu > 1:
        raise ValueError(
            f"{training_args.n_gpu} GPUs are visible to one process, and a batch of pictures cannot be cut for them: "
            f"start one process for each (`torchrun --nproc_per_node {training_args.n_gpu} ...`, see docs/scale.md), "
            "or show one alone (`CUDA_VISIBLE_DEVICES=0`)."
        )
    safety_config = model.config.safety_config
    train_records, eval_records = data
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
    if trainer.is_sharded:
        _refuse_plain_text(train_records, eval_records)
    if training_args.feature_cache_dir is not None:
        cache_features(trainer, training_args.feature_cache_dir)
    resumed = checkpoint_to_resume(training_args.output_dir, training_args.resume_from_checkpoint)
    trainer.accelerator.wait_for_everyone()  # or one process would look where the main one removes
    if trainer.is_world_process_zero():
        _set_in_order(training_args, resumed)
        warn_of_size(model, training_args)
    trainer.accelerator.wait_for_everyone()
    # Where weights are sharded, every process has to make the same calls.
    with nullcontext() if trainer.is_sharded else known_runs(model):
        trainer.train(resume_from_checkpoint=resumed)
    return trainer


def _set_in_order(args, resumed: str | None):
    """Say which checkpoints are not whole. Where the run in `output_dir` is to be overwritten, remove all, or a later
    one would be resumed from them."""
    whole, half = find_checkpoints(args.output_dir)
    going_on = "begins anew" if resumed is None else f"goes on from {resumed}"
    for folder in half:
        logger.warning(
            "%s is not whole, as of a run that was ended while it was written (%s is missing or breaks off): the "
            "training %s.",
            folder,
            missing_part(folder),
            going_on,
        )
    if args.overwrite_output_dir and not goes_on(args.output_dir, resumed):
        source = Path(resumed or os.devnull).resolve()  # the run may go on from one of them, which stays
        for folder in (*whole, *half):
            if folder.resolve() not in source.parents:
                shutil.rmtree(folder)


def cache_features(trainer: SafetyTrainer, folder: str):
    """Compute the features of all pictures of the run that are not in `folder` yet, and train on those. Each process
    computes its share."""
    if trainer.is_sharded:
        raise ValueError("`feature_cache_dir` needs whole weights: with FSDP or DeepSpeed leave it out.")
    args = trainer.args
    features = CachedFeatures(unwrap(trainer.model), trainer.processing_class, folder, trainer.accelerator.autocast)
    records = filter(None, (trainer.train_dataset, trainer.eval_dataset))
    references = [image for data in records for images in data["images"] for image in images]
    share = slice(args.process_index, None, args.world_size)
    features.fill(references, share, is_shown=trainer.is_world_process_zero())
    trainer.accelerator.wait_for_everyone()
    features.store.find_shards()
    trainer.data_collator.features = features  # type: ignore[union-attr]  # a `SafetyCollator`, made in `train`


def _refuse_plain_text(*data):
    """Raise where a record has no image: processes that share the weights must compute the same layers, and without a
    picture some have no part."""
    for records in filter(None, data):
        without = [source for images, source in zip(records["images"], records["source"]) if not images]
        if without:
            raise ValueError(
                f"{len(without)} records have no image, as {without[0]}: with FSDP or DeepSpeed every record needs "
                "one. Leave them out, or train without sharding (DDP)."
            )


def safe_margin(levels: list[int], risk_prior: float) -> float:
    """Return the log-odds of a risky record among those with a level, less those of a risky prompt in use."""
    if not 0 < risk_prior < 1:
        raise ValueError(f"`risk_prior` must be between 0 and 1, got {risk_prior}.")
    known = [level > 0 for level in levels if level >= 0]
    if len(set(known)) < 2:
        raise ValueError(
            f"`risk_prior` needs risky and clean training records, got {sum(known)} of {len(known)} risky."
        )
    odds = sum(known) / (len(known) - sum(known))
    return math.log(odds) - math.log(risk_prior / (1 - risk_prior))


def finish(stage: int, trainer: SafetyTrainer, model_args, data_args, lora_args=None) -> SafetyTrainer:
    """Write the run into the config, save model, processor and card, and push them where asked."""
    args, config = trainer.args, unwrap(trainer.model).config
    metrics = trainer.evaluate() if trainer.eval_dataset is not None else {}
    metrics = {
        name: round(value, 4) for name, value in metrics.items() if name.startswith("eval_") and name not in SPEED
    }
    metrics |= most_frequent_shares(trainer.eval_dataset)
    if _is_merged(lora_args):
        # The evaluation comes first: sharded processes cannot evaluate once the weights are merged.
        trainer.merge_adapter()
    record = dict(config.training_record or {"base_model": public(model_args.model_name_or_path), "stages": []})
    begins_with_riskcards = data_args.train_file is None and not record["stages"]
    record["scope"] = data_args.scope or record.get("scope") or (scope_of(TOPICS) if begins_with_riskcards else None)
    record["stages"] = [
        *record["stages"],
        {
            "stage": stage,
            "train_data": public(data_args.train_file or "RiskCards"),
            "num_records": len(trainer.train_dataset),  # type: ignore[arg-type]  # records, which have a length
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
    record["eval_data"] = public(data_args.validation_file or "RiskCards, validation split") if metrics else None
    device = torch.cuda.get_device_name() if args.device.type == "cuda" else f"{platform.machine()} CPU"
    record["machine"] = f"{device}, torch {torch.__version__}"
    config.training_record = record
    if trainer.is_world_process_zero():
        # An older result must go: its adapter would be applied to the new weights, or its weights hide a new adapter.
        for pattern in ("config.json", "model*.safetensors", "model.safetensors.index.json", "adapter_*"):
            for file in Path(args.output_dir).glob(pattern):
                file.unlink()
    trainer.save_state()
    trainer.save_model()  # pushes, too, where asked
    trainer.create_model_card()
    trainer.accelerator.wait_for_everyone()  # the next stage reads what the main process writes
    return trainer


def _uses_lora(lora_args) -> bool:
    return lora_args is not None and lora_args.use_lora


def _is_merged(lora_args) -> bool:
    return _uses_lora(lora_args) and lora_args.merge_adapter


def public(name: str | os.PathLike) -> str:
    """Return a name for the record, which is published: of a folder or file of this machine its last part alone."""
    return Path(name).name if os.path.isabs(name) else str(name)


def command_line(hub_token: str | None) -> str:
    """Return the command line for the record, which is published: no token, and no folders of this machine."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = ["python", "-m", spec.name.removesuffix(".__main__")] if spec else [sys.argv[0]]
    words = ["=".join(map(public, word.split("=", 1))) for word in [*program, *sys.argv[1:]]]
    return shlex.join("..." if hub_token and hub_token in word else word for word in words)
