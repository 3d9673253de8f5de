"""The safety layer on a vision language model (SafeVLM: arXiv 2405.13581, arXiv 2411.11543), for any backbone.

Each image becomes one block of positions, [ s(2) | h_i | c ]: safety tokens, the backbone's own features, safety
condition. The verdict is computed where the image features are, so it rides inside the block through every way of
generating. A family (`safe_*.py`) puts the three mixins of this file in front of its backbone's classes. They hold the
modules and the two `forward`; what else a safe model does stands in files of its own: verdicts (`safety_judging.py`),
`generate` (`generation_safety.py`), `assess` and `explain` (`safety_assessment.py`), checkpoints
(`safety_checkpoint.py`).
"""

import functools
import inspect
import typing
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel, modeling_outputs
from transformers.cache_utils import Cache
from transformers.modeling_outputs import ModelOutput
from transformers.utils import logging
from transformers.utils.generic import can_return_tuple

from .generation_safety import SafetyGenerationMixin
from .safety_adapters import SafetyAdapterMixin
from .safety_assessment import SafetyAssessmentMixin
from .safety_cache import CACHE, is_generating, mark_free_cache, one_cache, read_state, take_free_cache, write_state
from .safety_checkpoint import SafeCheckpointMixin, register_key_conversions
from .safety_checks import check_modalities
from .safety_code import RemoteCodeMixin
from .safety_initialization import SafetyInitializationMixin
from .safety_inputs import SafetyInputs
from .safety_judging import SafetyJudgingMixin
from .safety_losses import head_loss
from .safety_modules import SafetyConditions, SafetyHead, SafetyProjector, SafetyTokens, init_safety_weights
from .safety_outputs import SafetyFields, SafetyImageOutput, SafetyLossFields
from .safety_word_head import SafetyWordHead, init_word_weights


logger = logging.get_logger(__name__)

ANY_KIND = inspect.Parameter.POSITIONAL_OR_KEYWORD
NO_IMAGES = (
    "The prompt holds image tokens, and no images came with it: `forward` gives it no verdict, and `generate` raises. "
    "Pass `pixel_values`."
)


class SafePreTrainedModelMixin(SafetyAdapterMixin, SafeCheckpointMixin, RemoteCodeMixin):
    """Parts that base model and generating model of a family have in common, in front of [`PreTrainedModel`]."""

    # Quantisers leave these as they are, by the start of a module's name, in the whole model or the base model.
    _keep_in_fp32_modules = [r"(?:model\.)?safety_\w+"]
    _no_split_modules = ["SafetyHead", "SafetyWordHead", "SafetyProjector"]

    @property
    def vision_modules(self) -> str:
        """Match the tower and its connector, as a regular expression for quantisers, which leave them out: in 4 bits a
        tower moves verdicts (docs/deployment.md), and a narrow connector does not fit their blocks."""
        return rf"(?:model\.)?(?:{'|'.join(self.base_model.vision_children)})"

    @classmethod
    def is_custom_code(cls) -> bool:
        # The library skips parts of initialisation for custom code; this one follows the library's own rules.
        return False

    def _init_weights(self, module):
        if not init_safety_weights(module) and not init_word_weights(module):
            super()._init_weights(module)

    def post_init(self):
        super().post_init()
        # CLIP names a module that only its text side has, and FSDP's wrapping stops at one that it does not find.
        self._no_split_modules &= {type(module).__name__ for module in self.modules()}  # type: ignore[operator]
        if getattr(self.config, "quantization_config", None) is not None:
            self._keep_in_fp32_modules.add(self.vision_modules)

    def _get_dtype_plan(self, dtype: torch.dtype) -> dict:
        # Quantisers leave tower and connector in the dtype that was asked for.
        return {name: kept for name, kept in super()._get_dtype_plan(dtype).items() if name != self.vision_modules}


