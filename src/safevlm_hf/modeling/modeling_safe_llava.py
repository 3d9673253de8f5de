"""SafeLlava: LLaVA with the safety modules of SafeVLM (arXiv 2405.13581, arXiv 2411.11543).

Each image becomes one block of positions, [ s(2) | h_i | c ]: safety tokens, projected patches, safety condition. The
verdict is computed where the image features are, so it rides inside the block through every way of generating.
"""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    GenerationMixin,
    LlavaForConditionalGeneration,
    LlavaModel,
)
from transformers.cache_utils import Cache
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.auto.modeling_auto import AutoModel
from transformers.models.llava.modeling_llava import (
    LlavaCausalLMOutputWithPast,
    LlavaModelOutputWithPast,
    LlavaMultiModalProjector,
    LlavaPreTrainedModel,
)
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, cached_file, logging, torch_compilable_check
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults

from .configuration_safe_llava import CarriesCodeMixin, SafeLlavaConfig, SafetyConfig
from .generation_safety import CACHE, SafetyGenerationMixin, verdict_output
from .safety_adapters import SparesVerdictMixin
from .safety_cache import mark_free_cache, take_free_cache
from .safety_explanation import SafetyExplanation, explain_head
from .safety_inputs import SafetyImageOutput, SafetyInputs, SafetyOutput
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


logger = logging.get_logger(__name__)

# Key conversions are looked up by class name, then by model_type, and skipped for classes outside transformers unless
# registered: without these a stock checkpoint would leave the language model randomly initialised. `overwrite`: the
# package and a checkpoint's own copy of this file may meet in one process.
for _ours, _stock in (("safe_llava", "llava"), ("SafeLlavaModel", "LlavaModel")):
    register_checkpoint_conversion_mapping(_ours, get_checkpoint_conversion_mapping(_stock) or [], overwrite=True)


NEW_CATEGORY_LOGIT = -10.0  # so that a category is not seen before it is trained
MAX_PIXEL = 1000.0  # of `pixel_values`; a processor's end at some 3, and at 255 where it leaves them as they were
# In 4 bits the tower moves verdicts (docs/deployment.md), and a narrow connector does not fit their blocks.
VISION_MODULES = r"(?:model\.)?(?:vision_tower|multi_modal_projector)"


@dataclass
class SafeLlavaModelOutputWithPast(LlavaModelOutputWithPast):
    r"""
    safety_level_logits (`torch.Tensor` of shape `(images, levels)`, *optional*): float32.
    safety_category_logits (`torch.Tensor` of shape `(images, categories)`, *optional*): float32.
    safety_clean_losses (`torch.Tensor` of shape `(images, 2)`, *optional*): as in [`SafetyImageOutput`].
    """

    safety_level_logits: torch.Tensor | None = None
    safety_category_logits: torch.Tensor | None = None
    safety_clean_losses: torch.Tensor | None = None


@dataclass
class SafeLlavaCausalLMOutputWithPast(LlavaCausalLMOutputWithPast):
    r"""
    loss (`torch.Tensor` of shape `(1,)`): `lm_loss + loss_weight * safety_loss`.
    lm_loss (`torch.Tensor` of shape `(1,)`, *optional*): next-token loss.
    safety_loss (`torch.Tensor` of shape `(1,)`, *optional*): CE(level) + CE(category), unweighted.
    safety_level_logits (`torch.Tensor` of shape `(images, levels)`, *optional*): float32.
    safety_category_logits (`torch.Tensor` of shape `(images, categories)`, *optional*): float32.
    """

    lm_loss: torch.Tensor | None = None
    safety_loss: torch.Tensor | None = None
    safety_level_logits: torch.Tensor | None = None
    safety_category_logits: torch.Tensor | None = None


