"""Inputs of a verdict besides the pixels."""

from dataclasses import dataclass, field

import torch

from .safety_policy import SafetyPolicy


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
        outputs: receives the conditioned image output of the call, for the caller to read.
        image_mask: (batch, length), true on image positions.
        question_ids: (batch, words, 2), the question in words of the head's own, each with its turn, which is 0 for
            what is no part of it. With none at all the picture is judged by itself.
    """

    text_embeds: torch.Tensor
    text_mask: torch.Tensor
    image_token_counts: torch.Tensor
    policy: SafetyPolicy | None = None
    condition_ids: torch.LongTensor | None = None
    outputs: list = field(default_factory=list)
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
