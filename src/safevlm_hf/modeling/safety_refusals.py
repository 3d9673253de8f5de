"""Refusals that are certain: fixed texts, forced through the ordinary generation loop."""

from collections.abc import Callable, Sequence

import torch
from transformers import LogitsProcessor


# Language to category to text; "*" stands for every other category, and for images that cannot be read.
REFUSALS = {
    "en": {
        "*": "I can't help with this image.",
        "politics": "I can't help with this: it would interfere with politics.",
        "illegal risk": "I can't help with this: it may be against the law.",
        "insults and bullying": "I can't help with this: it would hurt someone.",
        "fairness": "I can't help with this: it treats people unfairly.",
        "privacy": "I can't help with this: it would expose private data.",
        "misleading": "I can't help with this: it would mislead people.",
    },
    "de": {
        "*": "Bei diesem Bild kann ich nicht helfen.",
        "politics": "Dabei kann ich nicht helfen: Es würde in die Politik eingreifen.",
        "illegal risk": "Dabei kann ich nicht helfen: Es könnte gegen das Gesetz sein.",
        "insults and bullying": "Dabei kann ich nicht helfen: Es würde jemanden verletzen.",
        "fairness": "Dabei kann ich nicht helfen: Es behandelt Menschen ungerecht.",
        "privacy": "Dabei kann ich nicht helfen: Es würde private Daten preisgeben.",
        "misleading": "Dabei kann ich nicht helfen: Es würde Menschen in die Irre führen.",
    },
    "es": {
        "*": "No puedo ayudar con esta imagen.",
        "politics": "No puedo ayudar con esto: interferiría en la política.",
        "illegal risk": "No puedo ayudar con esto: puede ser contrario a la ley.",
        "insults and bullying": "No puedo ayudar con esto: haría daño a alguien.",
        "fairness": "No puedo ayudar con esto: trata a las personas de forma injusta.",
        "privacy": "No puedo ayudar con esto: expondría datos privados.",
        "misleading": "No puedo ayudar con esto: engañaría a la gente.",
    },
    "fr": {
        "*": "Je ne peux pas aider avec cette image.",
        "politics": "Je ne peux pas aider : cela interférerait avec la politique.",
        "illegal risk": "Je ne peux pas aider : cela peut être contraire à la loi.",
        "insults and bullying": "Je ne peux pas aider : cela blesserait quelqu'un.",
        "fairness": "Je ne peux pas aider : cela traite des personnes injustement.",
        "privacy": "Je ne peux pas aider : cela exposerait des données privées.",
        "misleading": "Je ne peux pas aider : cela tromperait des gens.",
    },
    "zh": {
        "*": "我无法就这张图片提供帮助。",
        "politics": "我无法提供帮助：这会干预政治。",
        "illegal risk": "我无法提供帮助：这可能违反法律。",
        "insults and bullying": "我无法提供帮助：这会伤害他人。",
        "fairness": "我无法提供帮助：这对他人不公平。",
        "privacy": "我无法提供帮助：这会泄露隐私。",
        "misleading": "我无法提供帮助：这会误导他人。",
    },
}


def refusal_ids(tokenizer, text: str) -> list[int]:
    """Token ids of a fixed text, (length,). Raises `ValueError` where a special token stands in it: the refusal would
    be cut there, or a later turn would take it for an image; and where the tokenizer leaves no token of the text."""
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
    """Category, or `None` for a picture that cannot be read, to the token ids of the policy's fixed text; raises as
    [`refusal_ids`]."""
    return {name: refusal_ids(tokenizer, policy.refusal(name)) for name in (*categories, None)}


class ForcedRefusal(LogitsProcessor):
    """
    Leaves one token possible at each step of a refused sample: its fixed text, then the end.

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
        if scores.shape[-1] != self.vocab_size:
            return self._leave_alone(scores)
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

    def _leave_alone(self, scores: torch.FloatTensor) -> torch.FloatTensor:
        if not self.has_draft:
            raise ValueError(
                f"The model gives {scores.shape[-1]} scores per step, and its config says {self.vocab_size} "
                "(`vocab_size`), so a refusal cannot be forced: make the two agree, as "
                "`model.resize_token_embeddings` does."
            )
        return scores


__all__ = ["REFUSALS", "ForcedRefusal", "refusal_ids"]
