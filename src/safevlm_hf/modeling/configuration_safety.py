"""Names and sizes of the safety modules of SafeVLM (arXiv 2405.13581), and the configuration of any safe model."""

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.utils import logging

from .json_files import read_policy
from .model_card import write_model_card
from .safety_code import RemoteCodeMixin, auto_map, save_code
from .safety_digest import safety_digests
from .safety_policy import DEFAULT_CATEGORIES, DEFAULT_LEVELS, SAFE, SafetyNames


logger = logging.get_logger(__name__)

# It holds where a config names none. As wide as a tower and more, the projector has 239 million parameters on
# Qwen2.5-VL-7B.
MAX_PROJECTOR_WIDTH = 1088
GRID_SIZE = 24  # LLaVA-1.5, the paper's backbone, has this grid
SMALLEST_BERT_VOCAB = 103  # with the marks [CLS] and [SEP] at 101 and 102


@strict
class SafetyConfig(PreTrainedConfig, SafetyNames):
    r"""
    The safety modules, for any vision language backbone. The projector's and the head's sizes are the published
    ones by default (arXiv 2405.13581, section 3). The windows, their gate and the condition tokens are ours:
    `head_pooling="first"` with `num_condition_tokens=0` is the published layout.

    Args:
        categories (`list[str]`, *optional*): names of the risk categories; exactly one is `"safe"`.
        levels (`list[str]`, *optional*): names of the risk levels, rising; the first is `"safe"`.
        num_safety_tokens (`int`, defaults to 64): vectors in each of the two sets s(1) and s(2). 0, with
            `num_condition_tokens=0`, leaves the backbone's answers as they are and gives verdicts alone.
        num_condition_tokens (`int`, defaults to 16): positions of the safety condition at the end of the image block.
            Families whose images take few positions have 16 and 8 by default (`SHORT_BLOCK`).
            0 gives the paper's block and leaves generation unconditioned.
        projector_depth (`int`, defaults to 3): blocks in each of the two RegNet stages.
        projector_mlp_depth (`int`, defaults to 2): linear layers after them.
        projector_hidden_size (`int`, *optional*): width of the stages; if unset the family's, at most 1,088 in all but
            LLaVA, where it is the published one: tower's width + `num_safety_tokens`.
        projector_grid_size (`int`, *optional*): side of the square of safety features; 24 if unset, or LLaVA's own
            patch grid, or that of a tile in SmolVLM and Idefics3 (at most 24).
        num_attention_heads (`int`, defaults to 8): heads of the safety head's cross-attention.
        head_pooling (`str`, defaults to `"windows"`): `"windows"` judges every run of consecutive question tokens, and
            the strictest one decides. `"mean"` judges the mean over the question, so harmless words around a risky
            request talk its verdict away. `"first"` takes the first token, as published: it is always BOS, and the
            question never reaches the verdict.
        head_window_sizes (`list[int]`, *optional*): lengths of the runs, in tokens; powers of two, rising, 4, 8, 16
            and 32 if unset.
        head_gate_size (`int`, defaults to 256): width of the layer that reads the words of a run together; 0 for none.
        head_gate_dropout (`float`, defaults to 0.1): share of the tokens that this layer misses in training.
        head_reading (`str`, defaults to `"embeddings"`): what the head reads of the question. `"embeddings"`: the
            language model's, as published. `"words"`: word vectors of its own, the same on every backbone.
        head_word_size (`int`, defaults to 128), head_hidden_size (`int`, defaults to 256), head_vocab_size (`int`,
            defaults to 30522): widths of the word vectors and of the windows' states, and number of vectors, with
            `head_reading="words"`. It reads windows alone.
        head_sentence_layers (`int`, defaults to 0), head_sentence_size (`int`, defaults to 384): layers and width of a
            BERT that reads runs of 32 words, too, with `head_reading="words"`; 0 layers for none.
        head_concepts (`int`, defaults to 0): what the picture shows and what a window asks about are multiplied for so
            many concepts, too, with `head_reading="words"`; 0 for none.
        safe_margin (`float`, defaults to 0.0): what the head's loss takes from the logits of safe. So probabilities
            are meant for prompts in use, of which fewer are risky than of the training data (stage 1's `risk_prior`).
        loss_weight (`float`, defaults to 10.0): weight of the head's loss beside the language model's.
        is_trained (`bool`, defaults to `False`): set by stage 1. Until then verdicts mean nothing.
    """

    model_type = "safevlm_safety"
    base_config_key = "safety_config"

    categories: list[str] | None = None
    levels: list[str] | None = None
    num_safety_tokens: int = 64
    num_condition_tokens: int = 16
    projector_depth: int = 3
    projector_mlp_depth: int = 2
    projector_hidden_size: int | None = None
    projector_grid_size: int | None = None
    num_attention_heads: int = 8
    head_pooling: Literal["windows", "mean", "first"] = "windows"
    head_window_sizes: list[int] | None = None
    head_gate_size: int = 256
    head_gate_dropout: float = 0.1
    head_reading: Literal["embeddings", "words"] = "embeddings"
    head_word_size: int = 128
    head_hidden_size: int = 256
    head_vocab_size: int = 30522
    head_sentence_layers: int = 0
    head_sentence_size: int = 384
    head_concepts: int = 0
    safe_margin: float = 0.0
    loss_weight: float = 10.0
    is_trained: bool = False

    def __post_init__(self, **kwargs):
        self.categories = list(DEFAULT_CATEGORIES) if self.categories is None else self.categories
        self.levels = list(DEFAULT_LEVELS) if self.levels is None else self.levels
        self.head_window_sizes = [4, 8, 16, 32] if self.head_window_sizes is None else self.head_window_sizes
        super().__post_init__(**kwargs)
        self._check_names()
        self._check_sizes()
        self._check_window_sizes()

    def _check_names(self):
        for field in ("categories", "levels"):
            names = getattr(self, field)
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated:
                raise ValueError(f"`{field}` must be different, and {repeated} would be there twice, got {names}.")
            if len(names) < 2 or not all(name.strip() for name in names):
                raise ValueError(f"`{field}` must hold at least two different, non-empty names, got {names}.")
            bad = [name for name in names if name == "*" or not name.isprintable()]
            if bad:
                raise ValueError(f"`{field}` must be printable and not '*' (in a policy: every category), got {bad}.")
        if SAFE not in self.categories:
            raise ValueError(f"`categories` must contain '{SAFE}', got {self.categories}.")
        if self.levels[0] != SAFE:
            raise ValueError(f"`levels` must begin with '{SAFE}', got {self.levels}.")

    def _check_sizes(self):
        minima = {
            "num_safety_tokens": 0,
            "num_condition_tokens": 0,
            "projector_depth": 0,
            "projector_mlp_depth": 1,
            "projector_hidden_size": 1,
            "projector_grid_size": 1,
            "num_attention_heads": 1,
            "head_gate_size": 0,
            "head_gate_dropout": 0,
            "head_word_size": 1,
            "head_hidden_size": 1,
            "head_vocab_size": 1,
            "head_sentence_layers": 0,
            "head_sentence_size": 32,
            "head_concepts": 0,
            "loss_weight": 0,
        }
        for field, minimum in minima.items():
            value = getattr(self, field)
            if value is not None and not minimum <= value < float("inf"):
                raise ValueError(f"`{field}` must be a finite number of at least {minimum}, got {value}.")
        if not math.isfinite(self.safe_margin):
            raise ValueError(f"`safe_margin` must be a finite number, got {self.safe_margin}.")
        if self.head_gate_dropout >= 1:
            raise ValueError(f"`head_gate_dropout` must be less than 1, got {self.head_gate_dropout}.")

    def _check_window_sizes(self):
        sizes = self.head_window_sizes
        if not sizes or sizes != sorted(set(sizes)) or any(size < 1 or size & (size - 1) for size in sizes):
            raise ValueError(f"`head_window_sizes` must be rising powers of two, as [4, 8, 16, 32], got {sizes}.")
        if self.head_reading != "words":
            for field in ("head_sentence_layers", "head_concepts"):
                if getattr(self, field):
                    raise ValueError(
                        f'`{field}` needs `head_reading="words"`, got {getattr(self, field)} and '
                        f"{self.head_reading!r}."
                    )
            return
        # A head with words of its own builds each window from two of half the size (`WindowTree`).
        if self.head_pooling != "windows" or any(2 * one != two for one, two in pairwise(sizes)):
            raise ValueError(
                '`head_reading="words"` needs `head_pooling="windows"` and `head_window_sizes` of which each is twice '
                f"the one before, got {self.head_pooling!r} and {sizes}."
            )
        if self.head_hidden_size % self.num_attention_heads:
            raise ValueError(
                f"`num_attention_heads` must divide `head_hidden_size`, got {self.num_attention_heads} and "
                f"{self.head_hidden_size}."
            )
        if self.head_sentence_layers and self.head_vocab_size < SMALLEST_BERT_VOCAB:
            raise ValueError(
                f"`head_sentence_layers` needs a `head_vocab_size` of at least {SMALLEST_BERT_VOCAB}, BERT's marks "
                f"among them, got {self.head_vocab_size}."
            )

    @property
    def reads_words(self) -> bool:
        return self.head_reading == "words"

    def warn_if_weak(self):
        """Warn, once, where verdicts mean nothing yet, and where answers are not conditioned on them."""
        if not self.num_condition_tokens:
            logger.warning_once(
                "This model has no condition tokens (`num_condition_tokens=0`, the paper's image block): verdicts are "
                "given, but answers are not conditioned on them."
            )
        if not self.is_trained:
            logger.warning_once(
                "The safety head of this model is untrained: its verdicts mean nothing before stage 1 "
                "(`safevlm train --stage 1`)."
            )


