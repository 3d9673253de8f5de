"""Generation with a verdict: what happens around `generate`, for any backbone."""

import inspect
import os
from dataclasses import replace
from functools import lru_cache

import torch
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList
from transformers.cache_utils import Cache
from transformers.generation import utils as generation_utils
from transformers.modeling_outputs import BaseModelOutputWithPooling, ModelOutput
from transformers.models.auto.tokenization_auto import AutoTokenizer
from transformers.utils import logging

from .configuration_safe_llava import SafetyConfig
from .safety_audit import SafetyAudit, audit_lines
from .safety_inputs import SafetyImageOutput, SafetyInputs, SafetyOutput
from .safety_policy import ACTIONS, SafetyPolicy, condition_category, is_readable, verdicts_from_logits
from .safety_refusals import ForcedRefusal, refusal_ids


logger = logging.get_logger(__name__)

DEFAULT_POLICY = SafetyPolicy()  # built here: full-graph compilation cannot build one in forward
NO_IMAGES = "no images"  # what a cache that was filled without images remembers
PREPARE_ARGUMENTS = inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
CACHE = "cache" if "cache" in PREPARE_ARGUMENTS else "past_key_values"  # its name before transformers 5.24
GENERATE_ARGUMENTS = list(inspect.signature(GenerationMixin.generate).parameters)[2:]  # after self and inputs
AUDIT_VARIABLE = "SAFEVLM_AUDIT"  # environment variable: file of the audit trail


