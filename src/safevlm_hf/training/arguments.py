"""Arguments of both stages. Learning rate, epochs, batch sizes and LoRA are the paper's by default (arXiv 2405.13581,
section 4); configs/ holds the demo's."""

import argparse
import logging
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments

from ..data import NANO_BASE
from ..files import check_writable, refuse_to_overwrite, write_text
from ..modeling.model_card import MAX_SCOPE
from ..strict_data import parse_yaml, shorten
from .checkpoints import checkpoint_to_resume, find_checkpoints, find_links, goes_on, listed


logger = logging.getLogger(__name__)

CONFIGS = Path(__file__).parent / "configs"
PAPER_CLEAN_SHARE = 3 / 14  # about 3,000 clean beside 11,000 risky pairs


def _size(what: str):
    """Return an option for new safety modules: unset, it is the family's default, or what a trained checkpoint has."""
    return field(default=None, metadata={"help": f"Stage 1: {what}."})


@dataclass
class ModelArguments:
    """The model that is trained, and what its new safety modules are like."""

    model_name_or_path: str = field(
        default=str(NANO_BASE),
        metadata={"help": "A stock checkpoint of a supported backbone (stage 1) or a stage 1 checkpoint (stage 2)."},
    )
    revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the checkpoint on the Hub."})
    dtype: str = field(
        default="float32",
        metadata={"help": "float32, bfloat16 or auto. At 1e-5 half-precision weights hardly move: use --bf16."},
    )
    num_safety_tokens: int | None = _size("vectors in each set of safety tokens; unset: 64, or 16 for short images")
    num_condition_tokens: int | None = _size("positions of the safety condition; unset: 16, or 8 for short images")
    num_safety_heads: int | None = _size("attention heads of the safety head; unset: 8")
    projector_depth: int | None = _size("RegNet blocks in each stage of the projector; unset: 3")
    projector_grid_size: int | None = _size(
        "side of the square of safety features; unset: the family's (24, where a picture does not become fewer)"
    )
    head_pooling: str | None = _size(
        "windows (words around a question take nothing away), mean, or first (paper); unset: windows"
    )
    head_gate_size: int | None = _size("width of the head's gate on words, 0 for none; unset: 256")
    head_gate_dropout: float | None = _size("share of tokens that the gate misses in training; unset: 0.1")
    head_reading: str | None = _size(
        "words (vectors of its own) or embeddings (the language model's, paper); unset: words, where it reads windows"
    )
    sentence_encoder: str | None = _size(
        "a sentence encoder with BERT's vocabulary (folder or Hub id, as sentence-transformers/all-MiniLM-L6-v2) that "
        "the head reads the question with, too; unset: none"
    )
    head_concepts: int | None = _size(
        "things that the head multiplies what the picture shows and what the question asks about for; unset: 0"
    )
    risk_prior: float | None = field(
        default=None,
        metadata={
            "help": "Stage 1: share of risky prompts in use, for which the verdict's probabilities are meant. Unset: "
            "that of the training data, or what the checkpoint was trained for."
        },
    )
    taxonomy_file: str | None = field(
        default=None,
        metadata={"help": "Stage 1, new safety modules: YAML or JSON with `categories` and `levels` of your own."},
    )
    new_categories: list[str] | None = field(
        default=None, metadata={"help": "Stage 1, trained checkpoint: categories to add. Use with --replay_file."}
    )


