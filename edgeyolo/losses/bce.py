"""Targets of the binary cross-entropy of classes."""

from __future__ import annotations

import torch
from torch import Tensor


def smoothed_one_hot(labels: Tensor, num_classes: int, *, smoothing: float = 0.0) -> Tensor:
    """Targets (P, K) float32 of labels (P,) int64: 1 - smoothing / 2 for the class, smoothing / 2 for every other.

    Source: Bag of Freebies, arXiv 1902.04103, equation 3, for two outcomes per class.
    """
    low, high = smoothing / 2, 1 - smoothing / 2
    targets = torch.full((labels.shape[0], num_classes), low, device=labels.device)
    return targets.scatter_(1, labels[:, None], high)
