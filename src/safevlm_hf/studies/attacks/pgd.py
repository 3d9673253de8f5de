"""Attacks on pictures by the sign of the gradient (PGD, arXiv 1706.06083), whatever they are to bring about."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


Losses = Callable[[list[torch.Tensor], list[int]], torch.Tensor]
"""A function of pictures and their numbers among those attacked, to a loss for each, (pictures,), with gradients."""
UNBOUNDED = 1.0
"""The epsilon under which only black and white bound a pixel."""
STEP_IN_8_BITS = 1 / 255
"""A smaller step would be lost when a picture is saved."""


@dataclass(frozen=True)
class Budget:
    """Bounds of an attack.

    Attributes:
        epsilon: the largest change of a pixel's value, which is in [0, 1]; over 0, and at most `UNBOUNDED`.
        steps: of the gradient, at least 1.
        restarts: attacks on each picture, at least 1, the first from the picture itself, the others from noise.

    Raises:
        ValueError: a value is not as described.
    """

    epsilon: float
    steps: int = 100
    restarts: int = 1

    def __post_init__(self):
        if not 0 < self.epsilon <= UNBOUNDED:
            raise ValueError(f"epsilon is {self.epsilon:g}, expected more than 0 and at most 1, the range of a pixel")
        for name in ("steps", "restarts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")

    @property
    def step_size(self) -> float:
        """Let all steps together go two and a half times across the allowed change."""
        return max(STEP_IN_8_BITS, 2.5 * self.epsilon / self.steps)


@dataclass(frozen=True)
class Attacked:
    """Pictures that an attack found.

    Attributes:
        pictures: of each picture the version with the lowest loss of all steps and restarts.
        losses: (pictures,), of these versions.
        curves: per restart, the mean loss over the pictures at each step. A picture that was left as it is keeps its
            last loss.
    """

    pictures: list[torch.Tensor]
    losses: torch.Tensor
    curves: list[list[float]]


def attack(
    losses: Losses,
    pictures: Sequence[torch.Tensor],
    budget: Budget,
    seed: int = 0,
    enough: float = -math.inf,
    advance: Callable[[int], object] = lambda steps: None,
) -> Attacked:
    """Change each picture within the budget so that its loss falls.

    Args:
        losses: the function to lower. One picture's must not depend on the others.
        pictures: (channels, height, width) each, in [0, 1]; their sizes may differ.
        seed: of the noise that restarts begin with.
        enough: a picture whose loss is at most this is left as it is.
        advance: told how many of the `num_steps` steps are done.

    Raises:
        ValueError: no gradient arrives at a picture.
    """
    generator = torch.Generator().manual_seed(seed)
    best, lowest, curves = list(pictures), torch.full((len(pictures),), math.inf), []
    for restart in range(budget.restarts):
        # The first attempt starts from the pictures themselves, and each further one from other noise.
        starts = [add_noise(one, budget.epsilon, generator) for one in pictures] if restart else pictures
        current, latest, curve = list(starts), lowest.clone(), []
        for step in range(budget.steps + 1):
            # A picture that has reached the goal in any attempt is left as it is.
            rows = [row for row, loss in enumerate(lowest.tolist()) if loss > enough]
            if not rows:
                advance(len(pictures) * (budget.steps + 1 - step))
                break
            found, gradients = _gradients(losses, [current[row] for row in rows], rows)
            for row, loss, gradient in zip(rows, found, gradients):
                latest[row] = loss
                if loss < lowest[row]:
                    best[row], lowest[row] = current[row], loss
                moved = current[row] - budget.step_size * gradient.sign()
                current[row] = clamp_to_ball(moved, pictures[row], budget.epsilon)
            curve.append(latest.mean().item())
            advance(len(pictures))
        curves.append(curve)
    return Attacked(best, lowest, curves)


def num_steps(num_pictures: int, budget: Budget) -> int:
    """Return the number of steps that `advance` is told of in all. The last step only looks at the loss."""
    return num_pictures * budget.restarts * (budget.steps + 1)


def add_noise(picture: torch.Tensor, epsilon: float, generator: torch.Generator) -> torch.Tensor:
    """Add uniform noise of up to epsilon to a picture: the baseline of every attack."""
    noise = 2 * torch.rand(picture.shape, generator=generator) - 1
    return clamp_to_ball(picture + epsilon * noise.to(picture), picture, epsilon)


def clamp_to_ball(picture: torch.Tensor, origin: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Return the nearest picture in [0, 1] whose pixels differ from the original's by at most epsilon."""
    return picture.clamp(origin - epsilon, origin + epsilon).clamp(0, 1)


@torch.enable_grad()
def _gradients(
    losses: Losses, pictures: list[torch.Tensor], rows: list[int]
) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
    leaves = [picture.detach().requires_grad_() for picture in pictures]
    found = losses(leaves, rows)
    gradients = torch.autograd.grad(found.sum(), leaves, allow_unused=True) if found.requires_grad else ()
    if len(gradients) < len(leaves) or any(gradient is None for gradient in gradients):
        raise ValueError("no gradient arrives at the pixels: the loss does not depend on them, or not differentiably")
    return found.detach().cpu(), gradients
