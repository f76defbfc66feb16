"""Varifocal loss: class scores that say how good the box is, easy background turned down."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def varifocal_loss(logits: Tensor, scores: Tensor, *, alpha: float = 0.75, gamma: float = 2.0) -> Tensor:
    """Sum over all elements of the cross entropy of `sigmoid(logits)` = p against the asked score q.

    An element is weighed by q where q > 0, and by `alpha * p^gamma` elsewhere.

    Args:
        logits: (...) float32.
        scores: (...) float32 q in 0-1, 0 for background.

    Source: VarifocalNet, arXiv 2008.13367, eq. 2.
    """
    weight = (logits.sigmoid() ** gamma * alpha).where(scores <= 0, scores)
    return (weight * F.binary_cross_entropy_with_logits(logits, scores, reduction="none")).sum()
