"""Initialisation of the safety modules before they are trained: from word embeddings, and with new categories."""

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_safety import SafetyConfig
from .safety_policy import condition_text


NEW_CATEGORY_LOGIT = -10.0  # so that a category is not seen before it is trained


class SafetyInitializationMixin:
    """For a generating model whose base model has the safety modules."""

    @torch.no_grad()
    def initialize_from_embeddings(self, tokenizer):
        """
        Start the safety modules from the language model's word embeddings, once, before stage 1.

        Each row of the condition table becomes the embeddings of a short text, repeated or cut to
        `num_condition_tokens`, so that an untrained table is the paper's rewritten prompt. The head's query projection
        is scaled to the embeddings: theirs are small in most models, and every question would look alike.
        """
        embed = self.get_input_embeddings()
        # Some modules scale what they look up: the weights alone would not tell what the head reads.
        every_word = torch.arange(len(embed.weight), device=embed.weight.device)
        if not self.config.safety_config.reads_words:
            self.model.safety_head.q_proj.weight /= embed(every_word).float().std()
        if self.model.safety_conditions is None:
            return
        safety, table = self.config.safety_config, self.model.safety_conditions.weight
        for row in range(safety.num_conditions):
            ids = tokenizer(condition_text(row, safety), add_special_tokens=False)["input_ids"]
            ids = torch.tensor([ids[i % len(ids)] for i in range(safety.num_condition_tokens)], device=table.device)
            table[row] = self.get_input_embeddings()(ids).to(table)

    @torch.no_grad()
    def extend_categories(self, names: list[str]):
        """
        Add risk categories at the end. Every old logit stays as it was, bit for bit, and every old condition, too.

        The new ones are not seen before stage 1 has trained them (`examples/run_stage1.py --new_categories ...`):
        their logits start at -10. Their conditions start as the mean of the other categories' at the same level, which
        the language model already answers under.

        Args:
            names: new names, neither empty nor already there.

        Raises:
            `ValueError`: for such names; nothing is changed then.
        """
        safety = self.config.safety_config
        if isinstance(names, str) or not names:
            raise ValueError(f"`extend_categories` takes a list of new names, got {names!r}.")
        known = [name for name in names if name in safety.categories]
        if known:
            raise ValueError(
                f"{known} are categories of this model already: `extend_categories` takes new names alone."
            )
        extended = SafetyConfig(**{**safety.to_dict(), "categories": [*safety.categories, *names]})  # checks the names
        head = self.model.safety_head.category_head
        head.weight = nn.Parameter(F.pad(head.weight, (0, 0, 0, len(names))))
        head.bias = nn.Parameter(F.pad(head.bias, (0, len(names)), value=NEW_CATEGORY_LOGIT))
        head.out_features = len(extended.categories)
        if self.model.safety_conditions is not None:
            table = self.model.safety_conditions.weight
            by_level = table[1:].unflatten(0, (-1, len(safety.levels) - 1)).mean(dim=0)
            self.model.safety_conditions.weight = nn.Parameter(torch.cat([table, *[by_level] * len(names)]))
        safety.categories = extended.categories