class SafeLlavaPreTrainedModel(SparesVerdictMixin, CarriesCodeMixin, LlavaPreTrainedModel):
    config: SafeLlavaConfig
    config_class = SafeLlavaConfig
    # Quantisers leave them as they are, by the start of a module's name, in the whole model or the base model.
    _keep_in_fp32_modules = [r"(?:model\.)?safety_\w+"]
    _no_split_modules = ["SafetyHead", "SafetyProjector"]

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
            self._keep_in_fp32_modules.add(VISION_MODULES)

    def _get_dtype_plan(self, dtype: torch.dtype) -> dict:
        # Quantisers leave tower and connector in the dtype that was asked for.
        return {name: kept for name, kept in super()._get_dtype_plan(dtype).items() if name != VISION_MODULES}

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path=None,
        *args,
        output_loading_info: bool = False,
        ignore_mismatched_sizes: bool = False,
        **kwargs,
    ):
        """
        As [`PreTrainedModel.from_pretrained`].

        Raises:
            `ValueError`: for a checkpoint that says it is trained and lacks weights, a `generation_config.json` that
                cannot be read, or a policy that does not fit.
            `RuntimeError`: for weights of another size than the config says.
        """
        if cls.can_generate() and kwargs.get("generation_config") is None:
            _check_generation_config(pretrained_model_name_or_path, kwargs)
        # The library names the sizes in its log alone.
        model, info = super().from_pretrained(
            pretrained_model_name_or_path, *args, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
        )
        mismatched = sorted(info["mismatched_keys"])
        if mismatched and not ignore_mismatched_sizes:
            sizes = "; ".join(f"{key}: {tuple(found)}, not {tuple(by_config)}" for key, found, by_config in mismatched)
            raise RuntimeError(
                f"{pretrained_model_name_or_path} has weights of another size than its config says: {sizes}."
            )
        missing = {*info["missing_keys"], *(key for key, _, _ in mismatched)}
        new = sorted({".".join(key.split(".")[: 2 if key.startswith("model.") else 1]) for key in missing})
        if new and model.config.safety_config.is_trained:
            raise ValueError(
                f"{pretrained_model_name_or_path} says that it is trained (`is_trained`), and has no weights that fit "
                f"for {', '.join(new)}: its verdicts would be random."
            )
        if new:
            logger.warning(
                f"Newly initialised: {', '.join(new)}. The safety verdicts of this model mean nothing before stage 1 "
                "(examples/run_stage1.py)."
            )
        if model.config.safety_config.head_pooling != "windows":
            logger.warning(
                f'The safety head of this model pools by "{model.config.safety_config.head_pooling}": words around a '
                'question can talk its verdict away. Train one with `head_pooling="windows"` for use.'
            )
        for config in (getattr(model, "generation_config", None), model.config):
            SafetyPolicy.create(getattr(config, "safety_policy", None), model.config.safety_config)
        return (model, info) if output_loading_info else model


