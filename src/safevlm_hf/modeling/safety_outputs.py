"""Outputs of a verdict: the encoded images with their logits, decisions and blocks, and what is said of them to the
caller."""

from dataclasses import dataclass

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling, ModelOutput

from .configuration_safety import SafetyConfig
from .safety_decision import calibrated_risks, is_readable
from .safety_inputs import SafetyInputs
from .safety_policy import SafetyPolicy, Strictness, condition_category


@dataclass
class SafetyImageOutput(BaseModelOutputWithPooling):
    r"""
    pooler_output (`list` of `torch.Tensor` of shape `(block_length, hidden_size)`):
        One image block [ s(2) | h_i | c ] per image.
    deepstack_features (`list` of `list` of `torch.Tensor` of shape `(block_length, hidden_size)`, *optional*):
        For each layer that the backbone adds features of the tower to, one block [ 0 | features | 0 ] per image. The
        library expands and slices the field by this name.
    image_features (`list` of `torch.Tensor` of shape `(patches, hidden_size)`): h_i, the backbone's own features.
    layer_features (`list` of `list` of `torch.Tensor` of shape `(patches, hidden_size)`, *optional*):
        The features in `deepstack_features`, as the backbone gave them.
    safety_features (`torch.Tensor` of shape `(images, views * grid * grid, hidden_size)`):
        h_s, the safety projector's output: of the whole picture, then of its tiles where the backbone cuts pictures.
    safety_key_mask (`torch.BoolTensor` of shape `(images, views * grid * grid)`, *optional*):
        Which of them there are; `None` where no picture was cut.
    safety_level_logits (`torch.Tensor` of shape `(images, levels)`): float32.
    safety_category_logits (`torch.Tensor` of shape `(images, categories)`): float32.
    safety_condition_ids (`torch.LongTensor` of shape `(images,)`):
        Row of the condition table that is in the block: the strictest of the sample, the same in all of its blocks.
    safety_action_ids (`torch.LongTensor` of shape `(images,)`): each image's own, indices of `safety_policy.ACTIONS`.
    safety_level_ids (`torch.LongTensor` of shape `(images,)`): level of each image's own decision, 0 if answered.
    safety_window_ids (`torch.LongTensor` of shape `(images,)`): the head's window that decided: its first token (of
        the question's, joined) times the number of window sizes, plus the index of its size; of a head that reads
        words of its own, as `WindowTree.places` counts them. Where pictures are cut, the windows of each tile follow
        on those of the one before, and all on those of the tiles together.
    safety_window_logits (`torch.Tensor` of shape `(images, windows, levels + categories)`): float32, of all windows.
    safety_is_window (`torch.BoolTensor` of shape `(images, windows)`): which of them there are.
    safety_clean_losses (`torch.Tensor` of shape `(images, 2)`):
        CE(level) and CE(category) against "safe", means over the image's worst windows: for the training of clean
        images.
    safety_image_rows (`torch.LongTensor` of shape `(images,)`): the row of the batch that each image belongs to.
    """

    deepstack_features: list[list[torch.Tensor]] | None = None
    image_features: list[torch.Tensor] | None = None
    layer_features: list[list[torch.Tensor]] | None = None
    safety_features: torch.Tensor | None = None
    safety_key_mask: torch.BoolTensor | None = None
    safety_level_logits: torch.Tensor | None = None
    safety_category_logits: torch.Tensor | None = None
    safety_condition_ids: torch.LongTensor | None = None
    safety_action_ids: torch.LongTensor | None = None
    safety_level_ids: torch.LongTensor | None = None
    safety_window_ids: torch.LongTensor | None = None
    safety_window_logits: torch.Tensor | None = None
    safety_is_window: torch.BoolTensor | None = None
    safety_clean_losses: torch.Tensor | None = None
    safety_image_rows: torch.LongTensor | None = None


@dataclass
class SafetyFields:
    r"""
    Fields that the outputs of a safe model's `forward` hold beside the backbone's.

    safety_level_logits (`torch.Tensor` of shape `(images, levels)`, *optional*): float32.
    safety_category_logits (`torch.Tensor` of shape `(images, categories)`, *optional*): float32.
    """

    safety_level_logits: torch.Tensor | None = None
    safety_category_logits: torch.Tensor | None = None


@dataclass
class SafetyLossFields(SafetyFields):
    r"""
    Fields of a generating model's outputs, whose `loss` is `lm_loss + loss_weight * safety_loss`.

    lm_loss (`torch.Tensor` of shape `(1,)`, *optional*): next-token loss.
    safety_loss (`torch.Tensor` of shape `(1,)`, *optional*): CE(level) + CE(category), unweighted.
    """

    lm_loss: torch.Tensor | None = None
    safety_loss: torch.Tensor | None = None


@dataclass
class SafetyOutput(ModelOutput):
    r"""
    Verdicts as logits; `processor.post_process_safety` gives them by name. Fields as in [`SafetyImageOutput`], and
    safety_policy (`dict`): the policy that was applied.
    """

    safety_level_logits: torch.Tensor | None = None
    safety_category_logits: torch.Tensor | None = None
    safety_condition_ids: torch.LongTensor | None = None
    safety_action_ids: torch.LongTensor | None = None
    safety_window_logits: torch.Tensor | None = None
    safety_is_window: torch.BoolTensor | None = None
    safety_image_rows: torch.LongTensor | None = None
    safety_policy: dict | None = None


def verdict_output(encoded: SafetyImageOutput, policy: SafetyPolicy) -> SafetyOutput:
    names = [name for name in SafetyOutput.__dataclass_fields__ if name != "safety_policy"]
    return SafetyOutput(**{name: getattr(encoded, name) for name in names}, safety_policy=policy.to_dict())


def decide_samples(safety_inputs: SafetyInputs, config: SafetyConfig) -> list[tuple[int, float, str | None]]:
    """Return action id, risk and category of each sample's strictest image; no category where the image cannot be
    read."""
    strictest: list[tuple[Strictness, str | None]] = [(Strictness(), None)] * len(safety_inputs.text_mask)
    for encoded in safety_inputs.outputs:
        level_logits, category_logits = encoded.safety_level_logits, encoded.safety_category_logits
        readable = is_readable(level_logits, category_logits)
        risks = torch.where(readable, calibrated_risks(safety_inputs.policy, level_logits), torch.inf)
        columns = (
            encoded.safety_image_rows,
            encoded.safety_action_ids,
            encoded.safety_level_ids,
            risks,
            encoded.safety_condition_ids,
            readable,
        )
        for row, *decided, condition, is_read in zip(*(column.tolist() for column in columns)):
            strictness = Strictness(*decided)
            if strictness > strictest[row][0]:
                strictest[row] = strictness, condition_category(condition, config) if is_read else None
    return [(one.action, min(one.risk, 1.0), category) for one, category in strictest]
