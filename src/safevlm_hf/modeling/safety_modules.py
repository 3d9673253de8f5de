"""The safety modules of SafeVLM (arXiv 2405.13581, section 3; arXiv 2411.11543), for any vision language backbone.

h_o or h_i, (rows, columns, width) per image
  -> SafetyProjector -> h_s (images, grid * grid, hidden)
[s(1); h_s] and the embeddings of the question
  -> SafetyHead -> Windows: level logits, category logits
(category, level)
  -> SafetyConditions -> c (images, condition tokens, hidden)

The modules take the configuration of the whole model (`SafeConfigMixin`).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from timm.layers import LayerNorm2d
from timm.models.regnet import RegStage
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init


TOKEN_INIT_STD = 0.02  # paper: s(1), s(2) ~ N(0, 0.02)


class Windows(NamedTuple):
    """Logits of each window of each image's question. Where pictures are cut, those of the first reading come first,
    then those of the second, and so on.

    Args:
        level_logits: (images, windows, levels), float32.
        category_logits: (images, windows, categories), float32.
        is_window: (images, windows), which of them there are.
    """

    level_logits: torch.Tensor
    category_logits: torch.Tensor
    is_window: torch.BoolTensor

    @classmethod
    def join(cls, parts: "Sequence[Windows]", dim: int) -> "Windows":
        """Return the windows of all parts: of further images with `dim=0`, of further readings with `dim=1`."""
        return cls(*(torch.cat(columns, dim=dim) for columns in zip(*parts)))

    def spread(self, places: torch.BoolTensor) -> "Windows":
        """Return them among more windows: at these `places` (all windows,), and nothing at the others."""
        columns = []
        for own in self:
            column = own.new_zeros(len(own), len(places), *own.shape[2:])
            column[:, places] = own
            columns.append(column)
        return Windows(*columns)

    def choose(self, window_ids: torch.LongTensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return level logits (images, levels) and category logits (images, categories) of one window per image."""
        places = window_ids[:, None, None]
        return (
            self.level_logits.take_along_dim(places, dim=1)[:, 0],
            self.category_logits.take_along_dim(places, dim=1)[:, 0],
        )


class FanInLinear(nn.Linear):
    """A linear layer that keeps the scale of its input at initialisation, whatever its width."""


class RowwiseLinear(nn.Linear):
    """A linear layer for few outputs that computes each of them by itself. Adding outputs leaves the existing ones
    bit-identical; a matrix product would not."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return torch.stack([(input * row).sum(dim=-1) for row in self.weight.unbind()], dim=-1) + self.bias


class SafetyTokens(nn.Module):
    """The two independent sets of trainable safety tokens: s(1) for the head, s(2) for the language model."""

    def __init__(self, config):
        super().__init__()
        shape = (config.safety_config.num_safety_tokens, config.get_text_config().hidden_size)
        self.head = nn.Parameter(torch.empty(shape))
        self.block = nn.Parameter(torch.empty(shape))

    def forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return s(1) and s(2), each (tokens, hidden)."""
        # These are copies, not the parameters themselves: DeepSpeed's ZeRO-3 empties a module's parameters when its
        # forward is done.
        return self.head.clone(), self.block.clone()


class SafetyConditions(nn.Module):
    """The condition table: row 0 is safe, row 1 + (risky category) * (levels - 1) + (level - 1) the others."""

    def __init__(self, config):
        super().__init__()
        safety, hidden_size = config.safety_config, config.get_text_config().hidden_size
        self.weight = nn.Parameter(torch.empty(safety.num_conditions, safety.num_condition_tokens, hidden_size))

    def forward(self, condition_ids: torch.LongTensor) -> torch.Tensor:
        """Look up the rows `condition_ids` (images,), (images, condition tokens, hidden)."""
        return self.weight[condition_ids]