class SafeModelMixin(SafetyJudgingMixin):
    """
    A backbone's base model with safety projector, safety tokens, safety head and condition table.

    A family's class stands in front of the backbone's base model and writes one method, `get_image_features`: it
    encodes as the backbone does, and hands h_i and the map that the safety projector reads to `judge_images`. Besides
    the backbone's arguments it takes `safety_inputs` ([`SafetyInputs`], *optional*), questions and policy, without
    which the verdict is on the image alone, under the default policy; and it returns [`SafetyImageOutput`].

    Attributes:
        output_class: what `forward` returns, the stock class with [`SafetyFields`].
        image_arguments: names of what `get_image_features` takes besides `pixel_values`.
        own_image_arguments: those of them that the backbone does not know.
        pixel_values_ndim: dimensions of `pixel_values`.
        has_structure_tokens: whether the processor writes tokens inside a block, which are no question;
            `block_layouts` then says which. Any other token there raises.
        pools_tensor: whether the backbone's `forward` reads one tensor in place of a list with an entry per image.
        places_images_by_prompt: whether the backbone finds an image's positions, or which of them see each other, by
            the prompt from its beginning on: behind text that is in a cache alone it would get them wrong.
        vllm_gap: why vLLM does not serve the family; `None` where our tests show that it answers as transformers does.
    """

    output_class: type
    pixel_values_ndim = 4
    has_structure_tokens = False
    pools_tensor = False
    places_images_by_prompt = False
    vllm_gap: str | None = "its answers there have not been compared with those of transformers"
    image_arguments: tuple[str, ...] = ()
    own_image_arguments: tuple[str, ...] = ()

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        names = inspect.signature(cls.get_image_features).parameters if hasattr(cls, "get_image_features") else ()
        left_out = ("self", "pixel_values", "safety_inputs", "kwargs")
        cls.image_arguments = tuple(name for name in names if name not in left_out)
        stock = _forward_of_backbone(cls)
        if stock is not None:
            register_key_conversions(cls.config_class.model_type, cls.config_class.class_prefix)
            known = inspect.signature(stock).parameters
            cls.own_image_arguments = tuple(name for name in cls.image_arguments if name not in known)
            forward = _with_signature_of(stock, SafeModelMixin.__dict__["forward"], cls.image_arguments)
            cls.forward = forward  # type: ignore[method-assign]
            cls.output_class = _with_fields(stock, SafetyFields, cls.__module__)

    def __init__(self, config):
        super().__init__(config)  # type: ignore[call-arg]
        config.check_safety()
        safety = config.safety_config
        self.safety_projector = SafetyProjector(config)
        self.safety_tokens = SafetyTokens(config)
        self.safety_head = SafetyWordHead(config) if safety.reads_words else SafetyHead(config)
        self.safety_conditions = SafetyConditions(config) if safety.num_condition_tokens else None
        if torch.get_default_dtype() == torch.float16:  # new safety modules, too, stay in float32
            for name, module in self.named_children():
                if name.startswith("safety_"):
                    module.float()
        self.post_init()

    def post_init(self):
        # The backbone calls it at the end of its own `__init__`, before the safety modules are there.
        if "safety_tokens" in self._modules:
            super().post_init()

    def train(self, mode: bool = True):
        """Train as [`nn.Module.train`] does, but keep a frozen tower and frozen safety modules in evaluation: batch
        norms would go on counting, dropout would change verdicts, and stage 2 must leave every verdict as it was."""
        super().train(mode)
        safety = [name for name, _ in self.named_children() if name.startswith("safety_")]
        for child in map(self.get_submodule, [*self.vision_children, *safety]):
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
        """Names of those `vision_children` that the verdict rests on."""
        return self.vision_children

    @property
    def cache_state(self):
        """State that the backbone keeps on the model for the cache of the last call; `None` before the first."""
        return None

    @cache_state.setter
    def cache_state(self, state):
        pass

    def check_arguments(self, arguments: dict):
        """Raise `ValueError` where `forward` or `generate` could not place an image with these arguments."""

    def check_given(self, name: str, value):
        """Raise `ValueError` where an argument that places an image is missing."""
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
        """Return the pixels of each image; `image_inputs` are those of `image_arguments`. Here each row is an
        image."""
        return list(pixel_values)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        cache: Cache | None = None,
        past_key_values: Cache | None = None,
        safety_inputs: SafetyInputs | None = None,
        question_mask: torch.Tensor | None = None,
        question_ids: torch.LongTensor | None = None,
        **kwargs,
    ):
        r"""
        Run the backbone; `cache` is the name of `past_key_values` since transformers 5.24.

        Args:
            question_mask, question_ids (*optional*): what users said, as [`SafetyGenerationMixin`] has them.
            safety_inputs ([`SafetyInputs`], *optional*): questions and policy; built from the prompt if unset.
        """
        inputs_embeds = kwargs.get("inputs_embeds")
        if (kwargs.get("input_ids") is None) ^ (inputs_embeds is not None):
            raise ValueError("You must specify exactly one of input_ids or inputs_embeds")
        check_modalities(kwargs)
        if pixel_values is not None:
            arguments = {**kwargs, "question_mask": question_mask, "question_ids": question_ids}
            kwargs["mm_encoder_outputs"] = {"image": self.encode_images(pixel_values, arguments, safety_inputs)}
        cache = one_cache(cache, past_key_values)
        image_outputs = (kwargs.get("mm_encoder_outputs") or {}).get("image")
        if image_outputs is not None:
            self.check_arguments(kwargs)
        if image_outputs is not None and self.pools_tensor:
            joined = torch.cat(list(image_outputs.pooler_output))[None]
            kwargs["mm_encoder_outputs"] = {"image": SafetyImageOutput(**{**image_outputs, "pooler_output": joined})}
        # Embeddings of the caller's may hold images; of token ids alone it is certain that they do not.
        is_free = image_outputs is None and inputs_embeds is None
        # `generate` sees to both by itself.
        is_called_alone = not torch.compiler.is_compiling() and not is_generating()
        if is_called_alone:
            lacks_images = is_free and bool(self.image_mask_of(kwargs["input_ids"]).any())
            if lacks_images:
                logger.warning_once(NO_IMAGES)
            is_free = take_free_cache(cache) and is_free and not lacks_images
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


