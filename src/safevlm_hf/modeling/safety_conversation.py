"""The conversation that a verdict is about."""

from dataclasses import dataclass, replace

import torch


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