class SafeLlavaModel(SafeLlavaPreTrainedModel, LlavaModel):
    """LLaVA's base model with safety projector, safety tokens, safety head and condition table."""

    def __init__(self, config: SafeLlavaConfig):
        LlavaPreTrainedModel.__init__(self, config)
        config.check_safety()
        safety, hidden_size = config.safety_config, config.text_config.hidden_size
        feature_layers = 1 if isinstance(config.vision_feature_layer, int) else len(config.vision_feature_layer)
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.multi_modal_projector = LlavaMultiModalProjector(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.safety_projector = SafetyProjector(
            config.vision_config.hidden_size * feature_layers,
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

    @merge_with_config_defaults
    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        image_sizes: torch.Tensor | None = None,
        safety_inputs: SafetyInputs | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | SafetyImageOutput:
        r"""
        Encode images, give each its verdict, and build its block.

        Args:
            pixel_values: (images, channels, height, width).
            safety_inputs ([`SafetyInputs`], *optional*): questions and policy. Without them the verdict is on the
                image alone, under the default policy.

        Returns:
            [`SafetyImageOutput`].
        """
        if image_sizes is not None:
            raise ValueError("SafeLlava takes images of one size, got `image_sizes`: resize them in the processor.")
        _check_pixels(pixel_values)
        if not torch.compiler.is_compiling():
            self.check_adapters()
        outputs = super().get_image_features(
            pixel_values,
            vision_feature_layer=vision_feature_layer,
            vision_feature_select_strategy=vision_feature_select_strategy,
            return_dict=True,
            **kwargs,
        )
        layers = [vision_feature_layer] if isinstance(vision_feature_layer, int) else vision_feature_layer
        vision_features = torch.cat([outputs.hidden_states[layer] for layer in layers], dim=-1)
        if vision_feature_select_strategy == "default":
            vision_features = vision_features[:, 1:]
        # In float16 the safety modules stay in float32.
        safety_features = self.safety_projector(vision_features.to(self.safety_tokens.head.dtype))
        # A tower makes something of any number, and a patch is lost among others: no verdict rests on such pixels.
        is_picture = (pixel_values.abs() <= MAX_PIXEL).flatten(1).all(dim=1).to(safety_features.device)
        encoded = SafetyImageOutput(
            last_hidden_state=outputs.last_hidden_state,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_features=torch.stack(list(outputs.pooler_output)),
            safety_features=torch.where(is_picture[:, None, None], safety_features, torch.nan),
        )
        return self.condition_image_features(encoded, safety_inputs)

    def condition_image_features(
        self, encoded: SafetyImageOutput, safety_inputs: SafetyInputs | None = None
    ) -> SafetyImageOutput:
        """Verdict, decision and block for encoded images: everything that depends on the question."""
        image_features, safety_features = encoded.image_features, encoded.safety_features
        images, dtype = len(image_features), image_features.dtype
        head_tokens, block_tokens = self.safety_tokens()
        block_length = image_features.shape[1] + len(block_tokens) + self.config.safety_config.num_condition_tokens
        if safety_inputs is None:
            safety_inputs = _no_question(safety_features, block_length)
        # Blocks that shift would give one sample the image, or the verdict, of another.
        self._check_positions(
            safety_inputs.fit(images, block_length), safety_inputs.image_token_counts.sum(), images * block_length
        )
        rows = safety_inputs.image_rows(images, block_length).to(image_features.device)
        text_mask = safety_inputs.text_mask.to(rows.device)[rows]
        text_embeds = safety_inputs.text_embeds.to(rows.device)[rows]
        keys = torch.cat([head_tokens.expand(images, -1, -1).to(safety_features), safety_features], dim=1)
        policy = DEFAULT_POLICY if safety_inputs.policy is None else safety_inputs.policy
        of_windows = self.safety_head(text_embeds, text_mask, keys)
        level_logits, category_logits, decision, window_ids = self._judge_windows(*of_windows, policy)
        # A sample has one condition: that of its strictest image.
        samples = torch.arange(len(safety_inputs.text_mask), device=rows.device)
        condition_ids = decision.condition_ids[decision.strictest(rows == samples[:, None])[rows]]
        # What has no verdict is not seen either: features that are not numbers would break the whole batch's sampling.
        is_seen = is_readable(level_logits, category_logits).to(image_features.device)[:, None, None]
        image_features = torch.where(is_seen, image_features, 0.0)
        if safety_inputs.condition_ids is not None:
            given = safety_inputs.condition_ids.to(condition_ids.device)
            condition_ids = torch.where(given < 0, condition_ids, given)
        block = [block_tokens.expand(images, -1, -1).to(image_features), image_features]
        if self.safety_conditions is not None:
            block.append(self.safety_conditions(condition_ids).to(image_features))
        conditioned = SafetyImageOutput(
            **{
                **encoded,
                "pooler_output": list(torch.cat(block, dim=1).to(dtype)),
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
        return SafetyInputs(inputs_embeds, text_mask, image_mask.sum(dim=1), **kwargs)

    def get_placeholder_mask(
        self, input_ids: torch.LongTensor, inputs_embeds: torch.Tensor, image_features: torch.Tensor
    ):
        """The mask of image positions; raises `ValueError` where blocks and positions do not match."""
        if input_ids is None:
            image_token = torch.full((), self.config.image_token_id, dtype=torch.long, device=inputs_embeds.device)
            mask = (inputs_embeds == self.get_input_embeddings()(image_token)).all(dim=-1)
        else:
            mask = input_ids == self.config.image_token_id
        positions, num_features = mask.sum(), image_features.numel() // image_features.shape[-1]
        self._check_positions(positions == num_features, positions, num_features)
        return mask.unsqueeze(-1).to(inputs_embeds.device)

    def _check_positions(self, fit: torch.Tensor, positions: torch.Tensor, num_features: int):
        torch_compilable_check(
            fit,
            f"Image features and image tokens do not match, tokens: {positions}, features: {num_features}. "
            f"SafeLlava's image block also holds {self.config.safety_config.num_safety_tokens} safety and "
            f"{self.config.safety_config.num_condition_tokens} condition positions: prepare the inputs with "
            "SafeLlavaProcessor (a stock LlavaProcessor leaves no room for them).",
        )

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        image_sizes: torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        safety_inputs: SafetyInputs | None = None,
        question_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | SafeLlavaModelOutputWithPast:
        r"""
        As [`LlavaModel.forward`]; `cache` is the name of `past_key_values` since transformers 5.24.

        Args:
            question_mask (`torch.Tensor` of shape `(batch, length)`, *optional*): not 0 on what users said.
            safety_inputs ([`SafetyInputs`], *optional*): questions and policy; built from the prompt if unset.
        """
        if (input_ids is None) ^ (inputs_embeds is not None):
            raise ValueError("You must specify exactly one of input_ids or inputs_embeds")
        if pixel_values is not None and mm_encoder_outputs is not None:
            raise ValueError("You cannot specify both pixel_values and mm_encoder_outputs at the same time")
        if pixel_values is not None:
            if safety_inputs is None:
                safety_inputs = self.prepare_safety_inputs(
                    input_ids, inputs_embeds, attention_mask, question_mask=question_mask
                )
            image_outputs = self.get_image_features(
                pixel_values=pixel_values,
                vision_feature_layer=vision_feature_layer,
                vision_feature_select_strategy=vision_feature_select_strategy,
                image_sizes=image_sizes,
                safety_inputs=safety_inputs,
                return_dict=True,
            )
            mm_encoder_outputs = {"image": image_outputs}
        cache = _one_cache(cache, past_key_values)
        image_outputs = (mm_encoder_outputs or {}).get("image")
        # Embeddings of the caller's may hold images; of token ids alone it is certain that they do not.
        is_free = image_outputs is None and inputs_embeds is None
        if not torch.compiler.is_compiling():
            is_free = take_free_cache(cache) and is_free
        outputs = super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            mm_encoder_outputs=mm_encoder_outputs,
            return_dict=True,
            **{CACHE: cache},
            **kwargs,
        )
        if is_free and not torch.compiler.is_compiling():
            mark_free_cache(outputs.get(CACHE))
        return SafeLlavaModelOutputWithPast(
            **outputs,
            safety_level_logits=getattr(image_outputs, "safety_level_logits", None),
            safety_category_logits=getattr(image_outputs, "safety_category_logits", None),
            safety_clean_losses=getattr(image_outputs, "safety_clean_losses", None),
        )


def _one_cache(cache: Cache | None, past_key_values: Cache | None) -> Cache | None:
    if past_key_values is None:
        return cache
    if cache is not None:
        raise ValueError("`cache` and `past_key_values` are two names of one argument: pass one of them.")
    if CACHE == "cache" and not torch.compiler.is_compiling():
        warnings.warn("`past_key_values` is deprecated. Use `cache` instead.", FutureWarning, stacklevel=3)
    return past_key_values


def _check_pixels(pixel_values: torch.Tensor):
    if pixel_values.ndim != 4 or not len(pixel_values) or not pixel_values.is_floating_point():
        raise ValueError(
            "`pixel_values` must be floating point numbers of shape (images, channels, height, width), as "
            f"SafeLlavaProcessor gives them, got {pixel_values.dtype} of shape {tuple(pixel_values.shape)}."
        )


def _check_generation_config(checkpoint, kwargs: dict):
    """Raise where the library would drop a broken file without a word, and the safety policy in it."""
    if checkpoint is None:
        return
    hub_kwargs = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
    file = cached_file(
        checkpoint,
        "generation_config.json",
        **{name: kwargs[name] for name in hub_kwargs if kwargs.get(name) is not None},
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
    )
    try:
        values = {} if file is None else json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} holds the safety policy, and is no JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{file} holds the safety policy, and must be a JSON object, got {type(values).__name__}.")


def _no_question(safety_features: torch.Tensor, block_length: int) -> SafetyInputs:
    images, _, hidden_size = safety_features.shape
    return SafetyInputs(
        text_embeds=safety_features.new_zeros(images, 0, hidden_size),
        text_mask=torch.zeros(images, 0, dtype=torch.bool, device=safety_features.device),
        image_token_counts=torch.full((images,), block_length, device=safety_features.device),
    )


class SafeLlavaForConditionalGeneration(
    SafetyGenerationMixin, SafeLlavaPreTrainedModel, LlavaForConditionalGeneration, GenerationMixin
):
    """LLaVA that sees the image, gets the verdict, chooses the condition, and answers under it."""

    # The head's loss is a mean over images, the language model's over tokens: a count of tokens cannot scale both.
    accepts_loss_kwargs = False

    def __init__(self, config: SafeLlavaConfig):
        LlavaPreTrainedModel.__init__(self, config)
        self.model = SafeLlavaModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def save_pretrained(self, save_directory, **kwargs):
        kept = self.kept_policy()
        if kept is not None:
            policy = SafetyPolicy.create(kept, self.config.safety_config).to_dict()
            self.generation_config.safety_policy, self.config.safety_policy = policy, dict(policy)
            # Of a generation config that it derived from the model's the library loads no keys but its own.
            self.generation_config._from_model_config = False
        return super().save_pretrained(save_directory, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        labels: torch.LongTensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        image_sizes: torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        safety_levels: torch.LongTensor | None = None,
        safety_categories: torch.LongTensor | None = None,
        safety_conditions: torch.LongTensor | None = None,
        safety_inputs: SafetyInputs | None = None,
        safety_only: bool = False,
        question_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | SafeLlavaCausalLMOutputWithPast:
        r"""
        As [`LlavaForConditionalGeneration.forward`]; `cache` is the name of `past_key_values` since transformers 5.24.

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
            [`SafeLlavaCausalLMOutputWithPast`]. The loss is `lm_loss + loss_weight * safety_loss` (paper, 3.2).
        """
        if pixel_values is not None and safety_inputs is None:
            safety_inputs = self.model.prepare_safety_inputs(
                input_ids, inputs_embeds, attention_mask, labels, question_mask, condition_ids=safety_conditions
            )
        if safety_only:
            return self._judge(pixel_values, safety_inputs, safety_levels, safety_categories)
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=_one_cache(cache, past_key_values),
            inputs_embeds=inputs_embeds,
            vision_feature_layer=vision_feature_layer,
            vision_feature_select_strategy=vision_feature_select_strategy,
            image_sizes=image_sizes,
            mm_encoder_outputs=mm_encoder_outputs,
            safety_inputs=safety_inputs,
            return_dict=True,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden_states[:, kept, :])
        lm_loss = safety_loss = loss = None
        if labels is not None:
            loss = lm_loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.text_config.vocab_size, **kwargs
            )
        is_labelled = any(given is not None for given in (labels, safety_levels, safety_categories))
        if outputs.safety_level_logits is not None and is_labelled:
            safety_loss = self.safety_loss_function(outputs, safety_levels, safety_categories)
            weighted = self.config.safety_config.loss_weight * safety_loss
            loss = weighted if lm_loss is None else lm_loss + weighted.to(lm_loss.device)
        left_out = ("last_hidden_state", "safety_clean_losses")
        carried = {name: value for name, value in outputs.items() if name not in left_out}
        return SafeLlavaCausalLMOutputWithPast(
            loss=loss, logits=logits, lm_loss=lm_loss, safety_loss=safety_loss, **carried
        )

    def _judge(
        self, pixel_values, safety_inputs: SafetyInputs | None, safety_levels, safety_categories
    ) -> SafeLlavaCausalLMOutputWithPast:
        if pixel_values is None:
            raise ValueError("`safety_only=True` needs `pixel_values`: a sample without an image has no verdict.")
        outputs = self.model.get_image_features(pixel_values, safety_inputs=safety_inputs)
        safety_loss = self.safety_loss_function(outputs, safety_levels, safety_categories)
        # Every block takes part, with a weight of 0: workers that share gradients wait for those of all parameters.
        unused = sum(block.sum() for block in outputs.pooler_output)
        return SafeLlavaCausalLMOutputWithPast(
            loss=self.config.safety_config.loss_weight * safety_loss + 0.0 * unused,
            safety_loss=safety_loss,
            safety_level_logits=outputs.safety_level_logits,
            safety_category_logits=outputs.safety_category_logits,
        )

    def safety_loss_function(
        self,
        outputs: SafeLlavaModelOutputWithPast | SafetyImageOutput,
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
                (outputs.safety_level_logits, safety_levels, 0),
                (outputs.safety_category_logits, safety_categories, self.config.safety_config.safe_category),
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
            losses = torch.where(target == safe, (losses + outputs.safety_clean_losses[:, column]) / 2, losses)
            loss = loss + losses.sum() / (target != -100).sum().clamp(min=1)
        return loss

    @torch.no_grad()
    def assess(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        safety_policy: SafetyPolicy | dict | None = None,
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        question_mask: torch.Tensor | None = None,
    ) -> SafetyOutput:
        """
        The verdict on each image under the text of its own sample, without running the language model.

        Args:
            input_ids, pixel_values, attention_mask, inputs_embeds, question_mask: as for `generate`.
            safety_policy: as for `generate`.

        Returns:
            [`SafetyOutput`]; `processor.post_process_safety` gives it by name.
        """
        if pixel_values is None:
            raise ValueError("`assess` needs `pixel_values`: a sample without an image has no verdict.")
        self._warn_weak_safety()
        policy = self._policy(safety_policy)
        safety_inputs = self._safety_inputs(
            input_ids, inputs_embeds, attention_mask, policy, question_mask=question_mask
        )
        outputs = self.model.get_image_features(
            pixel_values,
            vision_feature_layer=vision_feature_layer,
            vision_feature_select_strategy=vision_feature_select_strategy,
            safety_inputs=safety_inputs,
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
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        question_mask: torch.Tensor | None = None,
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
        if pixel_values is None:
            raise ValueError("`explain` needs `pixel_values`: a sample without an image has no verdict.")
        self._warn_weak_safety()
        policy = self._policy(safety_policy)
        safety_inputs = self._safety_inputs(
            input_ids, inputs_embeds, attention_mask, policy, question_mask=question_mask
        )
        outputs = self.model.get_image_features(
            pixel_values,
            vision_feature_layer=vision_feature_layer,
            vision_feature_select_strategy=vision_feature_select_strategy,
            safety_inputs=safety_inputs,
        )
        rows = outputs.safety_image_rows
        explained = explain_head(
            self.model.safety_head,
            safety_inputs.text_embeds.to(rows.device)[rows],
            safety_inputs.text_mask.to(rows.device)[rows],
            self.model.safety_tokens()[0],
            outputs.safety_features,
            outputs.safety_window_ids,
            outputs.safety_level_logits,
            outputs.safety_category_logits,
            self.config.safety_config.safe_category,
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
        self.model.safety_head.q_proj.weight /= self.get_input_embeddings().weight.float().std()
        if self.model.safety_conditions is None:
            return
        safety, table = self.config.safety_config, self.model.safety_conditions.weight
        for row in range(safety.num_conditions):
            ids = tokenizer(condition_text(row, safety), add_special_tokens=False)["input_ids"]
            ids = torch.tensor([ids[i % len(ids)] for i in range(safety.num_condition_tokens)], device=table.device)
            table[row] = self.get_input_embeddings()(ids).to(table)


__all__ = ["SafeLlavaForConditionalGeneration", "SafeLlavaModel", "SafeLlavaPreTrainedModel", "SafetyInputs"]
