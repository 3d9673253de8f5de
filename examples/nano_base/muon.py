"""Muon (Keller Jordan, 2024) in float32: momentum whose every matrix is made orthogonal.

torch.optim.Muon computes in bfloat16, which a CPU without that unit does at a tenth of the speed.
"""

import math

import torch


class Muon(torch.optim.Optimizer):
    """For the matrices of hidden layers. Steps are scaled so that AdamW's learning rates fit."""

    def __init__(self, parameters, lr: float, momentum: float = 0.95, weight_decay: float = 0.05):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            by_shape = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    update = self._momentum(weight, group["momentum"])
                    update = update if update.shape[0] <= update.shape[1] else update.T
                    by_shape.setdefault(update.shape, []).append((weight, update))
            for pairs in by_shape.values():
                updates = orthogonalise(torch.stack([update for _, update in pairs]))
                for (weight, _), update in zip(pairs, updates, strict=True):
                    update = update if update.shape == weight.shape else update.T
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.add_(update, alpha=-group["lr"] * 0.2 * math.sqrt(max(weight.shape)))

    def _momentum(self, weight: torch.Tensor, momentum: float) -> torch.Tensor:
        state = self.state[weight]
        if not state:
            state["mean"] = torch.zeros_like(weight)
        state["mean"].lerp_(weight.grad, 1 - momentum)
        return weight.grad.lerp(state["mean"], momentum)


def orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """The matrices (count, rows, columns >= rows) with all singular values brought near 1 (Newton-Schulz)."""
    matrices = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        squares = matrices @ matrices.mT
        matrices = 3.4445 * matrices + (-4.775 * squares + 2.0315 * (squares @ squares)) @ matrices
    return matrices