class SafetyGenerationMixin:
    """`generate` under a verdict, for a model whose base model makes one in `get_image_features`."""

    @torch.no_grad()
    def generate(self, inputs: torch.Tensor | None = None, *args, safety_policy=None, safety_audit=None, **kwargs):
        """
        As [`GenerationMixin.generate`]: each image gets its verdict, and the answer is given under its condition.

        Args:
            safety_policy ([`SafetyPolicy`] or `dict`, *optional*): overrides, name by name, the policy in
                `generation_config`. Without either, every category is on and the most probable verdict decides.
            safety_audit ([`SafetyAudit`] or path, *optional*): where to write a line a sample, before its first token.
                By default the file that the environment variable `SAFEVLM_AUDIT` names, or none.
            tokenizer (*optional*): for a policy that refuses; by default the checkpoint's own is loaded.

        Returns:
            What [`GenerationMixin.generate`] returns. With `return_dict_in_generate=True` it also holds the fields of
            [`SafetyOutput`], where images were seen.

        Raises:
            `ValueError`: for image features or a cache that carry no verdict, or a policy that does not fit the model.
            `OSError`: where the audit line cannot be written, or the tokenizer of a refusing policy not be found.
        """
        for name in ("safety_conditions", "safety_inputs"):
            if kwargs.get(name) is not None:
                raise ValueError(f"`generate` takes no `{name}`: pass `safety_policy` to change what a verdict does.")
        kwargs = {**dict(zip(GENERATE_ARGUMENTS, args)), **kwargs}
        cache = _take_cache(kwargs)
        generation_config = kwargs.get("generation_config")
        input_ids = inputs if inputs is not None else kwargs.get("input_ids")
        inputs_embeds = kwargs.get("inputs_embeds")
        # A draft model proposes only: the model it drafts for verifies under its own condition.
        if getattr(generation_config, "is_assistant", False) and kwargs.get("pixel_values") is None:
            return super().generate(inputs, **kwargs)

        policy, audit = self._policy(safety_policy, generation_config), SafetyAudit.create(_audit(safety_audit))
        if input_ids is None and inputs_embeds is None:
            if audit is not None:
                raise ValueError("An audit line needs a prompt: pass `input_ids` or `inputs_embeds`.")
            return super().generate(inputs, **kwargs)
        if inputs_embeds is not None:
            self._check_embeds(inputs_embeds)
        safety_inputs = self._safety_inputs(
            input_ids, inputs_embeds, kwargs.get("attention_mask"), policy, generation_config
        )
        encoded = _encoded_images(kwargs)
        kept_images = NO_IMAGES
        if cache is not None and cache.get_seq_length() > 0:
            kept_images = self._renew_cached_images(cache, input_ids, kwargs, safety_inputs)
        if encoded is not None:
            kwargs["mm_encoder_outputs"] = {"image": self._renew_encoded_images(encoded, safety_inputs)}
        if kwargs.get("pixel_values") is not None:
            kwargs["safety_inputs"] = safety_inputs
        has_new_images = kwargs.get("pixel_values") is not None or _encoded_images(kwargs) is not None
        if has_new_images:
            self._warn_weak_safety()
            self._check_that_images_are_seen(generation_config, kwargs)
        self._act_on_verdicts(input_ids, safety_inputs, kwargs, audit)
        outputs = super().generate(inputs, **kwargs)

        seen = safety_inputs.record[-1] if safety_inputs.record else None
        if has_new_images:
            kept_images = seen if kept_images == NO_IMAGES else None
        sequences = outputs.sequences if isinstance(outputs, ModelOutput) else outputs
        # Beams and several answers a prompt give the cache other rows than the verdicts have.
        if len(sequences) != len(safety_inputs.text_mask) and kept_images != NO_IMAGES:
            kept_images = None
        for kept in (cache, outputs.get(CACHE) if isinstance(outputs, ModelOutput) else None):
            if kept is not None:
                kept.safety_images, kept.safety_batch_size = kept_images, len(safety_inputs.text_mask)
        if seen is not None and isinstance(outputs, ModelOutput):
            for name, value in verdict_output(seen, policy).items():
                outputs[name] = value
        return outputs

    def _check_embeds(self, inputs_embeds: torch.Tensor):
        """Raise where image blocks stand in the embeddings already; s(2), which begins each of them, tells."""
        first = self.model.safety_tokens()[1][0].to(inputs_embeds)
        if bool((inputs_embeds == first).all(dim=-1).any()):
            raise ValueError(
                "`inputs_embeds` holds image features, so these images would be answered without a verdict for this "
                "question: leave the image token's embeddings there and pass `pixel_values`."
            )

    def _policy(self, safety_policy, generation_config: GenerationConfig | None = None) -> SafetyPolicy:
        """The checkpoint's policy, with what the call sets in place of its own."""
        safety_config, policy = self.config.safety_config, SafetyPolicy()
        configs = (
            [self.generation_config] if generation_config is None else [self.generation_config, generation_config]
        )
        for given in (*(getattr(config, "safety_policy", None) for config in configs), safety_policy):
            SafetyPolicy.create(given, safety_config)  # an error names the policy that it is in
            policy = policy.override(given, safety_config)
        if policy.enabled is False:
            logger.warning_once("The safety policy is disabled (`enabled=False`): answers are not conditioned.")
        return policy

    def _act_on_verdicts(self, input_ids, safety_inputs: SafetyInputs, kwargs: dict, audit: SafetyAudit | None):
        """Add to `kwargs` the processor that writes the audit trail and forces refusals, where either is asked for."""
        policy, safety_config = safety_inputs.policy, self.config.safety_config
        may_have_images = (
            kwargs.get("pixel_values") is not None or _encoded_images(kwargs) is not None or safety_inputs.record
        )
        may_refuse = may_have_images and policy.refuses(safety_config)
        is_certain = audit is not None or may_refuse
        is_foreign = isinstance(kwargs.get("custom_generate"), (str, os.PathLike)) and policy != DEFAULT_POLICY
        if (is_certain and kwargs.get("custom_generate") is not None) or (may_have_images and is_foreign):
            raise ValueError(
                "`custom_generate` brings a decoding loop of its own, in which a refusal, an audit line or, where it "
                "is loaded, a policy other than the default is not certain: generate without one of the two."
            )
        if not is_certain:
            return
        tokenizer = kwargs.get("tokenizer") or self._tokenizer() if may_refuse else None

        def at_first_step() -> list[list[int] | None]:
            if may_have_images and not safety_inputs.record:
                raise RuntimeError("The images of this call were not judged before its first token.")
            decisions = decide_samples(safety_inputs, safety_config)
            if audit is not None:
                audit.append(self._audit_lines(input_ids, safety_inputs, kwargs, audit, decisions))
            return [
                refusal_ids(tokenizer, policy.refusal(category)) if ACTIONS[action] == "refuse" else None
                for action, _, category in decisions
            ]

        processor = ForcedRefusal(
            at_first_step,
            batch_size=len(safety_inputs.text_mask),
            prompt_length=0 if input_ids is None else input_ids.shape[1],
            end_token_id=self._end_token_id(kwargs),
            vocab_size=self.config.text_config.vocab_size,
        )
        kwargs["logits_processor"] = LogitsProcessorList([*(kwargs.get("logits_processor") or []), processor])

    def _audit_lines(self, input_ids, safety_inputs, kwargs, audit: SafetyAudit, decisions) -> list[dict]:
        verdicts = []
        for encoded in safety_inputs.record:
            verdicts += verdicts_from_logits(
                encoded.safety_level_logits,
                encoded.safety_category_logits,
                encoded.safety_image_rows.tolist(),
                self.config.safety_config,
                safety_inputs.policy,
                encoded.safety_condition_ids.tolist(),
            )
        is_kept = safety_inputs.text_mask
        if input_ids is not None:
            is_kept = is_kept.to(input_ids.device) | (input_ids == self.config.image_token_id)
        prompts = input_ids if input_ids is not None else safety_inputs.text_embeds
        pixel_values = kwargs.get("pixel_values")
        return audit_lines(
            audit,
            model=self.name_or_path,
            revision=getattr(self.config, "_commit_hash", None),
            policy=safety_inputs.policy,
            actions=[ACTIONS[action] for action, _, _ in decisions],
            verdicts=verdicts,
            prompts=[prompt[kept] for prompt, kept in zip(prompts, is_kept)],
            images=pixel_values if pixel_values is not None and len(pixel_values) == len(verdicts) else None,
        )

    def _tokenizer(self):
        try:
            return _load_tokenizer(self.name_or_path, getattr(self.config, "_commit_hash", None))
        except (OSError, ValueError) as error:
            raise OSError(
                "A safety policy that refuses needs the tokenizer, and none was found with the model "
                f"({self.name_or_path!r}): pass `generate(..., tokenizer=processor.tokenizer)`."
            ) from error

    def _end_token_id(self, kwargs: dict) -> int:
        """EOS, the first of several; padding where there is none; 0 where there is neither."""
        sources = [kwargs.get("generation_config"), self.generation_config, self.config.get_text_config()]
        for name in ("eos_token_id", "pad_token_id"):
            for value in (kwargs.get(name), *(getattr(source, name, None) for source in sources)):
                if value is not None and value != -1:
                    return int(torch.as_tensor(value).flatten()[0])
        return 0

    def _mask_padding(self, input_ids, generation_config) -> torch.Tensor | None:
        # As the library infers it, or the head would read padding that the language model does not.
        sources = [generation_config, self.generation_config, self.config.get_text_config()]
        pad, eos = (
            next((found for source in sources if (found := getattr(source, name, None)) is not None), None)
            for name in ("pad_token_id", "eos_token_id")
        )
        is_eos = pad in eos if isinstance(eos, (list, tuple)) else pad == eos
        return None if pad is None or is_eos else input_ids != pad

    def _safety_inputs(
        self, input_ids, inputs_embeds, attention_mask, policy: SafetyPolicy, generation_config=None
    ) -> SafetyInputs:
        if attention_mask is None and inputs_embeds is None:
            attention_mask = self._mask_padding(input_ids, generation_config)
        return self.model.prepare_safety_inputs(input_ids, inputs_embeds, attention_mask, policy=policy)

    def _renew_encoded_images(
        self, encoded: BaseModelOutputWithPooling, safety_inputs: SafetyInputs
    ) -> SafetyImageOutput:
        """Images encoded before the call get a verdict for this call's question."""
        if getattr(encoded, "safety_features", None) is None:
            raise ValueError(
                "`mm_encoder_outputs['image']` carries no safety features, so the images would be answered without a "
                "verdict: pass `pixel_values`, or what `model.get_image_features` returned."
            )
        return self.model.condition_image_features(encoded, safety_inputs)

    def _renew_cached_images(self, cache: Cache, input_ids, kwargs: dict, safety_inputs: SafetyInputs):
        """Images in a reused cache get a verdict for this call's question; where it differs from the one that they
        were cached under, the cache is filled anew. Returns the images that stay in the cache."""
        cached = getattr(cache, "safety_images", None)
        has_image_tokens = bool(safety_inputs.image_token_counts.any())
        attention_mask = kwargs.get("attention_mask")
        whole = attention_mask is None or attention_mask.shape[1] == safety_inputs.text_mask.shape[1]
        has_new_images = kwargs.get("pixel_values") is not None or _encoded_images(kwargs) is not None
        if has_new_images and whole and cached != NO_IMAGES:
            cache.reset()
            return NO_IMAGES
        if cached == NO_IMAGES:
            return NO_IMAGES
        if cached is None or cache.safety_batch_size != len(safety_inputs.text_mask):
            raise ValueError(
                "The cache holds images whose verdict is not known for this batch, or was filled where nobody saw "
                "what it holds: pass the `pixel_values` of all images again together with the whole `input_ids`, or "
                "start without a cache."
            )
        block_length = len(cached.pooler_output[0])
        counts = torch.bincount(cached.safety_image_rows, minlength=len(safety_inputs.text_mask)) * block_length
        # An image id that the model itself has written lies inside the cache or, the last token, one past its end.
        new_ids = input_ids[:, cache.get_seq_length() + 1 :] if input_ids is not None else counts.new_empty(0)
        has_new_places = bool((new_ids == self.config.image_token_id).any())
        lacks_places = bool((safety_inputs.image_token_counts < counts).any())
        if has_image_tokens and whole and (has_new_places or lacks_places):
            raise ValueError(
                f"The prompts hold {safety_inputs.image_token_counts.tolist()} image positions a row, the images in "
                f"the cache take {counts.tolist()}: pass the `pixel_values` of all images again."
            )
        renewed = self.model.condition_image_features(cached, replace(safety_inputs, image_token_counts=counts))
        if torch.equal(renewed.safety_condition_ids, cached.safety_condition_ids):
            return renewed
        if not whole:
            raise ValueError(
                "The new question changes the verdict on an image in the cache: pass the `input_ids` of the "
                "whole conversation, not only its last turn."
            )
        cache.reset()
        kwargs["mm_encoder_outputs"] = {"image": renewed}
        return NO_IMAGES

    def _check_that_images_are_seen(self, generation_config: GenerationConfig | None, kwargs: dict):
        """Raise where the library would run the prompt without its images, and so without their verdict."""
        values = {}
        for name in ("cache_implementation", "prefill_chunk_size"):
            sources = (getattr(config, name, None) for config in (generation_config, self.generation_config))
            values[name] = next((value for value in (kwargs.get(name), *sources) if value is not None), None)
        drops_images = {
            "cache_implementation": values["cache_implementation"] == "paged",
            # Until it learned to slice image features, the library dropped them.
            "prefill_chunk_size": values["prefill_chunk_size"] is not None
            and not hasattr(generation_utils, "_slice_mm_encoder_output"),
        }
        for name in filter(drops_images.get, drops_images):
            raise ValueError(
                f"`{name}={values[name]}` leaves the images out in this version of transformers, so their verdict "
                "would not apply: generate without it."
            )


