"""Checks of a call: it may bring no argument under which an image would be seen, and its verdict would not hold.

Each of these functions raises `ValueError` and says what to do, before any model runs.
"""

import inspect
import os

import torch
from transformers import GenerationMixin
from transformers.generation import utils as generation_utils


GENERATE_ARGUMENTS = list(inspect.signature(GenerationMixin.generate).parameters)[2:]  # after self and inputs
# The library hands these on to attention, where they decide which positions see which.
ATTENTION_ARGUMENTS = (
    "is_causal",
    "seq_idx",
    "cu_seq_lens_q",
    "cu_seq_lens_k",
    "max_length_q",
    "max_length_k",
)
UNJUDGED = ("pixel_values_videos", "input_features", "audio_values")  # arguments with video or audio


def check_modalities(arguments: dict):
    """Raise for what nobody judges."""
    if arguments.get("image_hidden_states") is not None:
        # A name of `mm_encoder_outputs` before transformers 5.20, under which nobody would see the images.
        raise ValueError("`image_hidden_states` are images without a verdict: pass `pixel_values`.")
    encoded = arguments.get("mm_encoder_outputs") or {}
    given = {name for name in UNJUDGED if arguments.get(name) is not None}
    given |= {name for name, outputs in encoded.items() if name != "image" and outputs is not None}
    if given:
        raise ValueError(
            f"There is no verdict on video and audio yet, got {', '.join(sorted(given))}: pass pictures, as single "
            "frames of a video."
        )


def check_question_mask(question_mask: torch.Tensor, shape: tuple[int, int]):
    """Raise for a mask that does not fit a prompt of this shape, (batch, length)."""
    found = f"{type(question_mask).__name__}"
    if isinstance(question_mask, torch.Tensor):
        found = f"{question_mask.dtype} of shape {tuple(question_mask.shape)}"
    is_mask = isinstance(question_mask, torch.Tensor) and not question_mask.is_floating_point()
    if not is_mask or tuple(question_mask.shape) != shape:
        raise ValueError(
            f"`question_mask` must hold whole numbers or bools and have the shape of the prompt, {shape}, got "
            f"{found}: pass it as the processor gave it, beside the same `input_ids`."
        )
    if question_mask.dtype != torch.bool and bool((question_mask < 0).any()):
        raise ValueError(
            "`question_mask` holds negative numbers: it must be 0 outside of the question, and 1 or the users' turn, "
            "counted from the last one, inside."
        )


def check_question_ids(question_ids: torch.Tensor, batch_size: int, safety_config):
    """Raise for words that are none, or of another batch; outside of a compiled graph for their values, too."""
    found = f"{type(question_ids).__name__}"
    if isinstance(question_ids, torch.Tensor):
        found = f"{question_ids.dtype} of shape {tuple(question_ids.shape)}"
    is_whole = isinstance(question_ids, torch.Tensor) and question_ids.dtype in (torch.int64, torch.int32)
    if not is_whole or question_ids.ndim != 3 or (len(question_ids), question_ids.shape[-1]) != (batch_size, 2):
        raise ValueError(
            f"`question_ids` must hold whole numbers of shape ({batch_size}, words, 2), got {found}: pass them as the "
            "processor gave them, beside the same `input_ids`."
        )
    if torch.compiler.is_compiling() or not question_ids.numel():
        return
    ids, turns = question_ids.unbind(-1)
    if bool((turns < 0).any() | (ids < 0).any() | (ids >= safety_config.head_vocab_size).any()):
        raise ValueError(
            f"`question_ids` must hold token ids from 0 to {safety_config.head_vocab_size - 1} and turns of at least "
            "0: pass them as the processor of this checkpoint gave them."
        )


def check_embeds(inputs_embeds: torch.Tensor, safety_tokens: torch.Tensor):
    """Raise where image blocks stand in the embeddings already; s(2), which begins each of them, tells."""
    if not len(safety_tokens):
        return  # blocks have no beginning of their own then
    first = safety_tokens[0].to(inputs_embeds)
    if bool((inputs_embeds == first).all(dim=-1).any()):
        raise ValueError(
            "`inputs_embeds` holds image features, so these images would be answered without a verdict for this "
            "question: leave the image token's embeddings there and pass `pixel_values`."
        )


OUT_OF_SIGHT = (
    "`{name}` could move an image's safety condition out of the answer's sight: with images leave it out, the library "
    "finds it by itself."
)


def check_blocks_are_seen(arguments: dict, is_image: torch.BoolTensor):
    """Raise where a mask would hide part of an image block, as its condition, from the answer.

    Args:
        arguments: of `generate`.
        is_image: (batch, length), true at image positions, those in the cache included.
    """
    for name in ATTENTION_ARGUMENTS:
        if arguments.get(name) is not None:
            raise ValueError(OUT_OF_SIGHT.format(name=name))
    mask = arguments.get("attention_mask")
    if mask is None:
        return
    if not isinstance(mask, torch.Tensor) or mask.shape != is_image.shape:
        found = tuple(mask.shape) if isinstance(mask, torch.Tensor) else type(mask).__name__
        raise ValueError(
            f"With images `attention_mask` must be of shape (batch, length), here {tuple(is_image.shape)}, got "
            f"{found}: another one could hide an image's safety condition."
        )
    if bool((is_image & ~mask.bool().to(is_image.device)).any()):
        raise ValueError(
            "`attention_mask` is 0 inside an image block, so that its safety condition could be hidden: it must "
            "be 1 at image positions, as the processor gives it."
        )


