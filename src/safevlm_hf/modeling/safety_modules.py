"""The safety modules of SafeVLM (arXiv 2405.13581, section 3; arXiv 2411.11543), for any vision language backbone.

h_o (images, patches, vision width)
  -> SafetyProjector -> h_s (images, grid * grid, hidden)
[s(1); h_s] and the embeddings of the question
  -> SafetyHead -> level logits, category logits
(category, level)
  -> SafetyConditions -> c (images, condition tokens, hidden)
"""

import math

import torch
from timm.layers import LayerNorm2d
from timm.models.regnet import RegStage
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init


TOKEN_INIT_STD = 0.02  # paper: s(1), s(2) ~ N(0, 0.02)


class FanInLinear(nn.Linear):
    """A linear layer that keeps the scale of its input at initialisation, whatever its width."""


class RowwiseLinear(nn.Linear):
    """A linear layer that computes each output by itself: more outputs change no bit of the others, as they do in a
    matrix product. For few outputs."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return (input[..., None, :] * self.weight).sum(dim=-1) + self.bias


class SafetyTokens(nn.Module):
    """The two independent sets of trainable safety tokens: s(1) for the head, s(2) for the language model."""

    def __init__(self, num_tokens: int, hidden_size: int):
        super().__init__()
        self.head = nn.Parameter(torch.empty(num_tokens, hidden_size))
        self.block = nn.Parameter(torch.empty(num_tokens, hidden_size))

    def forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        """s(1) and s(2), each (tokens, hidden)."""
        # Not the parameters themselves: DeepSpeed's ZeRO-3 empties a module's parameters when its forward is done.
        return self.head.clone(), self.block.clone()


class SafetyConditions(nn.Module):
    """The condition table: row 0 is safe, row 1 + (risky category) * (levels - 1) + (level - 1) the others."""

    def __init__(self, num_conditions: int, num_tokens: int, hidden_size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_conditions, num_tokens, hidden_size))

    def forward(self, condition_ids: torch.LongTensor) -> torch.Tensor:
        """`condition_ids` (images,) to (images, condition tokens, hidden)."""
        return self.weight[condition_ids]


class SafetyProjector(nn.Module):
    """Honeybee's C-Abstractor on the vision features: RegNet stage, average pooling to a grid, RegNet stage, MLP."""

    def __init__(
        self, vision_hidden_size: int, hidden_size: int, output_size: int, grid_size: int, depth: int, mlp_depth: int
    ):
        super().__init__()
        self.grid_size = grid_size
        self.stage1 = _stage(depth, vision_hidden_size, hidden_size)
        self.stage2 = _stage(depth, hidden_size if depth else vision_hidden_size, hidden_size)
        layers = [FanInLinear(hidden_size if depth else vision_hidden_size, output_size)]
        for _ in range(mlp_depth - 1):
            layers += [nn.SiLU(), FanInLinear(output_size, output_size)]
        self.readout = nn.Sequential(*layers)

    def forward(self, vision_features: torch.Tensor) -> torch.Tensor:
        """h_o (images, patches, vision width) to h_s (images, grid * grid, output size).

        Raises `ValueError` when the patches, with or without a class token before them, are not a square."""
        images, patches, width = vision_features.shape
        side = math.isqrt(patches)
        if side * side not in (patches, patches - 1):
            raise ValueError(f"The safety projector needs a square of patches (or one more, CLS), got {patches}.")
        features = vision_features[:, patches - side * side :].transpose(1, 2).reshape(images, width, side, side)
        features = self.stage1(features)
        if side != self.grid_size:
            features = F.adaptive_avg_pool2d(features, self.grid_size)
        features = self.stage2(features)
        return self.readout(features.flatten(2).transpose(1, 2))


def _stage(depth: int, in_channels: int, out_channels: int) -> nn.Module:
    if depth == 0:
        return nn.Identity()
    return RegStage(depth, in_channels, out_channels, stride=1, dilation=1, act_layer=nn.SiLU, norm_layer=LayerNorm2d)


class SafetyHead(nn.Module):
    """Cross-attention of the question over [s(1); h_s], pooled, and two linear heads (paper: W_l and W_t).

    Plain linear layers and `scaled_dot_product_attention`: engines replace every linear layer, and
    `nn.MultiheadAttention` does not survive that.
    """

    def __init__(self, hidden_size: int, num_heads: int, num_levels: int, num_categories: int, pooling: str):
        super().__init__()
        self.num_heads = num_heads
        self.pooling = pooling
        self.q_proj = FanInLinear(hidden_size, hidden_size)
        self.k_proj = FanInLinear(hidden_size, hidden_size)
        self.v_proj = FanInLinear(hidden_size, hidden_size)
        self.out_proj = FanInLinear(hidden_size, hidden_size)
        self.level_head = nn.Linear(hidden_size, num_levels)
        self.category_head = RowwiseLinear(hidden_size, num_categories)

    def forward(
        self, text_embeds: torch.Tensor, text_mask: torch.Tensor, keys: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            text_embeds: (images, tokens, hidden), the prompt of each image's sample.
            text_mask: (images, tokens), true on the question's own tokens.
            keys: (images, safety tokens + grid * grid, hidden).

        Returns:
            level logits (images, levels) and category logits (images, categories), float32.
        """
        weights = self.pooling_weights(text_mask)
        text_embeds = F.pad(text_embeds, (0, 0, 1, 0))
        if self.pooling == "first":
            images = torch.arange(len(weights), device=weights.device)
            text_embeds = text_embeds[images, weights.argmax(dim=1)][:, None]
            weights = weights.new_ones(len(weights), 1)
        query, key, value = (
            self.split_heads(states)
            for states in (self.q_proj(text_embeds.to(keys.dtype)), self.k_proj(keys), self.v_proj(keys))
        )
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        pooled = self.out_proj(torch.einsum("nt,nth->nh", weights.to(attended.dtype), attended))
        return self.level_head(pooled).float(), self.category_head(pooled).float()

    def split_heads(self, states: torch.Tensor) -> torch.Tensor:
        """(images, length, hidden) to (images, heads, length, hidden / heads)."""
        return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def pooling_weights(self, text_mask: torch.Tensor) -> torch.Tensor:
        """The share of each token in the verdict, (images, 1 + tokens), from `text_mask` (images, tokens).

        Column 0 is an empty (zero) query: a prompt without any text asks with it, and still gets a verdict."""
        text_mask = torch.cat([~text_mask.any(dim=1, keepdim=True), text_mask], dim=1)
        if self.pooling == "first":
            text_mask = text_mask & (text_mask.cumsum(dim=1) == 1)
        return text_mask / text_mask.sum(dim=1, keepdim=True)


def init_safety_weights(module: nn.Module) -> bool:
    """Initialise one module of this file, and say whether it was one. Called from a model's `_init_weights`."""
    if isinstance(module, SafetyTokens):
        init.normal_(module.head, std=TOKEN_INIT_STD)
        init.normal_(module.block, std=TOKEN_INIT_STD)
    elif isinstance(module, SafetyConditions):
        init.normal_(module.weight, std=TOKEN_INIT_STD)
    elif isinstance(module, (FanInLinear, nn.Conv2d)):
        # The library's std of 0.02 makes the C-Abstractor's features fade.
        # Not from the weight's own shape: DeepSpeed's ZeRO-3 empties every weight as it is made.
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


__all__ = ["SafetyTokens", "SafetyConditions", "SafetyProjector", "SafetyHead", "init_safety_weights"]
