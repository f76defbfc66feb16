"""The binary cross-entropy of classes, and its targets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def smoothed_one_hot(labels: Tensor, num_classes: int, *, smoothing: float = 0.0) -> Tensor:
    """Targets (P, K) float32 of labels (P,) int64: 1 - smoothing / 2 for the class, smoothing / 2 for every other.

    Source: Bag of Freebies, arXiv 1902.04103, equation 3, for two outcomes per class.
    """
    low, high = smoothing / 2, 1 - smoothing / 2
    targets = torch.full((labels.shape[0], num_classes), low, device=labels.device)
    return targets.scatter_(1, labels[:, None], high)


def quality_cross_entropy(logits: Sequence[Tensor], positive_logits: Tensor, scores: Tensor) -> Tensor:
    """Sum over all elements of the cross-entropy of `sigmoid(logits)` against the asked score q, 0-1.

    Args:
        logits: tensors of any shape, float32.
        positive_logits: (P,) those elements of `logits` that a score is asked of, each once.
        scores: (P,) their q; it is 0 for all other elements.
    """
    return sum((F.softplus(part).sum() for part in logits), -(scores * positive_logits).sum())