@dataclass
class DataArguments:
    """The data that it is trained on, and judged on."""

    train_file: str | None = field(
        default=None,
        metadata={
            "help": "JSON lines, or a data set as org/name or org/name:split (a folder, too); RiskCards if unset."
        },
    )
    validation_file: str | None = field(
        default=None,
        metadata={
            "help": "As train_file, judged at the end, and on the way with eval_strategy. A data set's split is "
            "validation."
        },
    )
    image_root: str | None = field(default=None, metadata={"help": "Folder of the images; each file's own if unset."})
    clean_share: float | None = field(
        default=None,
        metadata={
            "help": "Share of clean records; surplus ones of train_file are left out. The paper's stage 1 has 0.214, "
            "3 in 14. Unset: none is left out, and RiskCards are drawn with that share in stage 1, half in stage 2."
        },
    )
    skip_bad_records: bool = field(default=False, metadata={"help": "Count and name bad records instead of stopping."})
    replay_file: str | None = field(
        default=None, metadata={"help": "As train_file: old records, mixed in so that nothing is forgotten."}
    )
    replay_share: float = field(default=0.5, metadata={"help": "Share of old records in the whole, below 1."})
    max_eval_samples: int = field(default=128, metadata={"help": "Validation records judged at an evaluation."})
    riskcards_dir: str = field(default="runs/riskcards", metadata={"help": "Where RiskCards are drawn."})
    num_riskcards: int = field(default=3000, metadata={"help": "Size of the drawn training set."})
    num_text_only: int = field(
        default=0, metadata={"help": "Stage 2: drawn records without a picture, beside num_riskcards."}
    )
    scope: str | None = field(
        default=None,
        metadata={
            "help": "What the training data show and do not, in one sentence for the model card, the page and the "
            "command line, as: photographs of streets, English questions; no drawings. Unset: what the checkpoint's "
            "record says, or where RiskCards begin it, theirs."
        },
    )
    varied_shapes: bool = field(
        default=False,
        metadata={"help": "RiskCards of several sizes and shapes, for backbones that see pictures as they are."},
    )

    def __post_init__(self):
        if self.scope is not None and not (self.scope.strip() and len(self.scope) <= MAX_SCOPE):
            raise ValueError(f"`scope` must have 1 to {MAX_SCOPE} characters, got {len(self.scope.strip())}.")


@dataclass
class LoraArguments:
    """The change of the language model in stage 2."""

    use_lora: bool = field(default=True, metadata={"help": "LoRA, or full fine-tuning of the language model."})
    lora_r: int = field(default=256, metadata={"help": "Rank."})
    lora_alpha: int = field(default=16, metadata={"help": "Scale is alpha / rank."})
    lora_dropout: float = field(default=0.05, metadata={"help": "Dropout in front of the adapters."})
    merge_adapter: bool = field(
        default=True, metadata={"help": "Save merged weights, or the adapter alone (stage 1's result stays needed)."}
    )


WRITTEN = {".json", ".safetensors", ".bin", ".jinja", ".py", ".txt", ".model"}
"""Endings of the files that a stage writes; a config or a log of the run may lie beside them."""


