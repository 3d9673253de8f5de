"""What a verdict rests on: the head's cross-attention as a map of the image, and as weights of the question's tokens.

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
from .safety_word_head import SafetyWordHead


@dataclass
class SafetyExplanation(ModelOutput):
    r"""
    What the verdict on each image rests on; `processor.post_process_safety` gives the verdicts by name.

    map (`torch.Tensor` of shape `(images, grid, grid)`):
        Share of each position in what the head takes from the whole image, as energy (squared norm): at least 0, sum
        1.
    image_attention (`torch.Tensor` of shape `(images, grid, grid)`):
        Attention of the question, mean over attention heads and tokens. At least 0, sum 1.
    safety_token_attention (`torch.Tensor` of shape `(images,)`): attention that the safety tokens take, in [0, 1].
    risk_margin (`torch.Tensor` of shape `(images,)`):
        Logit of the most probable risky level minus that of safe, plus the same for the category: the log-odds, before
        calibration, of the most probable risk against a safe verdict. It is the sum of the four parts that follow.
    image_contributions (`torch.Tensor` of shape `(images, grid, grid)`): part of each position, risky where positive.
    tile_contributions (`torch.Tensor` of shape `(images, tiles)`): part of each tile where the backbone cuts pictures;
        where one tile decided, 0 for the others.
    safety_token_contributions (`torch.Tensor` of shape `(images,)`): part of the safety tokens.
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
    safety_features: torch.Tensor,
    window_ids: torch.LongTensor,
    num_windows: int,
    level_logits: torch.Tensor,
    category_logits: torch.Tensor,
    safe_category: int,
    grid_size: int,
    feature_mask: torch.BoolTensor | None = None,
) -> dict[str, torch.Tensor]:
    """
    The fields of [`SafetyExplanation`] that do not come from the verdict, float32.

    Args:
        text_embeds, text_mask: (images, length, hidden) and (images, length), as for the head.
        safety_tokens: s(1), (tokens, hidden).
        safety_features: h_s, (images, views * grid * grid, hidden), the whole picture first.
        window_ids: (images,), the window of the head that decided.
        num_windows: that the head returned.
        level_logits, category_logits: (images, levels) and (images, categories), what the head gave for these.
        safe_category: index of the category `"safe"`.
        grid_size: side of a view's square of features.
        feature_mask: (images, views * grid * grid), which of them there are; all of them if unset.
    """
    images, num_tokens, view_size = len(safety_features), len(safety_tokens), grid_size * grid_size
    if feature_mask is not None:
        feature_mask, window_ids = _deciding_reading(feature_mask, view_size, window_ids, num_windows)
    keys = torch.cat([safety_tokens.expand(images, -1, -1).to(safety_features), safety_features], dim=1)
    weights = head.pooling_weights(text_mask, window_ids).to(keys.dtype)
    queries = F.pad(text_embeds, (0, 0, 1, 0)).to(keys.dtype)
    query, key = head.split_heads(head.q_proj(queries)), head.split_heads(head.k_proj(keys))
    value = head.split_heads(_without_bias(head.v_proj, keys))
    scores, mask = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]), key_mask(feature_mask, keys)
    attention = (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(dim=-1)
    pooled = torch.einsum("nt,nhtk->nhk", weights, attention)

    by_key = _project(head, pooled[..., None] * value)
    by_token = _project(head, attention @ value * weights[:, None, :, None])
    biases = head.out_proj(head.v_proj(torch.zeros_like(keys[:, 0])))

    level, category = _most_probable_risk(level_logits, 0), _most_probable_risk(category_logits, safe_category)

    def margin(levels: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
        return _contrast(levels.float(), level, 0) + _contrast(categories.float(), category, safe_category)

    def contributions(states: torch.Tensor) -> torch.Tensor:
        return margin(_without_bias(head.level_head, states), _without_bias(head.category_head, states))

    # It is taken from both logits of safe.
    of_gate = 2 * head.gate_scores(queries, text_mask, window_ids)
    of_keys, square = contributions(by_key), (grid_size, grid_size)
    of_views = of_keys[:, num_tokens:].unflatten(1, (-1, view_size))
    whole = slice(num_tokens, num_tokens + view_size)
    return {
        "map": _shares(_energy(by_key[:, whole])).unflatten(1, square),
        "image_attention": _shares(pooled[..., whole].mean(dim=1).float()).unflatten(1, square),
        "safety_token_attention": pooled[..., :num_tokens].sum(dim=-1).mean(dim=1).float(),
        "risk_margin": margin(level_logits, category_logits),
        "image_contributions": of_views[:, 0].unflatten(1, square),
        "tile_contributions": of_views[:, 1:].sum(dim=-1),
        "safety_token_contributions": of_keys[:, :num_tokens].sum(dim=1),
        "bias_contributions": margin(head.level_head(biases), head.category_head(biases)) + of_gate,
        "question_weights": _shares(_energy(by_token))[:, 1:],
        "question_contributions": contributions(by_token)[:, 1:],
    }


def _deciding_reading(
    is_feature: torch.BoolTensor, view_size: int, window_ids: torch.LongTensor, num_windows: int
) -> tuple[torch.BoolTensor, torch.LongTensor]:
    """The features (images, features) that the head read where it decided, and its window among those of this reading.
    Arguments as of [`explain_head`]."""
    readings = readings_of(is_feature, view_size)
    num_windows //= readings.shape[1]  # of each reading
    images = torch.arange(len(window_ids), device=window_ids.device)
    return readings[images, window_ids // num_windows], window_ids % num_windows


def _without_bias(layer: nn.Module, states: torch.Tensor) -> torch.Tensor:
    # Not by `layer.weight`: engines replace linear layers by their own.
    return layer(states) - layer(states.new_zeros(1, states.shape[-1]))


def _project(head: SafetyHead | SafetyWordHead, states: torch.Tensor) -> torch.Tensor:
    """(images, heads, length, hidden / heads) through the output projection, (images, length, hidden)."""
    return _without_bias(head.out_proj, states.transpose(1, 2).flatten(2))


def _energy(states: torch.Tensor) -> torch.Tensor:
    return states.float().square().sum(dim=-1)


def _shares(values: torch.Tensor) -> torch.Tensor:
    return values / values.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(values.dtype).tiny)


def _most_probable_risk(logits: torch.Tensor, safe: int) -> torch.LongTensor:
    is_safe = torch.arange(logits.shape[-1], device=logits.device) == safe
    return logits.masked_fill(is_safe, -torch.inf).argmax(dim=-1)


def _contrast(scores: torch.Tensor, risky: torch.LongTensor, safe: int) -> torch.Tensor:
    """Scores (images, ..., classes) of each image's risky class minus those of safe, (images, ...)."""
    risky = risky.view(-1, *[1] * (scores.ndim - 1))
    return scores.take_along_dim(risky, dim=-1)[..., 0] - scores[..., safe]


def explain_word_head(
    head: SafetyWordHead,
    question_ids: torch.LongTensor,
    safety_tokens: torch.Tensor,
    safety_features: torch.Tensor,
    window_ids: torch.LongTensor,
    num_windows: int,
    level_logits: torch.Tensor,
    category_logits: torch.Tensor,
    safe_category: int,
    grid_size: int,
    feature_mask: torch.BoolTensor | None = None,
) -> dict[str, torch.Tensor]:
    """
    As [`explain_head`], of a head that reads words of its own. Behind its attention it is linear under a window's
    scale, so the parts of the picture are exact; the window's words count by what the margin loses without each.

    Args:
        question_ids: (images, words, 2), each with its turn, 0 outside of the question.
        the others: as of [`explain_head`].
    """
    images, num_tokens, view_size = len(safety_features), len(safety_tokens), grid_size * grid_size
    if feature_mask is not None:
        feature_mask, window_ids = _deciding_reading(feature_mask, view_size, window_ids, num_windows)
    keys = torch.cat([safety_tokens.expand(images, -1, -1).to(safety_features), safety_features], dim=1)
    level, category = _most_probable_risk(level_logits, 0), _most_probable_risk(category_logits, safe_category)

    def margin(states: torch.Tensor, layer=lambda layer, states: layer(states)) -> torch.Tensor:
        levels, categories = layer(head.level_head, states).float(), layer(head.category_head, states).float()
        return _contrast(levels, level, 0) + _contrast(categories, category, safe_category)

    is_asked = question_ids[..., 1] != 0
    states, _ = head.windows(question_ids[..., 0], is_asked)
    state = states.take_along_dim(window_ids[:, None, None], dim=1)
    query, key = head.split_heads(head.q_proj(state)), head.split_heads(head.k_proj(keys))
    scores, mask = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]), key_mask(feature_mask, keys)
    attention = (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(dim=-1)[:, :, 0]
    value = head.split_heads(_without_bias(head.v_proj, keys))
    by_key = _project(head, attention[..., None] * value) * head.share(state)
    biases = head.out_proj(head.v_proj(torch.zeros_like(keys[:, :1])))
    of_keys, square = margin(by_key, _without_bias), (grid_size, grid_size)
    of_views = of_keys[:, num_tokens:].unflatten(1, (-1, view_size))
    whole = slice(num_tokens, num_tokens + view_size)
    parts = _without_each_word(head, question_ids, window_ids, keys, feature_mask, margin)
    return {
        "map": _shares(_energy(by_key[:, whole])).unflatten(1, square),
        "image_attention": _shares(attention[..., whole].mean(dim=1).float()).unflatten(1, square),
        "safety_token_attention": attention[..., :num_tokens].sum(dim=-1).mean(dim=1).float(),
        "risk_margin": _contrast(level_logits.float(), level, 0)
        + _contrast(category_logits.float(), category, safe_category),
        "image_contributions": of_views[:, 0].unflatten(1, square),
        "tile_contributions": of_views[:, 1:].sum(dim=-1),
        "safety_token_contributions": of_keys[:, :num_tokens].sum(dim=1),
        "bias_contributions": margin(head.read(state, biases))[:, 0],
        "question_weights": _shares(parts.abs()),
        "question_contributions": parts,
    }


def _without_each_word(head, question_ids, window_ids, keys, feature_mask, margin) -> torch.Tensor:
    """What the margin of the window that decided loses without each of the words, (images, words); 0 outside it."""
    start, size = (of_windows[window_ids] for of_windows in head.tree.places(question_ids.shape[1], window_ids.device))
    ids, is_asked = question_ids.unbind(-1)[0], question_ids[..., 1] != 0
    place = is_asked.long().cumsum(dim=1) - 1
    in_window = is_asked & (place >= start[:, None]) & (place < (start + size)[:, None])
    joined, count = join_tokens(ids[..., None], in_window)
    joined = joined[:, : head.tree.window_sizes[-1], 0]
    _, sizes = head.tree.places(joined.shape[1], size.device)
    window = (sizes == size[:, None]).long().argmax(dim=1)[:, None, None]  # the first one of its size
    found = [
        head.tree(joined, count, missing)[0].take_along_dim(window, dim=1)
        for missing in (None, *range(joined.shape[1]))
    ]
    states = torch.cat(found, dim=1)
    margins = margin(head.read(states, head.attend(states, keys, feature_mask)))
    lost = margins[:, :1] - margins[:, 1:]
    of_places = lost.gather(1, (place - start[:, None]).clamp(0, lost.shape[1] - 1))
    return torch.where(in_window, of_places, 0.0)


__all__ = ["SafetyExplanation", "explain_head", "explain_word_head"]