def mark_cache(cache: Cache | None, has_images: bool):
    """What `generate` needs to know of a cache that it gets; it adds what it knows of the images itself."""
    if cache is not None and (has_images or not hasattr(cache, "safety_images")):
        cache.safety_images = None if has_images else NO_IMAGES


def verdict_output(encoded: SafetyImageOutput, policy: SafetyPolicy) -> SafetyOutput:
    names = [name for name in SafetyOutput.__dataclass_fields__ if name != "safety_policy"]
    return SafetyOutput(**{name: getattr(encoded, name) for name in names}, safety_policy=policy.to_dict())


def decide_samples(safety_inputs: SafetyInputs, config: SafetyConfig) -> list[tuple[int, float, str | None]]:
    """Action id, risk and category of each sample's strictest image, the riskiest of several; no category where the
    image cannot be read."""
    decisions = [(0, 0.0, None)] * len(safety_inputs.text_mask)
    for encoded in safety_inputs.record:
        level_logits, category_logits = encoded.safety_level_logits, encoded.safety_category_logits
        readable = is_readable(level_logits, category_logits)
        risks = torch.where(readable, 1 - safety_inputs.policy.probabilities(level_logits, "level")[:, 0], 1.0)
        columns = (encoded.safety_image_rows, encoded.safety_action_ids, risks, encoded.safety_condition_ids, readable)
        for row, action, risk, condition, is_read in zip(*(column.tolist() for column in columns)):
            if (action, risk) > decisions[row][:2]:
                decisions[row] = (action, risk, condition_category(condition, config) if is_read else None)
    return decisions


def _take_cache(kwargs: dict) -> Cache | None:
    """The cache among the arguments, left under the name that transformers has for it now. Found by its type: a name
    that is not known here would let a conversation's images through without their verdict."""
    names = [name for name, value in kwargs.items() if isinstance(value, Cache)]
    if len(names) > 1:
        raise ValueError(f"`generate` takes one cache, got {len(names)}: {', '.join(names)}.")
    cache = kwargs.pop(names[0]) if names else None
    if cache is not None:
        kwargs[CACHE] = cache
    return cache


def _audit(safety_audit):
    return os.environ.get(AUDIT_VARIABLE) or None if safety_audit is None else safety_audit


@lru_cache(maxsize=4)
def _load_tokenizer(name_or_path: str, revision: str | None):
    return AutoTokenizer.from_pretrained(name_or_path, revision=revision)


def _encoded_images(kwargs: dict) -> BaseModelOutputWithPooling | None:
    return (kwargs.get("mm_encoder_outputs") or {}).get("image")


__all__ = ["SafetyGenerationMixin", "decide_samples"]