SHORT_BLOCK = {"num_safety_tokens": 16, "num_condition_tokens": 8}


@dataclass(kw_only=True, repr=False)
class SafeConfigMixin(RemoteCodeMixin):
    r"""
    The configuration of a safe model, in front of its backbone's configuration class. A family's class names its
    `model_type`, "safe_" and the stock one, which is the name of its file, too, and `default_safety`, fields of
    [`SafetyConfig`] with another default. The names of all of its classes begin like the configuration's.

    Args:
        safety_config (`SafetyConfig` or `dict`, *optional*): the safety modules.
        safety_policy (`dict`, *optional*): the checkpoint's policy, a copy of the one in `generation_config.json`, for
            where that file is lost.
        training_record (`dict`, *optional*): what made this checkpoint (base model, data, stages, figures); the model
            card is written from it.
        safety_digest (`dict`, *optional*): digests of names, head sizes, condition shape, refusal texts and policy,
            which `save_pretrained` renews; loading warns of what differs.
    """

    class_prefix: ClassVar[str]  # the names of a family's classes begin with it
    default_safety: ClassVar[dict] = {}

    safety_config: dict | PreTrainedConfig | None = None
    safety_policy: dict | None = None
    training_record: dict | None = None
    safety_digest: dict | None = None

    def __init_subclass__(cls, **kwargs):
        if "model_type" in vars(cls):
            cls.class_prefix = cls.__name__.removesuffix("Config")
            cls.sub_configs = {**cls.sub_configs, "safety_config": SafetyConfig}
        super().__init_subclass__(**kwargs)

    def __post_init__(self, **kwargs):
        if self.safety_config is None:
            self.safety_config = SafetyConfig(**self.default_safety)
        elif isinstance(self.safety_config, dict):
            self.safety_config = SafetyConfig(**{**self.default_safety, **self.safety_config})
        super().__post_init__(**kwargs)
        self.check_safety()

    def check_safety(self):
        """Raise `ValueError` where the safety modules do not fit the backbone."""
        hidden_size, heads = self.get_text_config().hidden_size, self.safety_config.num_attention_heads
        if hidden_size % heads:
            raise ValueError(
                f"`num_attention_heads` of the safety head must divide the language model's hidden size, got "
                f"num_attention_heads={heads} and hidden_size={hidden_size}."
            )

    @property
    def safety_feature_size(self) -> int:
        """Width of what the safety projector reads: the backbone's own features (h_i)."""
        return self.get_text_config().hidden_size

    @property
    def safety_projector_hidden_size(self) -> int:
        """Width of the safety projector's stages."""
        return self.safety_config.projector_hidden_size or min(self.safety_feature_size, MAX_PROJECTOR_WIDTH)

    @property
    def safety_grid_size(self) -> int:
        """Side of the square of safety features (h_s)."""
        return self.safety_config.projector_grid_size or GRID_SIZE

    @classmethod
    def from_base_config(cls, config: PreTrainedConfig, **safety_kwargs):
        """Build this configuration around the backbone's stock one; `safety_kwargs` go to [`SafetyConfig`]."""
        safety_config = SafetyConfig(**{**cls.default_safety, **safety_kwargs})
        new = {"safety_config": safety_config.to_dict(), "safety_digest": None}
        return cls.from_dict({**cls._as_safe(config.to_dict()), **new})

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs):
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        return cls._as_safe(config_dict), kwargs

    @classmethod
    def _as_safe(cls, config_dict: dict) -> dict:
        # A stock checkpoint is a valid start; only its type and architecture name differ.
        if config_dict.get("model_type") != cls.model_type.removeprefix("safe_"):
            return config_dict
        left_out = ("architectures", "transformers_version")
        stock = {key: value for key, value in config_dict.items() if key not in left_out}
        return {**stock, "model_type": cls.model_type}

    def save_pretrained(self, save_directory, **kwargs):
        # Loading from the Hub writes the repository into `auto_map`; a saved checkpoint carries its own code.
        self.auto_map = auto_map(self.model_type, self.class_prefix)
        self.safety_digest = safety_digests(self, [self.safety_policy, _policy_in(save_directory)])
        save_code(save_directory, self.model_type)
        write_model_card(save_directory, self)
        super().save_pretrained(save_directory, **kwargs)


def _policy_in(folder) -> dict | None:
    """Return the policy in the generation config that a folder holds; none where that cannot be used, which loading
    says."""
    file = Path(folder) / "generation_config.json"
    try:
        policy = read_policy(file) if file.is_file() else None
    except ValueError:
        return None
    return policy if isinstance(policy, dict) else None
