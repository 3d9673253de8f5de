"""The safety layer on a vision language model (SafeVLM: arXiv 2405.13581, arXiv 2411.11543), for any backbone.

Each image becomes one block of positions, [ s(2) | h_i | c ]: safety tokens, the backbone's own features, safety
condition. The verdict is computed where the image features are, so it rides inside the block through every way of
generating. A family (`safe_*.py`) puts the mixins of this file in front of its backbone's classes.
"""

import inspect
import warnings
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import logging, torch_compilable_check
from transformers.utils.generic import can_return_tuple

from .configuration_safety import SafetyConfig
from .generation_safety import CACHE, SafetyGenerationMixin, check_modalities, verdict_output
from .safety_adapters import SparesVerdictMixin
from .safety_cache import is_generating, mark_free_cache, read_state, take_free_cache, write_state
from .safety_checkpoint import SafeCheckpointMixin
from .safety_code import CarriesCodeMixin
from .safety_explanation import SafetyExplanation, explain_head
from .safety_inputs import SafetyFields, SafetyImageOutput, SafetyInputs, SafetyLossFields, SafetyOutput
from .safety_modules import (
    SafetyConditions,
    SafetyHead,
    SafetyProjector,
    SafetyTokens,
    clean_losses,
    init_safety_weights,
    less_safe,
)
from .safety_policy import DEFAULT_POLICY, SafetyDecision, SafetyPolicy, condition_text, is_readable
from .safety_signatures import forward_of_backbone, with_fields, with_signature_of


logger = logging.get_logger(__name__)

NEW_CATEGORY_LOGIT = -10.0  # so that a category is not seen before it is trained
TOKEN_TYPES = ("mm_token_type_ids", "token_type_ids")  # what a processor gives and a verdict does not need
MAX_PIXEL = 1000.0  # Largest plausible `pixel_values`: normalised images reach about 3, unnormalised ones 255.


class SafePreTrainedModelMixin(SparesVerdictMixin, SafeCheckpointMixin, CarriesCodeMixin):
    """What base model and generating model of a family have in common, in front of [`PreTrainedModel`]."""

    # Quantisers leave them as they are, by the start of a module's name, in the whole model or the base model.
    _keep_in_fp32_modules = [r"(?:model\.)?safety_\w+"]
    _no_split_modules = ["SafetyHead", "SafetyProjector"]

    @property
    def vision_modules(self) -> str:
        """The tower and its connector, as a regular expression for quantisers, which leave them out: in 4 bits a tower
        moves verdicts (docs/deployment.md), and a narrow connector does not fit their blocks."""
        return rf"(?:model\.)?(?:{'|'.join(self.base_model.vision_children)})"

    @classmethod
    def is_custom_code(cls) -> bool:
        # The library skips parts of initialisation for custom code; this one follows the library's own rules.
        return False

    def _init_weights(self, module):
        if not init_safety_weights(module):
            super()._init_weights(module)

    def post_init(self):
        super().post_init()
        # CLIP names a module that only its text side has, and FSDP's wrapping stops at one that it does not find.
        self._no_split_modules &= {type(module).__name__ for module in self.modules()}
        if getattr(self.config, "quantization_config", None) is not None:
            self._keep_in_fp32_modules.add(self.vision_modules)

    def _get_dtype_plan(self, dtype: torch.dtype) -> dict:
        # Quantisers leave tower and connector in the dtype that was asked for.
        return {name: kept for name, kept in super()._get_dtype_plan(dtype).items() if name != self.vision_modules}


