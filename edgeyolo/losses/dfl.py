"""Distribution focal loss: the probability of a distance should lie on the two bins around it."""

from __future__ import annotations

from torch import Tensor


def distribution_focal_loss(logits: Tensor, distances: Tensor, *, below_last: float = 0.01) -> Tensor:
    """Cross entropy against the two bins next to each distance, weighed by nearness; mean over the sides.

    Args:
        logits: (P, 4, R) float32 of bins 0 ... R - 1.
        distances: (P, 4) float32 in bins; clipped to 0 ... R - 1 - `below_last`.

    Returns:
        (P,) float32, >= 0.

    Source: Generalized Focal Loss, arXiv 2006.04388, eq. 6; the hundredth below the last bin is that of the published
    code of PP-YOLOE; DAMO-YOLO's has a tenth.
    """
    last = logits.shape[-1] - 1
    distances = distances.clamp(0, last - below_last)
    lower = distances.long()  # (P, 4)
    upper_weight = distances - lower
    negative_log = -logits.log_softmax(dim=-1)
    at_lower = negative_log.gather(-1, lower[..., None]).squeeze(-1)
    at_upper = negative_log.gather(-1, lower[..., None] + 1).squeeze(-1)
    return (at_lower * (1 - upper_weight) + at_upper * upper_weight).mean(dim=-1)