def check_positions(position_ids, own: torch.LongTensor, mask: torch.Tensor):
    """Raise for positions of a caller's other than those that the library finds by itself.

    Args:
        position_ids: of `generate`, (batch, length), or (3, batch, length) or more rows where a backbone has such.
        own: the library's own, in one of these shapes, of the tokens that are not in a cache.
        mask: (batch, length) of these tokens; one that is masked out has no position.
    """
    own = own if own.ndim == 3 else own[None]
    is_whole = isinstance(position_ids, torch.Tensor) and position_ids.dtype in (torch.int64, torch.int32)
    if is_whole and position_ids.ndim in (2, 3) and position_ids.shape[-1] >= own.shape[-1]:
        given = position_ids[..., position_ids.shape[-1] - own.shape[-1] :].to(own.device)
        given = given if given.ndim == 3 else given[None]
        if len(given) == 3 and len(own) == 4:
            own = own[1:]  # the first row is that of text
        rows = (1, len(own)) if len(own) > 1 else (1, 3, 4)
        if len(given) in rows and given.shape[1] in (1, own.shape[1]):
            if bool(((given == own) | (mask == 0).to(own.device)).all()):
                return
    raise ValueError(f"These are not the model's own positions. {OUT_OF_SIGHT.format(name='position_ids')}")


def check_images_are_seen(model, arguments: dict, has_new_images: bool):
    """Raise where the library would run the prompt without its images, and so without their verdict.

    Args:
        model: a model with [`SafetyGenerationMixin`].
        arguments: of `generate`.
        has_new_images: whether images come with the call; others lie in its cache.
    """
    names = ("cache_implementation", "token_healing", "prefill_chunk_size", "is_assistant")
    settings = {name: model.find_setting(name, arguments) for name in names}
    drops_images = {
        "cache_implementation": settings["cache_implementation"] == "paged",
        # It makes the prompt anew from its text, without image tokens, and with whatever users spelt like tokens.
        "token_healing": bool(settings["token_healing"]),
        # Until it learned to slice image features, the library dropped them.
        "prefill_chunk_size": has_new_images
        and settings["prefill_chunk_size"] is not None
        and not hasattr(generation_utils, "_slice_mm_encoder_output"),
        "is_assistant": has_new_images and bool(settings["is_assistant"]),
    }
    for name in filter(drops_images.get, drops_images):
        raise ValueError(
            f"`{name}={settings[name]}` leaves the images out in this version of transformers, so their verdict "
            "would not apply: generate without it."
        )


def check_drafts(model, arguments: dict):
    """Raise where a draft would do more than propose: it sees neither the images nor their conditions.

    Args:
        model, arguments: as for [`check_images_are_seen`].
    """
    weight = model.find_setting("assistant_ensemble_weight", arguments)
    if weight is not None:
        raise ValueError(
            f"`assistant_ensemble_weight={weight}` mixes in tokens of a draft model, which knows of no verdict: with "
            "images, an audit or a policy that refuses, generate without it."
        )


def check_loop(model, arguments: dict, is_certain: bool, has_policy: bool):
    """Raise for a decoding loop of somebody else's in which it is not certain what the policy asks for.

    Args:
        model, arguments: as for [`check_images_are_seen`].
        is_certain: whether the call may force a refusal, or writes an audit line.
        has_policy: whether images are judged under another policy than the default one.
    """
    custom = arguments.get("custom_generate")
    is_loaded = isinstance(custom, (str, os.PathLike)) or (custom is None and _loads_loop(model, arguments))
    if (is_certain and (custom is not None or is_loaded)) or (has_policy and is_loaded):
        raise ValueError(
            "`custom_generate`, or a way of decoding that is loaded from the Hub (`penalty_alpha`, `dola_layers`, "
            "...), brings a loop of its own, in which a refusal, an audit line or a policy other than the default "
            "is not certain: generate without one of the two."
        )


def _loads_loop(model, arguments: dict) -> bool:
    """Tell whether the library would load the loop for these settings from the Hub; it needs `trust_remote_code`."""
    if not arguments.get("trust_remote_code"):
        return False
    settings = {name: value for name, value in arguments.items() if name not in GENERATE_ARGUMENTS}
    config, _ = model._prepare_generation_config(arguments.get("generation_config"), **settings)
    mode = config.get_generation_mode(arguments.get("assistant_model"))
    return "/" in generation_utils.GENERATION_MODES_MAPPING[mode]


def check_vocabulary(model):
    """Raise where the output layer has other outputs than the config says: a refusal tells a draft's scores, which it
    leaves alone, from the model's by their number."""
    vocab_size, head = model.config.get_text_config().vocab_size, model.get_output_embeddings()
    outputs = getattr(head, "out_features", None) or len(head.weight)
    if outputs != vocab_size:
        raise ValueError(
            f"The output layer has {outputs} outputs, and the config a `vocab_size` of {vocab_size}: a refusal "
            f"would not be certain. Call `model.resize_token_embeddings({outputs})`."
        )
