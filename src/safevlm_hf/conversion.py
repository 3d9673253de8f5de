"""Conversion of the authors' published checkpoints (arXiv 2405.13581) to ours."""

import re

import torch


# Published key pattern -> our key. The order matters: the first match wins.
RENAMINGS = (
    (r"^language_model\.lm_head\.", "lm_head."),
    (r"^language_model\.model\.", "model.language_model."),
    (r"^vision_tower\.vision_model\.", "model.vision_tower."),
    (r"^multi_modal_projector\.", "model.multi_modal_projector."),
    (r"^safe_mm_projector\.proj\.net\.0\.", "model.safety_projector.stage1."),
    (r"^safe_mm_projector\.proj\.net\.2\.", "model.safety_projector.stage2."),
    (r"^safe_mm_projector\.proj\.readout\.", "model.safety_projector.readout."),
    (r"^safe_part\.cross_attention\.out_proj\.", "model.safety_head.out_proj."),
    (r"^safe_part\.safety_head\.", "model.safety_head.level_head."),
    (r"^safe_part\.other_head\.", "model.safety_head.category_head."),
    (r"^safety_query_tokens$", "model.safety_tokens.head"),
    (r"^safety_query_tokens_2$", "model.safety_tokens.block"),
)
FUSED = re.compile(r"^safe_part\.cross_attention\.in_proj_(weight|bias)$")


def convert_reference_checkpoint(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """
    Rename and reshape the weights of the authors' published code for [`SafeLlavaForConditionalGeneration`] with
    `num_condition_tokens=0` and `head_pooling="first"`.

    Args:
        state_dict: weights under the published names; a leading `model.` of every key is dropped.

    Returns:
        Weights under our names: the fused `in_proj` of the head is split in three, the tokens lose their batch of 1.

    Raises:
        ValueError: for keys that the published layout does not have; all of them are named.
    """
    if all(key.startswith("model.") for key in state_dict):
        state_dict = {key.removeprefix("model."): value for key, value in state_dict.items()}
    converted, unknown = {}, []
    for key, value in state_dict.items():
        if fused := FUSED.match(key):
            for name, part in zip("qkv", value.chunk(3)):
                converted[f"model.safety_head.{name}_proj.{fused[1]}"] = part.clone()
            continue
        new_key = next((re.sub(old, new, key) for old, new in RENAMINGS if re.match(old, key)), None)
        if new_key is None:
            unknown.append(key)
        else:
            converted[new_key] = value.squeeze(0) if "safety_tokens" in new_key else value
    if unknown:
        raise ValueError(f"Not in the layout of the published SafeVLM checkpoints: {', '.join(sorted(unknown))}.")
    return converted