@dataclass
class SafetyTrainingArguments(TrainingArguments):
    """Transformers' `TrainingArguments` with the paper's defaults, and what else both stages take. Its other fields
    are as Transformers documents them."""

    output_dir: str = field(default="runs/stage", metadata={"help": "Where checkpoints and the result go."})
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Replace the model that output_dir holds; without it that is an error."}
    )
    save_total_limit: int | None = field(
        default=1, metadata={"help": "Checkpoints on the way that are kept, the last ones; 0 keeps all."}
    )
    logging_steps: float = field(
        default=1, metadata={"help": "Steps between two logs; a terminal and a log file show one every few seconds."}
    )
    eval_steps: float | None = field(
        default=500, metadata={"help": "Steps between two evaluations with `--eval_strategy steps`."}
    )
    learning_rate: float = field(default=1e-5)
    num_train_epochs: float = field(default=3.0)
    per_device_train_batch_size: int = field(default=2)
    remove_unused_columns: bool = field(default=False, metadata={"help": "The collator needs all columns."})
    head_condition_share: float = field(
        default=0.25,
        metadata={
            "help": "Share of records answered under the head's verdict instead of the label's, so that a wrong "
            "verdict does not disarm the language model."
        },
    )

    unmasked_share: float = field(
        default=0.25,
        metadata={
            "help": "Share of records whose whole prompt counts as the question, with an operator's rules and earlier "
            "answers: callers who pass no question mask must not be refused for those."
        },
    )
    lm_loss_every: int = field(
        default=1,
        metadata={
            "help": "Stage 1: compute the language model's loss at every n-th step alone, weighted n-fold. The mean "
            "is the same and most of the cost is saved: it trains s(2) and the conditions, the head's loss all else. "
            "0: never."
        },
    )
    word_reader_rate: float = field(
        default=0.0,
        metadata={
            "help": "Stage 1, a head of words: how fast the states of its windows learn, as a share of learning_rate. "
            "0: they stay as `train_word_reader.py` made them, which is best for questions like RiskCards'."
        },
    )
    feature_cache_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder in which the frozen tower's features of each picture are kept, computed once for all "
            "epochs and runs; for backbones that give all pictures one shape. Unset: they are computed for each batch."
        },
    )

    def __post_init__(self):
        if self.disable_tqdm is None:
            self.disable_tqdm = not sys.stderr.isatty()  # in a log file lines are read, see terminal.py
        super().__post_init__()
        # Without an accelerator torch only warns of it.
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.accelerator.is_available()
        if self.lm_loss_every < 0:
            raise ValueError(f"`lm_loss_every` must be 0 or more, got {self.lm_loss_every}.")
        if self.label_smoothing_factor:
            raise ValueError("`label_smoothing_factor` has no effect here: the model computes its own losses.")
        for name in ("head_condition_share", "unmasked_share", "word_reader_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be in [0, 1], got {getattr(self, name)}.")

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """Return the steps as [`TrainingArguments.get_warmup_steps`]; a tenth of a training that is shorter than its
        warm-up."""
        wanted = super().get_warmup_steps(num_training_steps)
        if wanted <= num_training_steps:
            return wanted
        # A warm-up that is longer than the training would never reach the learning rate.
        shortened = num_training_steps // 10
        logger.warning(
            "`warmup_steps` is %d, and the training has %d steps: its warm-up is shortened to %d.",
            wanted,
            num_training_steps,
            shortened,
        )
        return shortened

    def __getstate__(self) -> dict:
        """Leave the token out: the Trainer writes its arguments beside the weights and publishes both."""
        return {**vars(self), "hub_token": None}

    def refuse_to_overwrite(self):
        """Raise `ValueError` where `output_dir` cannot be written, or holds a model, a part of one, or checkpoints,
        whole or not, unless they are to be replaced, or the run that lies there to be resumed. Raise, too, where a run
        is to be resumed and there is no whole checkpoint, and where a checkpoint's name is a link."""
        folder = Path(self.output_dir)
        check_writable(folder, is_folder=True)
        if links := find_links(folder):
            raise ValueError(
                f"{folder} holds links where checkpoints would be written: {listed(links)}. Remove them, or name "
                "another `output_dir`."
            )
        resumed = checkpoint_to_resume(folder, self.resume_from_checkpoint)
        if self.overwrite_output_dir or goes_on(folder, resumed):
            return
        if any((folder / name).exists() for name in ("config.json", "adapter_config.json")):
            raise ValueError(
                f"{folder} holds a model: `--overwrite_output_dir` replaces it, and another `output_dir` keeps it."
            )
        whole, half = find_checkpoints(folder)
        if whole:
            raise ValueError(
                f"{folder} holds checkpoints of a run that did not end: `--resume_from_checkpoint true` goes on from "
                "the last one, and `--overwrite_output_dir` begins anew."
            )
        if half:
            raise ValueError(
                f"{folder} holds {listed(half)}, no whole checkpoint to go on from: `--overwrite_output_dir` removes "
                "it, and another `output_dir` keeps it."
            )
        # Files of the user's own may lie there, and one that a stage would write over is refused.
        for file in sorted(folder.glob("*")):
            if file.suffix in WRITTEN:
                refuse_to_overwrite(file, "`--overwrite_output_dir` replaces it, another `output_dir` keeps it")


STAGE_DEFAULTS = {
    1: {"output_dir": "runs/stage1", "gradient_accumulation_steps": 16, "warmup_steps": 20},
    2: {
        "output_dir": "runs/stage2",
        "gradient_accumulation_steps": 8,
        "warmup_steps": 300,
        "model_name_or_path": "runs/stage1",
    },
}


