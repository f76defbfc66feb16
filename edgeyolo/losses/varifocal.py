"""Varifocal loss: class scores that say how good the box is, easy background turned down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_CHUNK_ELEMENTS = 1 << 18  # on a CPU, so that the temporaries of one chunk stay in its cache


def varifocal_loss(
    logits: Sequence[Tensor], positive_logits: Tensor, scores: Tensor, *, alpha: float = 0.75, gamma: float = 2.0
) -> Tensor:
    """Sum over all elements of the cross entropy of `sigmoid(logits)` = p against the asked score q.

    An element is weighed by q where q > 0, and by `alpha * p^gamma` elsewhere. Nearly all are background, so that those
    are done in one pass, and the few others by what they differ from it.

    Args:
        logits: tensors of any shape, float32.
        positive_logits: (P,) those elements of `logits` that a score is asked of, each once.
        scores: (P,) their q, 0-1; 0 is background.

    Source: VarifocalNet, arXiv 2008.13367, eq. 2.
    """
    asked = scores > 0
    positive_logits, scores = positive_logits[asked], scores[asked]
    positive = (scores * F.binary_cross_entropy_with_logits(positive_logits, scores, reduction="none")).sum()
    counted_twice = background_loss(positive_logits, alpha, gamma)
    return sum((background_loss(part, alpha, gamma) for part in logits), positive - counted_twice)


def background_loss(logits: Tensor, alpha: float, gamma: float) -> Tensor:
    """Sum of `-alpha * p^gamma * log(1 - p)` over a tensor of any shape; differentiable once."""
    total: Tensor = _BackgroundLoss.apply(logits, alpha, gamma)  # type: ignore[no-untyped-call]
    return total


class _BackgroundLoss(torch.autograd.Function):
    """Loss and gradient in one pass, some elements at a time."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, alpha: float, gamma: float) -> Tensor:
        """(...) -> ()."""
        gradient = torch.empty_like(logits)
        total = logits.new_zeros((), dtype=torch.float64)
        for x, out in zip(_chunks(logits), _chunks(gradient), strict=True):
            p, cross_entropy = x.sigmoid(), F.softplus(x)
            weight = p.pow(gamma).mul_(alpha)
            total += (weight * cross_entropy).sum()
            torch.mul(weight, cross_entropy.mul_((1 - p).mul_(gamma)).add_(p), out=out)
        ctx.save_for_backward(gradient)
        return total.to(logits.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor, None, None]:
        """() -> (...)."""
        (gradient,) = ctx.saved_tensors
        return gradient * above, None, None


def _chunks(x: Tensor) -> Sequence[Tensor]:
    """Views that cover a tensor; the tensor itself where it is small, not on a CPU, or not dense in memory."""
    if x.device.type != "cpu" or x.numel() <= _CHUNK_ELEMENTS:
        return (x,)
    if x.is_contiguous():
        return torch.split(x.view(-1), _CHUNK_ELEMENTS)
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return torch.split(x.permute(0, 2, 3, 1).view(-1), _CHUNK_ELEMENTS)
    return (x,)
