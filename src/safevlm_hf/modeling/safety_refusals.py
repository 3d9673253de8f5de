"""Refusals that are certain: fixed texts, forced through the ordinary generation loop."""

from collections.abc import Callable, Sequence

import torch
from transformers import LogitsProcessor


def refusal_ids(tokenizer, text: str) -> list[int]:
    """Return the token ids of a fixed text, (length,). Raises `ValueError` where a special token stands in it: the
    refusal would be cut there, or a later turn would take it for an image; and where the tokenizer leaves no token of
    the text."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not len(ids):
        raise ValueError(f"The refusal {text!r} of the safety policy has no token: write one that can be read.")
    special = sorted({token for token in ids if token in tokenizer.all_special_ids})
    if special:
        raise ValueError(
            f"The refusal {text!r} of the safety policy holds special tokens, "
            f"{tokenizer.convert_ids_to_tokens(special)}: write it without them."
        )
    return ids


def all_refusal_ids(tokenizer, policy, categories: Sequence[str]) -> dict[str | None, list[int]]:
    """Map each category, and `None` for a picture that cannot be read, to the token ids of the policy's fixed text;
    raises as [`refusal_ids`]."""
    return {name: refusal_ids(tokenizer, policy.refusal(name)) for name in (*categories, None)}


class ForcedRefusal(LogitsProcessor):
    """
    Leave one token possible at each step of a refused sample: its fixed text, then the end.

    It runs after every other processor, so nothing that the language model, a sampler or a caller prefers can stand
    against it. Beams and several answers per prompt give one sample several rows.

    Args:
        find_refusals: called at the first step, when the images have been judged; gives the token ids of each sample's
            refusal, `None` where it is not refused.
        batch_size: samples of the call.
        prompt_length: length of the ids that the sequences begin with; 0 where the prompt came as embeddings alone.
        end_token_id: what follows the text, again and again: EOS, or padding where there is none.
        vocab_size: of the model's scores.
        has_draft: whether a draft proposes tokens. Its scores pass here, too, and are left alone where its vocabulary
            is another one; without a draft, scores of another size raise `ValueError`.
    """

    def __init__(
        self,
        find_refusals: Callable[[], Sequence[Sequence[int] | None]],
        batch_size: int,
        prompt_length: int,
        end_token_id: int,
        vocab_size: int,
        has_draft: bool = False,
    ):
        self.find_refusals = find_refusals
        self.batch_size = batch_size
        self.prompt_length = prompt_length
        self.end_token_id = end_token_id
        self.vocab_size = vocab_size
        self.has_draft = has_draft
        self.refusals: Sequence[Sequence[int] | None] | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if self.refusals is None:
            self.refusals = self.find_refusals()
        if all(refusal is None for refusal in self.refusals):
            return scores
        if scores.shape[-1] != self.vocab_size and not self.has_draft:
            raise ValueError(
                f"The model gives {scores.shape[-1]} scores per step, and its config says {self.vocab_size} "
                "(`vocab_size`), so a refusal cannot be forced: make the two agree, as "
                "`model.resize_token_embeddings` does."
            )
        if scores.shape[-1] != self.vocab_size:
            return scores  # a draft only proposes; the model's own scores are forced
        step = input_ids.shape[1] - self.prompt_length
        scores = scores.clone()
        for row in range(len(scores)):
            refusal = self.refusals[row * self.batch_size // len(scores)]
            if refusal is None:
                continue
            token_id = refusal[step] if step < len(refusal) else self.end_token_id
            scores[row] = -torch.inf
            scores[row, token_id] = 0.0
        return scores
