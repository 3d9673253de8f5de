"""Explanations of a verdict: the head's cross-attention as a map of the image, and as weights of the question's
tokens.

The head is linear behind its attention a: in the pooled vector, key k has the part

    u_k = W_out [sum_t w_t a_tk^h W_v^h key_k, for each attention head h]    (w: 1 / n on the n tokens that decided)

and biases and the gate on the words are the only rest, whatever the image. So each logit is an exact sum over the
keys, without a gradient and without another forward. Attention alone says where the head looks, also where there is
nothing to see; the length of u_k says how much it takes from there (Kobayashi et al., arXiv 2004.10102). The map is
the share of each position in sum_k |u_k|^2 over the positions of the image.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_outputs import ModelOutput

from .safety_modules import SafetyHead, join_tokens, key_mask, readings_of
from .safety_outputs import SafetyImageOutput
from .safety_word_head import SafetyWordHead


@dataclass
class SafetyExplanation(ModelOutput):
    r"""
    Explanation of what the verdict on each image rests on; `processor.post_process_safety` gives the verdicts by name.

    map (`torch.Tensor` of shape `(images, grid, grid)`):
        Share of each position in what the head takes from the whole image, as energy (squared norm): at least 0, sum
        1.
    image_attention (`torch.Tensor` of shape `(images, grid, grid)`):
        Attention of the question, mean over attention heads and tokens. At least 0, sum 1.
    safety_token_attention (`torch.Tensor` of shape `(images,)`): attention that the safety tokens take, in [0, 1].
    risk_margin (`torch.Tensor` of shape `(images,)`):
        Logit of the most probable risky level minus that of safe, plus the same for the category: the log-odds, before
        calibration, of the most probable risk against a safe verdict. It is the sum of the parts that follow.
    image_contributions (`torch.Tensor` of shape `(images, grid, grid)`): part of each position, risky where positive.
    tile_contributions (`torch.Tensor` of shape `(images, tiles)`): part of each tile where the backbone cuts pictures;
        where one tile decided, 0 for the others.
    safety_token_contributions (`torch.Tensor` of shape `(images,)`): part of the safety tokens.
    together_contributions (`torch.Tensor` of shape `(images,)`): of a head with `head_concepts`, part of what several
        positions show together, so that none of them takes it away; 0 of the others.
    bias_contributions (`torch.Tensor` of shape `(images,)`): part of what does not depend on the image: the head's
        biases, and its gate on the words that decided.
    question_weights (`torch.Tensor` of shape `(images, length)`):
        Share of each token of the prompt in what the head takes, as energy. At least 0; 0 outside the window of the
        question that decided; sum 1, or 0 where there is no text. Of a head that reads words of its own: of each of
        `question_ids`, by how much the margin changes without it.
    question_contributions (`torch.Tensor` of shape `(images, length)`):
        Part of each token in the margin; with `bias_contributions` they sum to it, too, where there is text. Of a head
        that reads words of its own: what the margin loses without each of `question_ids`; it reads a window's words
        together, so these have no sum.

    The rest as in [`SafetyOutput`]. Where the pixels are not numbers, neither are the maps.
    """

    map: torch.Tensor | None = None
    image_attention: torch.Tensor | None = None
    safety_token_attention: torch.Tensor | None = None
    risk_margin: torch.Tensor | None = None
    image_contributions: torch.Tensor | None = None
    tile_contributions: torch.Tensor | None = None
    safety_token_contributions: torch.Tensor | None = None
    together_contributions: torch.Tensor | None = None
    bias_contributions: torch.Tensor | None = None
    question_weights: torch.Tensor | None = None
    question_contributions: torch.Tensor | None = None
    safety_level_logits: torch.Tensor | None = None
    safety_category_logits: torch.Tensor | None = None
    safety_condition_ids: torch.LongTensor | None = None
    safety_action_ids: torch.LongTensor | None = None
    safety_image_rows: torch.LongTensor | None = None
    safety_policy: dict | None = None


def explain_head(
    head: SafetyHead,
    text_embeds: torch.Tensor,
    text_mask: torch.Tensor,
    safety_tokens: torch.Tensor,
    encoded: SafetyImageOutput,
    config,
) -> dict[str, torch.Tensor]:
    """
    Return the fields of [`SafetyExplanation`] that do not come from the verdict, float32.

    Args:
        text_embeds, text_mask: (images, length, hidden) and (images, length), as for the head.
        safety_tokens: s(1), (tokens, hidden).
        encoded: images with their verdicts.
        config: of the model.
    """
    decided = _Decided(safety_tokens, encoded, config)
    keys, window_ids = decided.keys, decided.window_ids
    weights = head.pooling_weights(text_mask, window_ids).to(keys.dtype)
    queries = F.pad(text_embeds, (0, 0, 1, 0)).to(keys.dtype)
    attention, value = decided.attend(head, queries)
    pooled = torch.einsum("nt,nhtk->nhk", weights, attention)

    by_key = _project(head, pooled[..., None] * value)
    by_token = _project(head, attention @ value * weights[:, None, :, None])
    biases = head.out_proj(head.v_proj(torch.zeros_like(keys[:, 0])))
    # The gate takes its score from both logits of safe.
    by_gate = 2 * head.gate_scores(queries, text_mask, window_ids)
    return {
        **decided.explain_keys(head, by_key, pooled),
        "together_contributions": torch.zeros_like(by_gate),
        "bias_contributions": decided.margin(head.level_head(biases), head.category_head(biases)) + by_gate,
        "question_weights": _shares(_energy(by_token))[:, 1:],
        "question_contributions": decided.contributions(head, by_token)[:, 1:],
    }


def explain_word_head(
    head: SafetyWordHead, question_ids: torch.LongTensor, safety_tokens: torch.Tensor, encoded, config
) -> dict[str, torch.Tensor]:
    """
    Explain as [`explain_head`] does, for a head that reads words of its own. Behind its attention it is linear under a
    window's scale, so the parts of the picture are exact; the window's words count by what the margin loses without
    each. So do positions in the picture's concepts, and what none of them alone would take away is a part of its own.

    Args:
        question_ids: (images, words, 2), each with its turn, 0 outside of the question.
        safety_tokens, encoded, config: as of [`explain_head`].
    """
    decided = _Decided(safety_tokens, encoded, config)
    states, _ = head.windows(question_ids[..., 0], question_ids[..., 1] != 0)
    state = states.take_along_dim(decided.window_ids[:, None, None], dim=1)
    attention, value = decided.attend(head, state)
    attention = attention[:, :, 0]
    by_key = _project(head, attention[..., None] * value) * head.share(state)
    biases = head.out_proj(head.v_proj(torch.zeros_like(decided.keys[:, :1])))
    read = biases * head.share(state) + head.shift(state)
    together = torch.zeros_like(by_key[:, 0])
    if head.concepts is not None:
        found, together = _find_concepts(head.concepts, state, decided)
        by_key = by_key + F.pad(found, (0, 0, decided.num_tokens, 0))
        read = read + head.concepts.say(torch.zeros_like(head.concepts.asked(state)))
    parts = _without_each_word(head, question_ids, decided)
    return {
        **decided.explain_keys(head, by_key, attention),
        "together_contributions": decided.contributions(head, together),
        "bias_contributions": decided.margin(head.level_head(read), head.category_head(read))[:, 0],
        "question_weights": _shares(parts.abs()),
        "question_contributions": parts,
    }


class _Decided:
    """The reading of each image that its verdict was decided on, for a head of either kind.

    Attributes:
        keys: (images, safety tokens + features, hidden), what the head attends to.
        feature_mask: (images, features), which of the features it read; `None` where it read all.
        window_ids: (images,), the window that decided, among those of this reading.
    """

    def __init__(self, safety_tokens: torch.Tensor, encoded: SafetyImageOutput, config):
        features = encoded.safety_features
        self.keys = torch.cat([safety_tokens.expand(len(features), -1, -1).to(features), features], dim=1)
        self.num_tokens, self.grid_size = len(safety_tokens), config.safety_grid_size
        self.feature_mask, self.window_ids = encoded.safety_key_mask, encoded.safety_window_ids
        # Windows are numbered through all readings, of all tiles together and then of each (`readings_of`).
        if self.feature_mask is not None:
            readings = readings_of(self.feature_mask, self.grid_size**2)
            num_windows = encoded.safety_is_window.shape[1] // readings.shape[1]  # windows of each reading
            images = torch.arange(len(features), device=self.window_ids.device)
            self.feature_mask = readings[images, self.window_ids // num_windows]
            self.window_ids = self.window_ids % num_windows
        self.level_logits, self.category_logits = encoded.safety_level_logits, encoded.safety_category_logits
        self.safe_category = config.safety_config.safe_category
        self.level = _most_probable_risk(self.level_logits, 0)
        self.category = _most_probable_risk(self.category_logits, self.safe_category)

    def attend(self, head: SafetyHead | SafetyWordHead, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the attention (images, heads, queries, keys) and the values (images, heads, keys, hidden / heads)
        without their bias."""
        query, key = head.split_heads(head.q_proj(queries)), head.split_heads(head.k_proj(self.keys))
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        mask = key_mask(self.feature_mask, self.keys)
        attention = (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(dim=-1)
        return attention, head.split_heads(_without_bias(head.v_proj, self.keys))

    def margin(self, levels: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
        """Return the log-odds (images, ...) of the most probable risk in logits (images, ..., classes)."""
        level_margin = _contrast(levels.float(), self.level, 0)
        return level_margin + _contrast(categories.float(), self.category, self.safe_category)

    def contributions(self, head: SafetyHead | SafetyWordHead, states: torch.Tensor) -> torch.Tensor:
        """Return what states (images, length, hidden) add to the margin, (images, length)."""
        return self.margin(_without_bias(head.level_head, states), _without_bias(head.category_head, states))

    def explain_keys(
        self, head: SafetyHead | SafetyWordHead, by_key: torch.Tensor, attention: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Return the fields about the picture, from the part (images, keys, hidden) of each key in what the head
        reads, and its attention (images, heads, keys)."""
        contributions, square = self.contributions(head, by_key), (self.grid_size, self.grid_size)
        by_view = contributions[:, self.num_tokens :].unflatten(1, (-1, self.grid_size**2))
        whole = slice(self.num_tokens, self.num_tokens + self.grid_size**2)
        return {
            "map": _shares(_energy(by_key[:, whole])).unflatten(1, square),
            "image_attention": _shares(attention[..., whole].mean(dim=1).float()).unflatten(1, square),
            "safety_token_attention": attention[..., : self.num_tokens].sum(dim=-1).mean(dim=1).float(),
            "risk_margin": self.margin(self.level_logits, self.category_logits),
            "image_contributions": by_view[:, 0].unflatten(1, square),
            "tile_contributions": by_view[:, 1:].sum(dim=-1),
            "safety_token_contributions": contributions[:, : self.num_tokens].sum(dim=1),
        }


def _without_bias(layer: nn.Module, states: torch.Tensor) -> torch.Tensor:
    # A product with `layer.weight` would be simpler, but engines replace linear layers by their own.
    return layer(states) - layer(states.new_zeros(1, states.shape[-1]))


def _project(head: SafetyHead | SafetyWordHead, states: torch.Tensor) -> torch.Tensor:
    """Send (images, heads, length, hidden / heads) through the output projection, (images, length, hidden)."""
    return _without_bias(head.out_proj, states.transpose(1, 2).flatten(2))


def _energy(states: torch.Tensor) -> torch.Tensor:
    return states.float().square().sum(dim=-1)


def _shares(values: torch.Tensor) -> torch.Tensor:
    return values / values.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(values.dtype).tiny)


def _most_probable_risk(logits: torch.Tensor, safe: int) -> torch.LongTensor:
    is_safe = torch.arange(logits.shape[-1], device=logits.device) == safe
    return logits.masked_fill(is_safe, -torch.inf).argmax(dim=-1)


def _contrast(scores: torch.Tensor, risky: torch.LongTensor, safe: int) -> torch.Tensor:
    """Return the scores (images, ..., classes) of each image's risky class minus those of safe, (images, ...)."""
    risky = risky.view(-1, *[1] * (scores.ndim - 1))
    return scores.take_along_dim(risky, dim=-1)[..., 0] - scores[..., safe]


def _find_concepts(concepts, state: torch.Tensor, decided: _Decided) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the concepts lose without each feature, (images, features, hidden), and the rest of what they add,
    (images, hidden), for the window that decided (images, 1, hidden)."""
    features = decided.keys[:, decided.num_tokens :]
    mask = decided.feature_mask
    mask = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device) if mask is None else mask
    asked = concepts.asked(state)
    shown = concepts.shown(features, mask)[:, None]
    found = _without_bias(concepts.say, (shown - concepts.shown_without_each(features, mask)) * asked)
    return found, (_without_bias(concepts.say, shown * asked) - found.sum(dim=1, keepdim=True))[:, 0]


def _without_each_word(head: SafetyWordHead, question_ids: torch.LongTensor, decided: _Decided) -> torch.Tensor:
    """Return what the margin of the window that decided loses without each of the words, (images, words); 0 outside
    it."""
    places = head.tree.places(question_ids.shape[1], decided.window_ids.device)
    start, size = (column[decided.window_ids] for column in places)
    ids, is_asked = question_ids.unbind(-1)[0], question_ids[..., 1] != 0
    place = is_asked.long().cumsum(dim=1) - 1
    in_window = is_asked & (place >= start[:, None]) & (place < (start + size)[:, None])
    joined, count = join_tokens(ids[..., None], in_window)
    joined = joined[:, : head.tree.longest, 0]
    window = head.tree.alone(decided.window_ids, question_ids.shape[1], joined.shape[1])[:, None, None]
    # The head reads the window again as often as it has words, each time without one of them.
    found = [
        head.tree(joined, count, missing)[0].take_along_dim(window, dim=1)
        for missing in (None, *range(joined.shape[1]))
    ]
    states = torch.cat(found, dim=1)
    read = head.read(states, decided.keys, decided.feature_mask)
    margins = decided.margin(head.level_head(read), head.category_head(read))
    lost = margins[:, :1] - margins[:, 1:]
    by_place = lost.gather(1, (place - start[:, None]).clamp(0, lost.shape[1] - 1))
    return torch.where(in_window, by_place, 0.0)