class SafeModelMixin:
    """
    A backbone's base model with safety projector, safety tokens, safety head and condition table.

    A family's class stands in front of the backbone's base model and writes one method, `get_image_features`: it
    encodes as the backbone does, and hands h_i and the map that the safety projector reads to `judge_images`.

    Attributes:
        output_class: what `forward` returns, the stock class with [`SafetyFields`].
        image_arguments: names of what `get_image_features` takes besides `pixel_values`.
        own_image_arguments: those of them that the backbone does not know.
        pixel_values_ndim: dimensions of `pixel_values`.
        has_structure_tokens: whether the processor writes tokens inside a block, which are no question. Elsewhere what
            stands there is words that somebody has put there, and counts.
        pools_tensor: whether the backbone's `forward` reads one tensor in place of a list with an entry per image.
        vllm_gap: why vLLM does not serve the family; `None` where our tests show that it answers as transformers does.
    """

    output_class: type
    pixel_values_ndim = 4
    has_structure_tokens = False
    pools_tensor = False
    vllm_gap: str | None = "its answers there have not been compared with those of transformers"
    image_arguments: tuple[str, ...] = ()
    own_image_arguments: tuple[str, ...] = ()

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        names = inspect.signature(cls.get_image_features).parameters if hasattr(cls, "get_image_features") else ()
        left_out = ("self", "pixel_values", "safety_inputs", "kwargs")
        cls.image_arguments = tuple(name for name in names if name not in left_out)
        stock = forward_of_backbone(cls)
        if stock is not None:
            known = inspect.signature(stock).parameters
            cls.own_image_arguments = tuple(name for name in cls.image_arguments if name not in known)
            cls.forward = with_signature_of(stock, SafeModelMixin.__dict__["forward"], cls.image_arguments)
            cls.output_class = with_fields(stock, SafetyFields, cls.__module__)

    def __init__(self, config):
        super().__init__(config)
        config.check_safety()
        safety, hidden_size = config.safety_config, config.get_text_config().hidden_size
        self.safety_projector = SafetyProjector(
            config.safety_feature_size,
            config.safety_projector_hidden_size,
            hidden_size,
            config.safety_grid_size,
            safety.projector_depth,
            safety.projector_mlp_depth,
        )
        self.safety_tokens = SafetyTokens(safety.num_safety_tokens, hidden_size)
        self.safety_head = SafetyHead(
            hidden_size,
            safety.num_attention_heads,
            len(safety.levels),
            len(safety.categories),
            safety.head_pooling,
            safety.head_window_sizes,
            safety.head_gate_size,
            safety.head_gate_dropout,
            safety.safe_category,
        )
        self.safety_conditions = (
            SafetyConditions(safety.num_conditions, safety.num_condition_tokens, hidden_size)
            if safety.num_condition_tokens
            else None
        )
        if torch.get_default_dtype() == torch.float16:  # new ones, too, stay in float32
            for name, module in self.named_children():
                if name.startswith("safety_"):
                    module.float()
        self.post_init()

    def post_init(self):
        # The backbone calls it at the end of its own `__init__`, before the safety modules are there.
        if "safety_tokens" in self._modules:
            super().post_init()

    def train(self, mode: bool = True):
        """As [`nn.Module.train`], but a frozen tower stays in evaluation: its batch norms would go on counting, and
        stage 2 must leave every verdict as it was."""
        super().train(mode)
        for child in map(self.get_submodule, self.vision_children):
            if not any(weight.requires_grad for weight in child.parameters()):
                child.eval()
        return self

    @property
    def vision_children(self) -> list[str]:
        """Names of the tower and its connector: of all children but the language model and the safety modules."""
        decoder = self.get_decoder()
        children = [name for name, child in self.named_children() if child is not decoder]
        return [name for name in children if not name.startswith("safety_")]

    @property
    def verdict_children(self) -> list[str]:
        """Those of `vision_children` that the verdict rests on."""
        return self.vision_children

    @property
    def cache_state(self):
        """What the backbone keeps on the model and belongs to the cache of the last call; `None` before the first."""
        return None

    @cache_state.setter
    def cache_state(self, state):
        pass

    def check_arguments(self, arguments: dict):
        """Raise `ValueError` where `forward` or `generate` could not place an image with these arguments."""

    def _check_given(self, name: str, value):
        if value is None:
            raise ValueError(
                f"An image needs `{name}`, or its positions or what it sees would be wrong: pass everything that "
                f"{self.config.class_prefix}Processor gives."
            )

    def check_images(self, pixel_values: torch.Tensor):
        """Raise `ValueError` for what are no pixels, or where an adapter would change the verdict unasked."""
        if (
            pixel_values.ndim != self.pixel_values_ndim
            or not len(pixel_values)
            or not pixel_values.is_floating_point()
        ):
            raise ValueError(
                f"`pixel_values` must be floating point numbers with {self.pixel_values_ndim} dimensions, as "
                f"{self.config.class_prefix}Processor gives them, got {pixel_values.dtype} of shape "
                f"{tuple(pixel_values.shape)}."
            )
        if not torch.compiler.is_compiling():
            self.check_adapters()

    def split_pixels(self, pixel_values: torch.Tensor, **image_inputs) -> list[torch.Tensor]:
        """The pixels of each image; `image_inputs` are those of `image_arguments`. Here each row is an image."""
        return list(pixel_values)

    def judge_images(
        self,
        outputs: BaseModelOutputWithPooling,
        maps: Sequence[torch.Tensor],
        pixels: list[torch.Tensor],
        safety_inputs: SafetyInputs | None,
        tiles: Sequence[Sequence[torch.Tensor]] | None = None,
    ) -> SafetyImageOutput:
        """
        Give encoded images their verdicts, and build their blocks.

        Args:
            outputs: what the backbone's `get_image_features` returned; its `pooler_output` are h_i, one per image.
            maps: (rows, columns, width) per image, what the safety projector reads: the whole picture.
            pixels: of each image, as `split_pixels` gives them.
            safety_inputs: questions and policy. Without them the verdict is on the image alone, under the default
                policy.
            tiles: further maps per image, of its parts, where the backbone cuts pictures.
        """
        # In float16 the safety modules stay in float32.
        dtype = self.safety_tokens.head.dtype
        views = [[of_image] for of_image in maps]
        if tiles is not None:
            views = [[whole, *parts] for whole, parts in zip(maps, tiles)]
        safety_features = self.safety_projector([view.to(dtype) for of_image in views for view in of_image])
        safety_features, is_key = _join_views(safety_features, list(map(len, views)))
        # Absurd pixel values still give features, and one bad patch can go unnoticed: no verdict rests on them.
        is_picture = torch.stack([(of_image.abs() <= MAX_PIXEL).all() for of_image in pixels])
        is_picture = is_picture.to(safety_features.device)
        encoded = SafetyImageOutput(
            last_hidden_state=outputs.last_hidden_state,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_features=list(outputs.pooler_output),
            layer_features=outputs.get("deepstack_features"),
            safety_features=torch.where(is_picture[:, None, None], safety_features, torch.nan),
            safety_key_mask=is_key,
        )
        return self.condition_image_features(encoded, safety_inputs)

    def condition_image_features(
        self, encoded: SafetyImageOutput, safety_inputs: SafetyInputs | None = None
    ) -> SafetyImageOutput:
        """Verdict, decision and block for encoded images: everything that depends on the question."""
        safety_features, images = encoded.safety_features, len(encoded.image_features)
        head_tokens, block_tokens = self.safety_tokens()
        extra = len(block_tokens) + self.config.safety_config.num_condition_tokens
        block_lengths = [len(features) + extra for features in encoded.image_features]
        if safety_inputs is None:
            safety_inputs = _no_question(safety_features, block_lengths)
        # Blocks that shift would give one sample the image, or the verdict, of another.
        self._check_positions(
            safety_inputs.fit(block_lengths), safety_inputs.image_token_counts.sum(), sum(block_lengths)
        )
        rows = safety_inputs.image_rows(block_lengths).to(safety_features.device)
        text_mask = self.question_mask_of(safety_inputs, block_lengths).to(rows.device)[rows]
        text_embeds = safety_inputs.text_embeds.to(rows.device)[rows]
        keys = torch.cat([head_tokens.expand(images, -1, -1).to(safety_features), safety_features], dim=1)
        policy = DEFAULT_POLICY if safety_inputs.policy is None else safety_inputs.policy
        # The positions of an image are no question, and how many they are is known without asking the device.
        max_tokens = None if safety_inputs.image_mask is None else text_mask.shape[1] - min(block_lengths)
        of_windows = self.safety_head(text_embeds, text_mask, keys, max_tokens, encoded.safety_key_mask)
        level_logits, category_logits, decision, window_ids = self._judge_windows(*of_windows, policy)
        # A sample has one condition: that of its strictest image.
        samples = torch.arange(len(safety_inputs.text_mask), device=rows.device)
        condition_ids = decision.condition_ids[decision.strictest(rows == samples[:, None])[rows]]
        if safety_inputs.condition_ids is not None:
            given = safety_inputs.condition_ids.to(condition_ids.device)
            condition_ids = torch.where(given < 0, condition_ids, given)
        is_seen = is_readable(level_logits, category_logits)
        conditioned = SafetyImageOutput(
            **{
                **encoded,
                "pooler_output": self._blocks(encoded.image_features, is_seen, condition_ids),
                "deepstack_features": self._layer_blocks(encoded.layer_features, is_seen),
                "safety_level_logits": level_logits,
                "safety_category_logits": category_logits,
                "safety_condition_ids": condition_ids,
                "safety_action_ids": decision.action_ids,
                "safety_level_ids": decision.level_ids,
                "safety_window_ids": window_ids,
                "safety_clean_losses": clean_losses(*of_windows, self.config.safety_config),
                "safety_image_rows": rows,
            }
        )
        safety_inputs.record.append(conditioned)
        return conditioned

    def question_mask_of(self, safety_inputs: SafetyInputs, block_lengths: list[int]) -> torch.BoolTensor:
        """(batch, length), true on what the head reads."""
        return safety_inputs.question(block_lengths) if self.has_structure_tokens else safety_inputs.text_mask

    def _blocks(
        self, image_features: list[torch.Tensor], is_seen: torch.BoolTensor, condition_ids: torch.LongTensor
    ) -> list[torch.Tensor]:
        """[ s(2) | h_i | c ], (block length, hidden) per image."""
        like, (_, block_tokens) = image_features[0], self.safety_tokens()
        block_tokens, is_seen = block_tokens.to(like), is_seen.to(like.device)
        # What has no verdict is not seen either: features that are not numbers would break the whole batch's sampling.
        parts = [[block_tokens, torch.where(seen, features, 0.0)] for seen, features in zip(is_seen, image_features)]
        if self.safety_conditions is not None:
            for block, condition in zip(parts, self.safety_conditions(condition_ids).to(like)):
                block.append(condition)
        return [torch.cat(block) for block in parts]

    def _layer_blocks(
        self, layer_features: list[list[torch.Tensor]] | None, is_seen: torch.BoolTensor
    ) -> list[list[torch.Tensor]] | None:
        """[ 0 | features | 0 ], (block length, hidden) per layer and image: s(2) and c get nothing of the tower's."""
        if layer_features is None:
            return None
        safety = self.config.safety_config
        around = (0, 0, safety.num_safety_tokens, safety.num_condition_tokens)
        blocks = []
        for features in layer_features:
            seen = is_seen.to(features[0].device)
            blocks.append([F.pad(torch.where(*pair, 0.0), around) for pair in zip(seen, features)])
        return blocks

    def _judge_windows(
        self,
        level_logits: torch.Tensor,
        category_logits: torch.Tensor,
        is_window: torch.BoolTensor,
        policy: SafetyPolicy,
    ) -> tuple[torch.Tensor, torch.Tensor, SafetyDecision, torch.LongTensor]:
        """What the head gave for each window, to the logits, decision and index of each image's strictest window.

        The policy decides every window before one is chosen: the riskiest window need not be the strictest, and adding
        words must never soften a decision."""
        of_windows = policy.decide(level_logits, category_logits, self.config.safety_config)
        window_ids = of_windows.strictest(is_window)
        chosen = window_ids[:, None, None]
        level_logits = level_logits.take_along_dim(chosen, dim=1)[:, 0]
        category_logits = category_logits.take_along_dim(chosen, dim=1)[:, 0]
        decision = policy.decide(level_logits, category_logits, self.config.safety_config)
        return level_logits, category_logits, decision, window_ids

    def prepare_safety_inputs(
        self,
        input_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        question_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> SafetyInputs:
        """
        The question of each sample: what users said, without padding, image positions and (in training) the answer.

        Args:
            input_ids: (batch, length). Either these or `inputs_embeds`, which win.
            inputs_embeds: (batch, length, hidden).
            attention_mask: (batch, past + length); other shapes are not read.
            labels: (batch, length); positions other than -100 are the answer and stay out.
            question_mask: (batch, length), not 0 on what users said, as the processor gives it. Without it, all text
                is the question.
            kwargs: further fields of [`SafetyInputs`].

        Raises:
            `ValueError`: for a `question_mask` of another shape than the prompt's.
        """
        embed_tokens = self.get_input_embeddings()
        if inputs_embeds is None:
            inputs_embeds = embed_tokens(input_ids)
            image_mask = input_ids == self.config.image_token_id
        else:
            image_token = torch.full((), self.config.image_token_id, dtype=torch.long, device=inputs_embeds.device)
            image_mask = (inputs_embeds == embed_tokens(image_token)).all(dim=-1)
        text_mask = ~image_mask
        if attention_mask is not None and attention_mask.ndim == 2:
            past_length = attention_mask.shape[1] - text_mask.shape[1]
            if past_length < 0:
                raise ValueError(
                    f"`attention_mask` must cover the prompt of {text_mask.shape[1]} positions, and has "
                    f"{attention_mask.shape[1]}."
                )
            text_mask = text_mask & attention_mask[:, past_length:].to(text_mask.device).bool()
        if labels is not None:
            text_mask = text_mask & (labels == -100).to(text_mask.device)
        # The published head reads the first token of the prompt, whoever said it.
        if question_mask is not None and self.config.safety_config.head_pooling != "first":
            if question_mask.shape != text_mask.shape:
                raise ValueError(
                    f"`question_mask` must have the shape of the prompt, {tuple(text_mask.shape)}, got "
                    f"{tuple(question_mask.shape)}: pass it as the processor gave it, beside the same `input_ids`."
                )
            text_mask = text_mask & (question_mask != 0).to(text_mask.device)
        return SafetyInputs(inputs_embeds, text_mask, image_mask.sum(dim=1), image_mask=image_mask, **kwargs)

    def _check_positions(self, fit: torch.Tensor, positions: torch.Tensor, num_features: int):
        torch_compilable_check(
            fit,
            f"Image features and image tokens do not match, tokens: {positions}, features: {num_features}. "
            f"A safe model's image block also holds {self.config.safety_config.num_safety_tokens} safety and "
            f"{self.config.safety_config.num_condition_tokens} condition positions: prepare the inputs with "
            f"{self.config.class_prefix}Processor (the stock processor leaves no room for them).",
        )

    def encode_images(
        self,
        pixel_values: torch.Tensor,
        arguments: dict,
        safety_inputs: SafetyInputs | None = None,
        labels: torch.LongTensor | None = None,
        condition_ids: torch.LongTensor | None = None,
    ) -> SafetyImageOutput:
        """`get_image_features` under the question of the prompt, for a `forward` with these arguments."""
        if arguments.get("mm_encoder_outputs") is not None:
            raise ValueError("You cannot specify both pixel_values and mm_encoder_outputs at the same time")
        if safety_inputs is None:
            prompt = {name: arguments.get(name) for name in ("input_ids", "inputs_embeds", "attention_mask")}
            safety_inputs = self.prepare_safety_inputs(
                **prompt, labels=labels, question_mask=arguments.get("question_mask"), condition_ids=condition_ids
            )
        of_images = {name: arguments[name] for name in self.image_arguments if arguments.get(name) is not None}
        return self.get_image_features(pixel_values, **of_images, safety_inputs=safety_inputs, return_dict=True)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        cache: Cache | None = None,
        past_key_values: Cache | None = None,
        safety_inputs: SafetyInputs | None = None,
        question_mask: torch.Tensor | None = None,
        **kwargs,
    ):
        r"""
        As the backbone's; `cache` is the name of `past_key_values` since transformers 5.24.

        Args:
            question_mask (`torch.Tensor` of shape `(batch, length)`, *optional*): not 0 on what users said.
            safety_inputs ([`SafetyInputs`], *optional*): questions and policy; built from the prompt if unset.
        """
        inputs_embeds = kwargs.get("inputs_embeds")
        if (kwargs.get("input_ids") is None) ^ (inputs_embeds is not None):
            raise ValueError("You must specify exactly one of input_ids or inputs_embeds")
        check_modalities(kwargs)
        if pixel_values is not None:
            encoded = self.encode_images(pixel_values, {**kwargs, "question_mask": question_mask}, safety_inputs)
            kwargs["mm_encoder_outputs"] = {"image": encoded}
        cache = _one_cache(cache, past_key_values)
        image_outputs = (kwargs.get("mm_encoder_outputs") or {}).get("image")
        if image_outputs is not None and kwargs.get("position_ids") is None:
            self.check_arguments(kwargs)
        if image_outputs is not None and self.pools_tensor:
            joined = torch.cat(list(image_outputs.pooler_output))[None]
            kwargs["mm_encoder_outputs"] = {"image": SafetyImageOutput(**{**image_outputs, "pooler_output": joined})}
        # Embeddings of the caller's may hold images; of token ids alone it is certain that they do not.
        is_free = image_outputs is None and inputs_embeds is None
        # `generate` sees to both by itself.
        is_called_alone = not torch.compiler.is_compiling() and not is_generating()
        if is_called_alone:
            is_free = take_free_cache(cache) and is_free
            self.cache_state = read_state(cache, self.cache_state)
        for name in self.own_image_arguments:
            kwargs.pop(name, None)
        outputs = super().forward(**{**kwargs, "return_dict": True, CACHE: cache})
        filled = outputs.get(CACHE)
        if is_called_alone and filled is not None:
            write_state(filled, self.cache_state)
            if is_free:
                mark_free_cache(filled)
        return self.output_class(**outputs, **_safety_fields(image_outputs))