class SafetyProjector(nn.Module):
    """Honeybee's C-Abstractor on the vision features: RegNet stage, average pooling to a grid, RegNet stage, MLP."""

    def __init__(self, config):
        super().__init__()
        depth, hidden_size = config.safety_config.projector_depth, config.safety_projector_hidden_size
        feature_size, output_size = config.safety_feature_size, config.get_text_config().hidden_size
        self.grid_size = config.safety_grid_size
        self.stage1 = _stage(depth, feature_size, hidden_size)
        self.stage2 = _stage(depth, hidden_size if depth else feature_size, hidden_size)
        layers: list[nn.Module] = [FanInLinear(hidden_size if depth else feature_size, output_size)]
        for _ in range(config.safety_config.projector_mlp_depth - 1):
            layers += [nn.SiLU(), FanInLinear(output_size, output_size)]
        self.readout = nn.Sequential(*layers)

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Turn features of images, each (rows, columns, vision width), into h_s (images, grid * grid, output size)."""
        # Maps of one shape go through together; backbones of any resolution have several.
        by_shape: dict[torch.Size, list[int]] = {}
        for place, features in enumerate(maps):
            by_shape.setdefault(features.shape, []).append(place)
        if len(by_shape) == 1:
            return self._abstract(torch.stack(list(maps)))
        abstracted: list[torch.Tensor | None] = [None] * len(maps)
        for places in by_shape.values():
            for place, features in zip(places, self._abstract(torch.stack([maps[place] for place in places]))):
                abstracted[place] = features
        return torch.stack(abstracted)

    def _abstract(self, features: torch.Tensor) -> torch.Tensor:
        features = self.stage1(features.permute(0, 3, 1, 2).contiguous())
        if features.shape[-2:] != (self.grid_size, self.grid_size):
            features = F.adaptive_avg_pool2d(features, self.grid_size)
        features = self.stage2(features)
        return self.readout(features.flatten(2).transpose(1, 2))


def to_squares(features: torch.Tensor) -> torch.Tensor:
    """Turn (images, patches, width) into (images, rows, columns, width), without a class token."""
    patches = features.shape[1]
    side = math.isqrt(patches)
    if side * side not in (patches, patches - 1):
        raise ValueError(f"The safety projector needs a square of patches (or one more, CLS), got {patches}.")
    return features[:, patches - side * side :].unflatten(1, (side, side))


def _stage(depth: int, in_channels: int, out_channels: int) -> nn.Module:
    if depth == 0:
        return nn.Identity()
    return RegStage(depth, in_channels, out_channels, stride=1, dilation=1, act_layer=nn.SiLU, norm_layer=LayerNorm2d)


class SafetyHead(nn.Module):
    """Cross-attention of the question over [s(1); h_s], and two linear heads (paper: W_l and W_t) on its windows.

    A mean over the whole text would let harmless words talk a verdict away. So every run of 4, 8, 16 and 32
    consecutive question tokens is a window with logits of its own, and the policy lets the strictest one decide. In
    the same way harmless tiles would talk a risky one away where a backbone cuts pictures: besides all tiles together
    each is read by itself, beside the whole picture, and has windows of its own ([`readings_of`]). The heads are
    linear: the logits of a window are the mean of its tokens' logits, and of what its words say together
    ([`SafetyGate`]).

    Plain linear layers and `scaled_dot_product_attention`: engines replace every linear layer, and
    `nn.MultiheadAttention` does not survive that.

    Attributes:
        pooling: `"windows"`; `"mean"`, one run that is the whole question; or `"first"`, the first token (published).
        window_sizes: lengths of the runs, in tokens: powers of two, rising.
        gate: reads the words of a run together; `None` without windows, or with `head_gate_size=0`.
    """

    def __init__(self, config):
        super().__init__()
        safety, hidden_size = config.safety_config, config.get_text_config().hidden_size
        self.num_heads = safety.num_attention_heads
        self.pooling = safety.head_pooling
        self.window_sizes = safety.head_window_sizes
        self.safe_category = safety.safe_category
        self.q_proj = FanInLinear(hidden_size, hidden_size)
        self.k_proj = FanInLinear(hidden_size, hidden_size)
        self.v_proj = FanInLinear(hidden_size, hidden_size)
        self.out_proj = FanInLinear(hidden_size, hidden_size)
        self.level_head = nn.Linear(hidden_size, len(safety.levels))
        self.category_head = RowwiseLinear(hidden_size, len(safety.categories))
        has_gate = safety.head_pooling == "windows" and safety.head_gate_size > 0
        self.gate = SafetyGate(config) if has_gate else None

    def forward(
        self,
        text_embeds: torch.Tensor,
        text_mask: torch.Tensor,
        keys: torch.Tensor,
        max_tokens: int | None = None,
        feature_mask: torch.BoolTensor | None = None,
        rows: torch.LongTensor | None = None,
    ) -> Windows:
        """
        Give each window of each image's question its logits.

        Args:
            text_embeds: (samples, tokens, hidden), the prompt of each sample.
            text_mask: (samples, tokens), true on the question's own tokens.
            keys: (images, safety tokens + features, hidden).
            max_tokens: no question has more tokens. What is known not to be one then takes no time.
            feature_mask: (images, readings, features), which of the last keys, the image's, the head reads at a time;
                nothing where there is no such reading. If unset, it reads all of them once.
            rows: (images,), the sample of each image; if unset, there is one image per sample.
        """
        if rows is None:
            return self._judge(text_embeds, text_mask, keys, max_tokens, feature_mask)
        # A long question under many pictures is held once per sample at a time, not once per picture.
        step = len(rows) if torch.is_grad_enabled() else len(text_embeds)
        parts = []
        for part in (slice(start, start + step) for start in range(0, len(rows), step)):
            own = rows[part]
            own_mask = None if feature_mask is None else feature_mask[part]
            parts.append(self._judge(text_embeds[own], text_mask[own], keys[part], max_tokens, own_mask))
        return Windows.join(parts, dim=0)

    def _judge(
        self,
        text_embeds: torch.Tensor,
        text_mask: torch.Tensor,
        keys: torch.Tensor,
        max_tokens: int | None,
        feature_mask: torch.BoolTensor | None,
    ) -> Windows:
        """Judge as `forward` does, with the prompt of each image."""
        text_embeds, is_token = F.pad(text_embeds, (0, 0, 1, 0)), with_empty_query(text_mask)
        if self.pooling == "windows":
            max_tokens = None if max_tokens is None else max(1, max_tokens)  # the empty query is one
            text_embeds, count = join_tokens(text_embeds, is_token, max_tokens)
        elif self.pooling == "first":
            first = is_token.long().argmax(dim=1)[:, None]
            is_token = is_token.gather(1, first)
            text_embeds = text_embeds.take_along_dim(first[..., None], dim=1)
        text_embeds, gate_scores = text_embeds.to(keys.dtype), None
        query, key, value = (
            self.split_heads(states) for states in (self.q_proj(text_embeds), self.k_proj(keys), self.v_proj(keys))
        )
        if self.pooling == "windows" and self.gate is not None:
            gate_scores = -self.gate(text_embeds, count)
        readings = []
        for mask in [None] if feature_mask is None else feature_mask.unbind(1):
            attended = F.scaled_dot_product_attention(query, key, value, attn_mask=key_mask(mask, keys))
            attended = attended.transpose(1, 2).flatten(2)
            if self.pooling == "windows":
                read = self._read_windows(attended, count, gate_scores)
            else:
                read = self._read_mean(attended, is_token)
            if mask is not None:
                read = read._replace(is_window=read.is_window & mask.any(dim=1)[:, None])
            readings.append(read)
        return Windows.join(readings, dim=1)

    def _read_mean(self, attended: torch.Tensor, is_token: torch.BoolTensor) -> Windows:
        """Read attended features (images, tokens, hidden) as one window, which is their mean."""
        weights = (is_token / is_token.sum(dim=1, keepdim=True)).to(attended.dtype)
        pooled = torch.einsum("nt,nth->nh", weights, attended)[:, None]
        return Windows(*self._read(pooled), is_token.new_ones(len(is_token), 1))

    def _read_windows(
        self, attended: torch.Tensor, count: torch.LongTensor, gate_scores: torch.Tensor | None
    ) -> Windows:
        """Read all windows of joined tokens, (images, tokens, hidden), by their number `count` (images, 1)."""
        levels, categories = self._read(attended)
        logits = torch.cat([levels, categories], dim=-1)
        run_scores = None
        if gate_scores is not None:
            is_safe = torch.zeros(logits.shape[-1], device=logits.device)
            is_safe[0] = is_safe[levels.shape[-1] + self.safe_category] = 1.0
            run_scores = gate_scores * is_safe
        means, is_window = window_means(logits, count, self.window_sizes, run_scores)
        levels, categories = means.split([levels.shape[-1], categories.shape[-1]], dim=-1)
        return Windows(levels, categories, is_window)

    def _read(self, attended: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return level and category logits of attended features (images, tokens, hidden)."""
        states = self.out_proj(attended)
        return self.level_head(states).float(), self.category_head(states).float()

    def split_heads(self, states: torch.Tensor) -> torch.Tensor:
        """Turn (images, length, hidden) into (images, heads, length, hidden / heads)."""
        return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def pooling_weights(self, text_mask: torch.Tensor, window_ids: torch.LongTensor) -> torch.Tensor:
        """Return the share of each token in the window that decided, (images, 1 + tokens).

        Args:
            text_mask: (images, tokens), as for `forward`.
            window_ids: (images,), which of `forward`'s windows it was.
        """
        is_token = with_empty_query(text_mask)
        if self.pooling == "first":
            is_token = is_token & (is_token.cumsum(dim=1) == 1)
        elif self.pooling == "windows":
            sizes = torch.tensor(self.window_sizes, device=window_ids.device)
            start, sizes = (window_ids // len(sizes))[:, None], sizes[window_ids % len(sizes)]
            place = is_token.cumsum(dim=1) - 1  # among the question's tokens, joined
            is_token = is_token & (place >= start) & (place < start + sizes[:, None])
        return is_token / is_token.sum(dim=1, keepdim=True)

    def gate_scores(
        self, text_embeds: torch.Tensor, text_mask: torch.Tensor, window_ids: torch.LongTensor
    ) -> torch.Tensor:
        """Return what the gate has taken from the logits of safe in the window that decided, (images,).

        Args:
            text_embeds: (images, 1 + tokens, hidden), with the empty query.
            text_mask, window_ids: as for `pooling_weights`.
        """
        if self.gate is None or self.pooling != "windows":
            return text_embeds.new_zeros(len(text_embeds), dtype=torch.float32)
        text_embeds, count = join_tokens(text_embeds, with_empty_query(text_mask))
        scores = self.gate(text_embeds, count)
        means, _ = window_means(torch.zeros_like(scores), count, self.window_sizes, scores)
        return means[..., 0].gather(1, window_ids[:, None])[:, 0]


class SafetyGate(nn.Module):
    """Score of how much the words of a run ask for what a picture says, whatever the picture shows.

    Cross-attention reads each word by itself, so that in a long harmless text some four words look like a request. The
    gate reads them together and in their order. Its score, per run of the smallest size, is taken from the logits of
    safe; longer runs take the mean. A question that is shorter has none.
    """

    def __init__(self, config):
        super().__init__()
        safety, hidden_size = config.safety_config, config.get_text_config().hidden_size
        self.run_length = safety.head_window_sizes[0]
        self.dropout = safety.head_gate_dropout
        self.norm = nn.LayerNorm(hidden_size)
        self.up = FanInLinear(hidden_size, self.run_length * safety.head_gate_size)
        self.down = nn.Linear(safety.head_gate_size, 1)

    def forward(self, text_embeds: torch.Tensor, count: torch.LongTensor) -> torch.Tensor:
        """Score embeddings (images, tokens, hidden) of joined tokens by their number (images, 1). Scores are
        (images, tokens, 1), float32, of the run that begins with each token."""
        length = text_embeds.shape[1]
        joined = torch.where(are_tokens(count, length)[..., None], self.norm(text_embeds), 0.0)
        if self.training and self.dropout:
            # A word is missing now and then: unknown words, names and misspellings change less.
            joined = joined * (torch.rand_like(joined[..., :1]) >= self.dropout)
        # Each place in a run has outputs of its own: shifted, they add up to the runs' scores without a copy of each
        # run.
        parts = F.pad(self.up(joined), (0, 0, 0, self.run_length - 1)).chunk(self.run_length, dim=-1)
        read: torch.Tensor = sum(part[:, place : place + length] for place, part in enumerate(parts))  # type: ignore[assignment]
        read = read / math.sqrt(self.run_length)
        return self.down(F.silu(read)).float() * (count >= self.run_length)[..., None]


def readings_of(is_feature: torch.BoolTensor, view_size: int) -> torch.BoolTensor:
    """
    Return what the head reads at a time where pictures are cut into tiles: all tiles beside the whole picture, so that
    what only several of them show is seen; then each tile beside it, so that none hides behind the others.

    Args:
        is_feature: (images, views * view size), which of the features there are: the whole picture's, then its tiles'.
        view_size: features of a view.

    Returns:
        (images, 1 + tiles, views * view size); nothing for tiles that an image does not have.
    """
    num_tiles = is_feature.shape[1] // view_size - 1
    view = torch.arange(1 + num_tiles, device=is_feature.device).repeat_interleave(view_size)
    tile = torch.arange(1, 1 + num_tiles, device=is_feature.device)
    is_own = (view == 0) | (view == tile[:, None])
    has_tile = is_feature[:, view_size::view_size, None]
    return torch.cat([is_feature[:, None], is_own & is_feature[:, None] & has_tile], dim=1)


def key_mask(feature_mask: torch.BoolTensor | None, keys: torch.Tensor) -> torch.BoolTensor | None:
    """Return the mask (images, 1, 1, keys) of the head's attention: there are safety tokens in front of the
    features."""
    if feature_mask is None:
        return None
    return F.pad(feature_mask, (keys.shape[1] - feature_mask.shape[1], 0), value=True)[:, None, None]


def with_empty_query(text_mask: torch.Tensor) -> torch.BoolTensor:
    """Extend (images, tokens) to (images, 1 + tokens). The first column is an empty (zero) query: a prompt without any
    text asks with it, and still gets a verdict."""
    return torch.cat([~text_mask.any(dim=1, keepdim=True), text_mask], dim=1)


def join_tokens(
    values: torch.Tensor, is_token: torch.BoolTensor, max_tokens: int | None = None
) -> tuple[torch.Tensor, torch.LongTensor]:
    """Return values (images, tokens, columns) of the mask's tokens, joined in their order with zeros after them, and
    their number (images, 1). `max_tokens` is the length that is left, where no row has more."""
    # A stable sort joins them; nothing waits for their number.
    order = (~is_token).long().sort(dim=1, stable=True).indices[:, :max_tokens]
    count = is_token.sum(dim=1, keepdim=True)
    is_joined = are_tokens(count, order.shape[1])
    return torch.where(is_joined[..., None], values.take_along_dim(order[..., None], dim=1), 0), count


def are_tokens(count: torch.LongTensor, length: int) -> torch.BoolTensor:
    """Return the mask (images, length) of joined tokens, by their number (images, 1)."""
    return torch.arange(length, device=count.device) < count


def window_means(
    values: torch.Tensor, count: torch.LongTensor, sizes: list[int], run_scores: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.BoolTensor]:
    """
    Compute means over runs of consecutive tokens. Runs are full, never cut; tokens that are fewer than the smallest
    size are one short run.

    Args:
        values: (images, tokens, columns), float32, of joined tokens; what stands after them counts nowhere.
        count: (images, 1), number of tokens, at least 1.
        sizes: powers of two, rising. Means come by doubling (4 + 4 = 8): a running sum over a long text is not exact.
        run_scores: (images, tokens, columns), added to the runs of the smallest size, by their first token.

    Returns:
        Means (images, tokens * sizes, columns), by first token and then by size, and which of them are runs.
    """
    length = values.shape[1]
    start = torch.arange(length, device=values.device)
    # The empty places of a short run are zeros.
    joined = torch.where((start < count)[..., None], values, 0.0)
    joined = F.pad(joined, (0, 0, 0, sizes[-1]))
    means, are_runs, size = [], [], 1
    while size <= sizes[-1]:
        if size == sizes[0]:
            is_short = (start == 0) & (count < size)
            scale = torch.where(is_short, size / count, 1.0)[..., None]
            added = 0.0 if run_scores is None else run_scores
            joined = torch.cat([joined[:, :length] * scale + added, joined[:, length:]], dim=1)
        if size in sizes:
            means.append(joined[:, :length])
            are_runs.append((start + size <= count) | (is_short if size == sizes[0] else False))
        joined = (joined[:, :-size] + joined[:, size:]) / 2
        size *= 2
    return torch.stack(means, dim=2).flatten(1, 2), torch.stack(are_runs, dim=2).flatten(1, 2)


def init_safety_weights(module: nn.Module) -> bool:
    """Initialise one module of this file, and say whether it was one. Called from a model's `_init_weights`."""
    if isinstance(module, SafetyTokens):
        init.normal_(module.head, std=TOKEN_INIT_STD)
        init.normal_(module.block, std=TOKEN_INIT_STD)
    elif isinstance(module, SafetyConditions):
        init.normal_(module.weight, std=TOKEN_INIT_STD)
    elif isinstance(module, (FanInLinear, nn.Conv2d)):
        # The library's std of 0.02 makes the C-Abstractor's features fade.
        # The sizes are not the weight's own shape, for DeepSpeed's ZeRO-3 empties every weight as it is made.
        if isinstance(module, nn.Linear):
            fan_in = module.in_features
        else:
            fan_in = module.in_channels // module.groups * math.prod(module.kernel_size)
        init.normal_(module.weight, std=fan_in**-0.5)
        if module.bias is not None:
            init.zeros_(module.bias)
    elif isinstance(module, LayerNorm2d):
        init.ones_(module.weight)
        init.zeros_(module.bias)
    else:
        return False
    return True
