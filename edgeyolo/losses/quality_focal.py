"""Quality focal loss: class scores that say how good the box is, learnt where they are furthest from it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from edgeyolo.losses.varifocal import background_loss


def quality_focal_loss(
    logits: Sequence[Tensor], positive_logits: Tensor, scores: Tensor, *, beta: float = 2.0
) -> Tensor:
    """Sum over all elements of the cross entropy of `sigmoid(logits)` = p against the asked score q.

    An element is weighed by `|q - p|^beta`, through which the gradient goes too.

    Args:
        logits: tensors of any shape, float32.
        positive_logits: (P,) those elements of `logits` that a score is asked of, each once.
        scores: (P,) their q, 0-1; it is 0 for all other elements.

    Source: Generalized Focal Loss, arXiv 2006.04388, eq. 5.
    """
    positive = quality_focal_terms(positive_logits, scores, beta=beta).sum()
    counted_twice = background_loss(positive_logits, 1.0, beta)
    return sum((background_loss(part, 1.0, beta) for part in logits), positive - counted_twice)


def quality_focal_terms(logits: Tensor, scores: Tensor, *, beta: float = 2.0) -> Tensor:
    """As `quality_focal_loss`, element by element, for two tensors of one shape."""
    weight = (scores - logits.sigmoid()).abs().pow(beta)
    return weight * F.binary_cross_entropy_with_logits(logits, scores, reduction="none")
