"""Records of a verdict: its inputs besides the pixels, the conversation that it is about, and its outputs."""

from dataclasses import dataclass, field, replace

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling, ModelOutput

from .configuration_safety import SafetyConfig
from .safety_decision import calibrated_risks, is_readable
from .safety_policy import SafetyPolicy, Strictness, condition_category


FAR_TURN = torch.iinfo(torch.long).max // 4


@dataclass(frozen=True)
class Conversation:
    """Conversation that a verdict reads, position by position as the language model sees it.

    Args:
        embeds: (batch, length, hidden), with the image token's embedding at image positions.
        turns: (batch, length), 0 outside of the question, otherwise the users' turn counted from the last one, 1.
        is_image: (batch, length), true at image positions.
        is_masked: whether a `question_mask` said what counts. Without it all text counts.
        question_ids: (batch, words, 2), the question in words of the head's own, each with its turn, for a head that
            reads these; `None` where nobody knows them.
    """

    embeds: torch.Tensor
    turns: torch.LongTensor
    is_image: torch.BoolTensor
    is_masked: bool
    question_ids: torch.LongTensor | None = None

    @property
    def shape(self) -> torch.Size:
        """(batch, length)."""
        return self.turns.shape

    def first(self, length: int) -> "Conversation":
        """Return its first positions. Words have no position: all of them stay, which is never less strict."""
        return replace(
            self,
            embeds=self.embeds[:, :length],
            turns=self.turns[:, :length],
            is_image=self.is_image[:, :length],
        )

    def followed_by(self, new: "Conversation") -> "Conversation":
        """Return this conversation with further tokens. Where both say what users said, the turns here move back."""
        turns = self.turns
        if self.is_masked and new.is_masked and new.shape[1]:
            turns = torch.where(turns == 0, 0, turns + new.turns.amax(dim=1, keepdim=True).to(turns.device))
        return Conversation(
            torch.cat([self.embeds, new.embeds.to(self.embeds)], dim=1),
            torch.cat([turns, new.turns.to(turns)], dim=1),
            torch.cat([self.is_image, new.is_image.to(self.is_image.device)], dim=1),
            self.is_masked and new.is_masked,
            self._words_with(new),
        )

    def _words_with(self, new: "Conversation") -> torch.LongTensor | None:
        if self.question_ids is None or new.question_ids is None:
            return None
        earlier, later = self.question_ids, new.question_ids.to(self.question_ids)
        if self.is_masked and new.is_masked and later.shape[1]:
            # The new text's first turn follows on the old ones, which move back by as many as it has.
            ids, turns = earlier.unbind(-1)
            turns = torch.where(turns == 0, 0, turns + later[..., 1].amax(dim=1, keepdim=True))
            earlier = torch.stack([ids, turns], dim=-1)
        return torch.cat([earlier, later], dim=1)

    def begins_with(self, other: "Conversation") -> bool:
        """Tell whether the first positions hold what `other` holds."""
        own = self.embeds[:, : other.shape[1]]
        return own.shape == other.embeds.shape and torch.equal(own, other.embeds.to(own))

    def question(self, remembered_turns: int | None) -> torch.BoolTensor:
        """Mark (batch, length) the question: the last turns in which users wrote, or all of them if `None`."""
        is_question = self.turns != 0
        if remembered_turns is None or not self.shape[1]:
            return is_question
        last = self.turns.masked_fill(~is_question, FAR_TURN).amin(dim=1, keepdim=True)
        return is_question & (self.turns < last + min(remembered_turns, FAR_TURN))

    def words(self, remembered_turns: int | None) -> torch.LongTensor | None:
        """Return `question_ids` of the question alone, as [`question`] has it: the turn of all others is 0."""
        if self.question_ids is None or remembered_turns is None:
            return self.question_ids
        ids, turns = self.question_ids.unbind(-1)
        # The last turn in which users wrote may have no word.
        last = self.turns.masked_fill(self.turns == 0, FAR_TURN).amin(dim=1, keepdim=True).to(turns.device)
        last = torch.minimum(last, turns.masked_fill(turns == 0, FAR_TURN).amin(dim=1, keepdim=True))
        turns = torch.where(turns < last + min(remembered_turns, FAR_TURN), turns, 0)
        return torch.stack([ids, turns], dim=-1)


def inside_blocks(image_mask: torch.BoolTensor, block_lengths: list[int]) -> torch.BoolTensor:
    """Mark the tokens between the first and the last image position of one image, (batch, length); the images take so
    many of the positions in `image_mask`, (batch, length), one after the other."""
    ends = torch.tensor([0, *block_lengths], device=image_mask.device).cumsum(dim=0)
    before = image_mask.flatten().cumsum(dim=0).view_as(image_mask)  # image positions up to each token
    return ~image_mask & ~torch.isin(before, ends)


@dataclass
class SafetyInputs:
    """Inputs of a verdict besides the pixels: the question of each sample, and the policy.

    Args:
        text_embeds: (batch, length, hidden), embeddings of the whole prompt.
        text_mask: (batch, length), true on the question's own tokens.
        image_token_counts: (batch,), image positions in each sample.
        policy: what to do with a verdict; the default one if unset.
        condition_ids: (images,), rows of the condition table to use in place of the verdict's where not negative; or
            (1,), one row for all of them.
        record: receives the conditioned image output of the call, for the caller to read.
        image_mask: (batch, length), true on image positions.
        question_ids: (batch, words, 2), the question in words of the head's own, each with its turn, which is 0 for
            what is no part of it. With none at all the picture is judged by itself.
    """

    text_embeds: torch.Tensor
    text_mask: torch.Tensor
    image_token_counts: torch.Tensor
    policy: SafetyPolicy | None = None
    condition_ids: torch.LongTensor | None = None
    record: list = field(default_factory=list)
    image_mask: torch.Tensor | None = None
    question_ids: torch.LongTensor | None = None

    def image_rows(self, block_lengths: list[int]) -> torch.LongTensor:
        """Return the row of the batch that each image belongs to, (images,), by the positions that its block takes."""
        last = self.image_token_counts.cumsum(dim=0)
        lengths = torch.tensor(block_lengths, device=last.device)
        first = lengths.cumsum(dim=0) - lengths
        return (first[:, None] >= last[None, :]).sum(dim=1).clamp(max=len(last) - 1)

    def question(self, block_lengths: list[int]) -> torch.Tensor:
        """Return `text_mask` without the tokens that the processor writes inside a block, as rows and tiles have
        them."""
        if self.image_mask is None:
            return self.text_mask
        return self.text_mask & ~inside_blocks(self.image_mask, block_lengths).to(self.text_mask.device)

    def fit(self, block_lengths: list[int]) -> torch.Tensor:
        """Tell whether the positions are whole blocks in each row, and as many as the images, as one bool."""
        last = self.image_token_counts.cumsum(dim=0)
        ends = torch.tensor([0, *block_lengths], device=last.device).cumsum(dim=0)
        # Each row has to end where a block ends, or an image would lie in two rows.
        return (last[:, None] == ends[None, :]).any(dim=1).all() & (last[-1] == ends[-1])


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
    for encoded in safety_inputs.record:
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


__all__ = [
    "Conversation",
    "SafetyFields",
    "SafetyImageOutput",
    "SafetyInputs",
    "SafetyLossFields",
    "SafetyOutput",
    "decide_samples",
    "inside_blocks",
    "verdict_output",
]
