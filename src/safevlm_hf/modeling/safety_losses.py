"""The loss of the safety head."""

import torch
from torch.nn import functional as F

from .configuration_safety import SafetyConfig
from .safety_modules import Windows
from .safety_outputs import SafetyImageOutput


NUM_WORST = 16  # windows of a clean image that training looks at: in a long text nearly all have nothing left to learn


def head_loss(
    encoded: SafetyImageOutput,
    levels: torch.LongTensor | None,
    categories: torch.LongTensor | None,
    config: SafetyConfig,
) -> torch.Tensor:
    """
    Return CE(level) + CE(category), each the mean over its labelled images; 0 with gradients if none is labelled.

    A risky image is held to its label at its strictest window alone: nobody knows which words make it risky. Of a
    clean one every window is clean, so half of its loss is the mean over its worst ones.

    Args:
        encoded: images with their verdicts.
        levels, categories: labels (images,); -100 ignores an image, and `None` all of them.
        config: of the safety modules.

    Raises:
        `ValueError`: for other numbers of labels than of images.
    """
    loss = encoded.safety_level_logits.new_zeros(())
    columns = (
        (encoded.safety_level_logits, levels, 0),
        (encoded.safety_category_logits, categories, config.safe_category),
    )
    for column, (logits, target, safe) in enumerate(columns):
        target = logits.new_full((len(logits),), -100, dtype=torch.long) if target is None else target
        if len(target) != len(logits):
            raise ValueError(
                f"Expected one safety label per image (-100 ignores an image), got {len(target)} labels for "
                f"{len(logits)} images."
            )
        target = target.to(logits.device)
        losses = F.cross_entropy(less_safe(logits, safe, config), target, ignore_index=-100, reduction="none")
        losses = torch.where(target == safe, (losses + encoded.safety_clean_losses[:, column]) / 2, losses)
        loss = loss + losses.sum() / (target != -100).sum().clamp(min=1)
    return loss


def clean_losses(windows: Windows, config: SafetyConfig) -> torch.Tensor:
    """Return CE(level) and CE(category) of each image against "safe", means over its `NUM_WORST` worst windows,
    (images, 2)."""
    columns = ((windows.level_logits, 0), (windows.category_logits, config.safe_category))
    losses = torch.stack(
        [-less_safe(logits, safe, config).log_softmax(dim=-1)[..., safe] for logits, safe in columns], dim=-1
    )
    losses = torch.where(windows.is_window[..., None], losses, 0.0)
    num_worst = min(NUM_WORST, losses.shape[1])
    counts = windows.is_window.sum(dim=1, keepdim=True).clamp(max=num_worst)
    return losses.topk(num_worst, dim=1).values.sum(dim=1) / counts


def less_safe(logits: torch.Tensor, safe: int, config: SafetyConfig) -> torch.Tensor:
    """Return the logits (..., classes) as the head's loss sees them, those of class `safe` smaller by `safe_margin`.

    It corrects a classifier for training data that hold more risky samples than its use does (King and Zeng, 2001;
    logit adjustment, arXiv 2007.07314).
    """
    margin = logits.new_zeros(logits.shape[-1])
    margin[safe] = config.safe_margin
    return logits - margin
