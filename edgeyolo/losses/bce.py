"""Binary cross-entropy for classes: smoothed targets, and the focal form."""

from __future__ import annotations

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


def focal_bce(logits: Tensor, targets: Tensor, *, gamma: float = 1.5, alpha: float = 0.25) -> Tensor:
    """Focal binary cross-entropy, element by element; targets in 0-1, of the shape of `logits`.

    Source: Focal Loss, arXiv 1708.02002, equation 5; between 0 and 1 the weights are interpolated.
    """
    probability = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    hit = targets * probability + (1 - targets) * (1 - probability)
    weight = targets * alpha + (1 - targets) * (1 - alpha)
    return weight * (1 - hit).pow(gamma) * entropy