def _join_views(features: torch.Tensor, counts: list[int]) -> tuple[torch.Tensor, torch.BoolTensor | None]:
    """Features (views, positions, hidden) of whole pictures and tiles, `counts` per image, to those of each image,
    (images, most views * positions, hidden), and which of them there are; `None` where all images have one view."""
    if max(counts) == 1:
        return features, None
    joined = nn.utils.rnn.pad_sequence(features.split(counts), batch_first=True).flatten(1, 2)
    num_positions = torch.tensor(counts, device=features.device)[:, None] * features.shape[1]
    return joined, torch.arange(joined.shape[1], device=features.device) < num_positions


def _no_question(safety_features: torch.Tensor, block_lengths: list[int]) -> SafetyInputs:
    images, _, hidden_size = safety_features.shape
    return SafetyInputs(
        text_embeds=safety_features.new_zeros(images, 0, hidden_size),
        text_mask=torch.zeros(images, 0, dtype=torch.bool, device=safety_features.device),
        image_token_counts=torch.tensor(block_lengths, device=safety_features.device),
    )


def _safety_fields(image_outputs) -> dict:
    names = SafetyFields.__dataclass_fields__
    return {name: getattr(image_outputs, name, None) for name in names}


def _one_cache(cache: Cache | None, past_key_values: Cache | None) -> Cache | None:
    if past_key_values is None:
        return cache
    if cache is not None:
        raise ValueError("`cache` and `past_key_values` are two names of one argument: pass one of them.")
    if CACHE == "cache" and not torch.compiler.is_compiling():
        warnings.warn("`past_key_values` is deprecated. Use `cache` instead.", FutureWarning, stacklevel=3)
    return past_key_values