def parse_arguments(stage: int, args: list[str] | None = None):
    """
    Return the arguments of a stage: flags, and a YAML file in front of them that sets their defaults.

    Args:
        stage: 1 or 2.
        args: as `sys.argv[1:]`. Where they do not say what is trained (see [`says_what_is_trained`]), the file is the
            embedded default, configs/nano_stage{1,2}.yaml.

    Returns:
        (`ModelArguments`, `DataArguments`, `SafetyTrainingArguments`), and `LoraArguments` fourth in stage 2.

    Raises:
        ValueError: an option is unknown, or has a value of another type; the message names it, and the file.
    """
    args = list(sys.argv[1:] if args is None else args)
    classes = [ModelArguments, DataArguments, SafetyTrainingArguments] + ([LoraArguments] if stage == 2 else [])
    parser = HfArgumentParser(
        classes,  # type: ignore[arg-type]  # transformers' `DataClassType` is a type of its own, which no dataclass has
        description=f"Stage {stage} of SafeVLM's training.",
        allow_abbrev=False,
        exit_on_error=False,
    )
    types = {name: kind for one in classes for name, kind in get_type_hints(one).items()}
    parser.set_defaults(**STAGE_DEFAULTS[stage])
    if not says_what_is_trained(args):
        args.insert(0, str(nano_config(stage)))
    # The file's values become the parser's defaults, so that flags win over them.
    if is_yaml(args[0]):
        parser.set_defaults(**_read_yaml(args.pop(0), parser, types))
    try:
        *parsed, unknown = parser.parse_args_into_dataclasses(args, return_remaining_strings=True)
    except argparse.ArgumentError as error:
        hint = "; a YAML file stands in front of all flags" if any(map(is_yaml, args)) else ""
        raise ValueError(f"{error}{hint}") from None
    _refuse_unknown(unknown, [f"--{name}" for name in types], "the command line")
    return tuple(parsed)


def says_what_is_trained(args: list[str]) -> bool:
    """Tell whether there are more arguments than `--overwrite_output_dir`, which is about an earlier result alone."""
    flags = [word.partition("=")[0].replace("-", "_") for word in args if word.startswith("--")]
    return is_yaml(*args[:1]) or any(flag != "__overwrite_output_dir" for flag in flags)


def is_yaml(word: str = "") -> bool:
    """Tell whether an argument is the name of a YAML file."""
    return not word.startswith("-") and word.endswith((".yaml", ".yml"))


def _read_yaml(path: str, parser: HfArgumentParser, types: Mapping[str, Any]) -> dict:
    """Return the options in a YAML file. Numbers, text, true and false are read as behind a flag, so that both take
    the same; lists, settings by name and null stand as they are, where the option has them."""
    values = parse_yaml(Path(path).read_bytes(), path) or {}
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold options and their values (`seed: 1`), got a {type(values).__name__}.")
    _refuse_unknown(values, types, path)
    for name, value in values.items():
        # The parser reads the value as text behind a flag, so that both take the same and raise the same.
        if not isinstance(value, (list, dict, NoneType)):
            try:
                values[name] = getattr(parser.parse_args([f"--{name}={value}"]), name)
            except argparse.ArgumentError as error:
                raise ValueError(f"{path}: `{name}`: {error.message}") from None
            continue
        kind = types[name]
        kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
        if type(value) not in [get_origin(one) or one for one in kinds]:
            expected = " or ".join(getattr(one, "__name__", str(one)) for one in kinds if one is not NoneType)
            raise ValueError(f"{path}: `{name}` must be of type {expected}, got {shorten(value)}.")
    return values


def _refuse_unknown(given: Iterable, known: Iterable[str], place: str):
    """Raise for the first name that is none; a hint where it is nearly one."""
    for name in map(str, given):
        if name not in known:
            alike = get_close_matches(name.replace("-", "_") if name[:1] != "-" else name, known, 1)
            raise ValueError(f"unknown option {name} in {place}" + (f"; is it {alike[0]}?" if alike else "."))


def write_nano_config(stage: int, path: Path, overwrite: bool = True, **overrides) -> str:
    """Write the embedded default's YAML with other values; returns its path. Without `overwrite` a file with other
    content is an error."""
    text = yaml.safe_dump(yaml.safe_load(nano_config(stage).read_text()) | overrides, sort_keys=False)
    if not overwrite and not (path.is_file() and path.read_bytes() == text.encode()):
        refuse_to_overwrite(path, "`--overwrite_output_dir` replaces it, another `--output_dir` keeps it")
    return str(write_text(path, text))


def nano_config(stage: int) -> Path:
    """Return the YAML file of the embedded default."""
    return CONFIGS / f"nano_stage{stage}.yaml"