def _safety_fields(image_outputs) -> dict:
    names = SafetyFields.__dataclass_fields__
    return {name: getattr(image_outputs, name, None) for name in names}


class SafeForConditionalGenerationMixin(SafetyGenerationMixin, SafetyAssessmentMixin, SafetyInitializationMixin):
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
        stock = _forward_of_backbone(cls)
        if stock is not None:
            names = cls.safe_model_class.image_arguments
            forward = _with_signature_of(stock, SafeForConditionalGenerationMixin.__dict__["forward"], names)
            cls.forward = forward  # type: ignore[method-assign]
            cls.output_class = _with_fields(stock, SafetyLossFields, cls.__module__)

    def __init__(self, config):
        PreTrainedModel.__init__(self, config)  # type: ignore[arg-type]
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
        question_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs,
    ):
        r"""
        Run the backbone; `cache` is the name of `past_key_values` since transformers 5.24. The loss of the outputs
        (`output_class`) is `lm_loss + loss_weight * safety_loss` (paper, 3.2).

        Args:
            safety_levels (`torch.LongTensor` of shape `(images,)`, *optional*): level labels, -100 ignores an image.
            safety_categories (`torch.LongTensor` of shape `(images,)`, *optional*): category labels, -100 ignores.
            safety_conditions (`torch.LongTensor` of shape `(images,)`, *optional*): rows of the condition table to
                train under; where negative, or without them, the verdict chooses. `generate` does not take them.
            safety_inputs ([`SafetyInputs`], *optional*): questions and policy; built from the prompt if unset.
            safety_only (`bool`, *optional*): the head's loss alone, for training; the language model does not run.
            question_mask, question_ids (*optional*): what users said ([`SafetyGenerationMixin`]). Without
                `question_ids` a head that reads words judges the picture by itself.
        """
        check_modalities(kwargs)
        encoded = (kwargs.get("mm_encoder_outputs") or {}).get("image")
        if pixel_values is not None:
            arguments = {**kwargs, "question_mask": question_mask, "question_ids": question_ids}
            encoded = self.model.encode_images(pixel_values, arguments, safety_inputs, labels, safety_conditions)
            kwargs["mm_encoder_outputs"] = {"image": encoded}
        safety_loss = None
        if encoded is not None and any(given is not None for given in (labels, safety_levels, safety_categories)):
            safety_loss = self.safety_loss_function(encoded, safety_levels, safety_categories)
        if safety_only:
            return self._safety_output(encoded, safety_loss)
        cache = one_cache(cache, past_key_values)
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
        """Return the head's loss, unweighted, as [`head_loss`] computes it."""
        return head_loss(encoded, safety_levels, safety_categories, self.config.safety_config)


def _forward_of_backbone(cls: type):
    """Return the `forward` of the first class of the library that `cls` stands in front of; `None` for a mixin."""
    stock = (base for base in cls.__mro__ if base.__module__.startswith("transformers.models."))
    return next((base.forward for base in stock), None)


def _with_signature_of(stock, own, image_arguments: tuple[str, ...]):
    """Return our `forward` under the signature of the stock one and with the arguments of `get_image_features`, for
    whoever reads it (`generate`, the Trainer)."""
    parameters = dict(inspect.signature(stock).parameters)
    image_parameters = {name: inspect.Parameter(name, ANY_KIND, default=None) for name in image_arguments}
    added = tuple(name for name in image_parameters if name not in parameters)
    kinds = [parameters.pop(name) for name in [*parameters] if parameters[name].kind is inspect.Parameter.VAR_KEYWORD]
    ours = {name: given for name, given in inspect.signature(own).parameters.items() if name not in ("self", "kwargs")}
    parameters |= {name: given.replace(kind=ANY_KIND) for name, given in ours.items()}
    parameters |= {name: image_parameters[name] for name in added}
    names = [name for name in parameters if name != "self"]

    @functools.wraps(own)
    def forward(self, *args, **kwargs):
        if len(args) > len(names):
            raise TypeError(f"`forward` takes {len(names)} positional arguments, got {len(args)}.")
        return own(self, **dict(zip(names, args)), **kwargs)

    forward.__signature__ = inspect.Signature([*parameters.values(), *kinds])
    return forward


def _with_fields(stock, fields: type, module: str) -> type:
    """Make the class that the stock `forward` returns, with further fields. Its name depends on transformers'
    version."""
    returned = typing.get_args(inspect.signature(stock).return_annotation)
    (output,) = [option for option in returned if isinstance(option, type) and issubclass(option, ModelOutput)]
    # Some annotations name the class of a text model, and what is returned has fields for images, too.
    for name in ("MultimodalBaseModelOutputWithPast", "MultimodalCausalLMOutputWithPast"):
        wider = getattr(modeling_outputs, name, output)
        if output.__dataclass_fields__.keys() < wider.__dataclass_fields__.keys():
            output = wider
    return dataclass(
        type(f"Safe{output.__name__}", (fields, output), {"__doc__": fields.__doc__, "__module__": module})
    )