class SafeForConditionalGenerationMixin(SafetyGenerationMixin):
    """
    A backbone's generating model that sees the image, gets the verdict, chooses the condition, and answers under it.

    Attributes:
        safe_model_class: the family's base model.
        output_class: what `forward` returns, the stock class with [`SafetyLossFields`].
    """

    safe_model_class: type
    output_class: type
    input_modalities = ("image", "text")

    # The head's loss is a mean over images, the language model's over tokens: a count of tokens cannot scale both.
    accepts_loss_kwargs = False

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        stock = forward_of_backbone(cls)
        if stock is not None:
            names = cls.safe_model_class.image_arguments
            cls.forward = with_signature_of(stock, SafeForConditionalGenerationMixin.__dict__["forward"], names)
            cls.output_class = with_fields(stock, SafetyLossFields, cls.__module__)

    def __init__(self, config):
        PreTrainedModel.__init__(self, config)
        text_config = config.get_text_config()
        self.model = self.safe_model_class(config)
        self.lm_head = nn.Linear(text_config.hidden_size, text_config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        cache: Cache | None = None,
        safety_levels: torch.LongTensor | None = None,
        safety_categories: torch.LongTensor | None = None,
        safety_conditions: torch.LongTensor | None = None,
        safety_inputs: SafetyInputs | None = None,
        safety_only: bool = False,
        question_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs,
    ):
        r"""
        As the backbone's; `cache` is the name of `past_key_values` since transformers 5.24.

        Args:
            safety_levels (`torch.LongTensor` of shape `(images,)`, *optional*): level labels, -100 ignores an image.
            safety_categories (`torch.LongTensor` of shape `(images,)`, *optional*): category labels, -100 ignores.
            safety_conditions (`torch.LongTensor` of shape `(images,)`, *optional*): rows of the condition table to
                train under; where negative, or without them, the verdict chooses. `generate` does not take them.
            safety_inputs ([`SafetyInputs`], *optional*): questions and policy; built from the prompt if unset.
            safety_only (`bool`, *optional*): the head's loss alone, for training; the language model does not run.
            question_mask (`torch.Tensor` of shape `(batch, length)`, *optional*): not 0 on what users said, as the
                processor gives it. Without it all text is the question.

        Returns:
            `output_class`. The loss is `lm_loss + loss_weight * safety_loss` (paper, 3.2).
        """
        check_modalities(kwargs)
        encoded = (kwargs.get("mm_encoder_outputs") or {}).get("image")
        if pixel_values is not None:
            arguments = {**kwargs, "question_mask": question_mask}
            encoded = self.model.encode_images(pixel_values, arguments, safety_inputs, labels, safety_conditions)
            kwargs["mm_encoder_outputs"] = {"image": encoded}
        safety_loss = None
        if encoded is not None and any(given is not None for given in (labels, safety_levels, safety_categories)):
            safety_loss = self.safety_loss_function(encoded, safety_levels, safety_categories)
        if safety_only:
            return self._safety_output(encoded, safety_loss)
        cache = _one_cache(cache, past_key_values)
        for name in self.model.own_image_arguments:
            kwargs.pop(name, None)
        outputs = super().forward(**{**kwargs, "labels": labels, "return_dict": True, CACHE: cache})
        loss = lm_loss = outputs.get("loss")
        if safety_loss is not None:
            weighted = self.config.safety_config.loss_weight * safety_loss
            loss = weighted if lm_loss is None else lm_loss + weighted.to(lm_loss.device)
        losses = {"loss": loss, "lm_loss": lm_loss, "safety_loss": safety_loss}
        return self.output_class(**{**outputs, **losses, **_safety_fields(encoded)})

    def _safety_output(self, encoded: SafetyImageOutput | None, safety_loss: torch.Tensor | None):
        if encoded is None:
            raise ValueError("`safety_only=True` needs `pixel_values`: a sample without an image has no verdict.")
        if safety_loss is None:
            safety_loss = self.safety_loss_function(encoded, None, None)
        # Every block takes part, with a weight of 0: workers that share gradients wait for those of all parameters.
        unused = sum(block.sum() for block in encoded.pooler_output)
        loss = self.config.safety_config.loss_weight * safety_loss + 0.0 * unused
        return self.output_class(loss=loss, safety_loss=safety_loss, **_safety_fields(encoded))

    def safety_loss_function(
        self,
        encoded: SafetyImageOutput,
        safety_levels: torch.LongTensor | None,
        safety_categories: torch.LongTensor | None,
    ) -> torch.Tensor:
        """
        CE(level) + CE(category), each the mean over its labelled images; 0 with gradients if none is labelled.

        A risky image is held to its label at its strictest window alone: nobody knows which words make it risky. Of a
        clean one every window is clean, so half of its loss is the mean over its worst ones.
        """
        loss = 0.0
        for column, (logits, target, safe) in enumerate(
            (
                (encoded.safety_level_logits, safety_levels, 0),
                (encoded.safety_category_logits, safety_categories, self.config.safety_config.safe_category),
            )
        ):
            target = logits.new_full((len(logits),), -100, dtype=torch.long) if target is None else target
            if len(target) != len(logits):
                raise ValueError(
                    f"Expected one safety label an image (-100 ignores an image), got {len(target)} labels for "
                    f"{len(logits)} images."
                )
            target = target.to(logits.device)
            logits = less_safe(logits, safe, self.config.safety_config)
            losses = F.cross_entropy(logits, target, ignore_index=-100, reduction="none")
            losses = torch.where(target == safe, (losses + encoded.safety_clean_losses[:, column]) / 2, losses)
            loss = loss + losses.sum() / (target != -100).sum().clamp(min=1)
        return loss

    def _judge(self, safety_policy, pixel_values, image_inputs: dict, **prompt):
        """Encoded images, the inputs of their verdicts, and the policy, without running the language model."""
        if pixel_values is None:
            raise ValueError("`assess` and `explain` need `pixel_values`: a sample without an image has no verdict.")
        unknown = image_inputs.keys() - {*self.model.image_arguments, *TOKEN_TYPES}
        if unknown:
            raise TypeError(f"`assess` and `explain` take no argument {', '.join(sorted(unknown))}.")
        self._warn_weak_safety()
        policy = self._policy(safety_policy)
        safety_inputs = self._safety_inputs(**prompt, policy=policy)
        return self.model.encode_images(pixel_values, image_inputs, safety_inputs), safety_inputs, policy

    @torch.no_grad()
    def assess(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        safety_policy: SafetyPolicy | dict | None = None,
        question_mask: torch.Tensor | None = None,
        **image_inputs,
    ) -> SafetyOutput:
        """
        The verdict on each image under the text of its own sample, without running the language model.

        Args:
            input_ids, pixel_values, attention_mask, inputs_embeds, question_mask, image_inputs: as for `generate`.
            safety_policy: as for `generate`.

        Returns:
            [`SafetyOutput`]; `processor.post_process_safety` gives it by name.
        """
        prompt = {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "attention_mask": attention_mask}
        outputs, _, policy = self._judge(
            safety_policy, pixel_values, image_inputs, **prompt, question_mask=question_mask
        )
        return verdict_output(outputs, policy)

    @torch.no_grad()
    def explain(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        safety_policy: SafetyPolicy | dict | None = None,
        question_mask: torch.Tensor | None = None,
        **image_inputs,
    ) -> SafetyExplanation:
        """
        The verdict on each image as by `assess`, and what it rests on: a map of the image, weights of the question's
        tokens, and exact contributions of both, without running the language model.

        Args: as for `assess`; the policy changes nothing but the decision.

        Returns:
            [`SafetyExplanation`]; `safevlm_hf.evaluation.plot_verdict` draws it.

        Raises:
            `ValueError`: without `pixel_values`, or where positions and images do not match.
        """
        prompt = {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "attention_mask": attention_mask}
        outputs, safety_inputs, policy = self._judge(
            safety_policy, pixel_values, image_inputs, **prompt, question_mask=question_mask
        )
        rows, block_lengths = outputs.safety_image_rows, [len(block) for block in outputs.pooler_output]
        explained = explain_head(
            self.model.safety_head,
            safety_inputs.text_embeds.to(rows.device)[rows],
            self.model.question_mask_of(safety_inputs, block_lengths).to(rows.device)[rows],
            self.model.safety_tokens()[0],
            outputs.safety_features,
            outputs.safety_window_ids,
            outputs.safety_level_logits,
            outputs.safety_category_logits,
            self.config.safety_config.safe_category,
            self.config.safety_grid_size,
            outputs.safety_key_mask,
        )
        return SafetyExplanation(**explained, **verdict_output(outputs, policy))

    def _warn_weak_safety(self):
        if not self.config.safety_config.num_condition_tokens:
            logger.warning_once(
                "This model has no condition tokens (`num_condition_tokens=0`, the paper's image block): verdicts are "
                "given, but answers are not conditioned on them."
            )
        if not self.config.safety_config.is_trained:
            logger.warning_once(
                "The safety head of this model is untrained: its verdicts mean nothing before stage 1 "
                "(examples/run_stage1.py)."
            )

    @torch.no_grad()
    def extend_categories(self, names: list[str]):
        """
        Add risk categories at the end. Every old logit stays as it was, bit for bit, and every old condition, too.

        The new ones are not seen before stage 1 has trained them (`examples/run_stage1.py --new_categories ...`):
        their logits start at -10. Their conditions start as the mean of the other categories' at the same level, which
        the language model already answers under.

        Args:
            names: new names, neither empty nor already there.

        Raises:
            `ValueError`: for such names; nothing is changed then.
        """
        safety = self.config.safety_config
        if isinstance(names, str) or not names:
            raise ValueError(f"`extend_categories` takes a list of new names, got {names!r}.")
        extended = SafetyConfig(**{**safety.to_dict(), "categories": [*safety.categories, *names]})  # checks the names
        head = self.model.safety_head.category_head
        head.weight = nn.Parameter(F.pad(head.weight, (0, 0, 0, len(names))))
        head.bias = nn.Parameter(F.pad(head.bias, (0, len(names)), value=NEW_CATEGORY_LOGIT))
        head.out_features = len(extended.categories)
        if self.model.safety_conditions is not None:
            table = self.model.safety_conditions.weight
            by_level = table[1:].unflatten(0, (-1, len(safety.levels) - 1)).mean(dim=0)
            self.model.safety_conditions.weight = nn.Parameter(torch.cat([table, *[by_level] * len(names)]))
        safety.categories = extended.categories

    @torch.no_grad()
    def initialize_from_embeddings(self, tokenizer):
        """
        Start the safety modules from the language model's word embeddings, once, before stage 1.

        Each row of the condition table becomes the embeddings of a short text, repeated or cut to
        `num_condition_tokens`, so that an untrained table is the paper's rewritten prompt. The head's query projection
        is scaled to the embeddings: theirs are small in most models, and every question would look alike.
        """
        embed = self.get_input_embeddings()
        # Some modules scale what they look up: the weights alone would not tell what the head reads.
        every_word = torch.arange(len(embed.weight), device=embed.weight.device)
        self.model.safety_head.q_proj.weight /= embed(every_word).float().std()
        if self.model.safety_conditions is None:
            return
        safety, table = self.config.safety_config, self.model.safety_conditions.weight
        for row in range(safety.num_conditions):
            ids = tokenizer(condition_text(row, safety), add_special_tokens=False)["input_ids"]
            ids = torch.tensor([ids[i % len(ids)] for i in range(safety.num_condition_tokens)], device=table.device)
            table[row] = self.get_input_embeddings()(ids).to(table)


__all__ = ["SafeForConditionalGenerationMixin", "SafeModelMixin", "SafePreTrainedModelMixin"]
