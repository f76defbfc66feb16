"""DropBlock: dropout of whole squares of a feature map, whose cells say too much of one another to be dropped alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def drop_block(x: Tensor, probability: Tensor | float, size: int) -> Tensor:
    """Set squares of each channel to 0, and scale what is left so that the sum is kept: (B, C, H, W) -> the same.

    Args:
        probability: that a cell is dropped, where squares do not meet; in [0, 1).
        size: side of a square in cells; where a map is smaller, the map's.

    Source: arXiv 1810.12890, algorithm 1 and equation 1: each channel has a mask of its own, and a square lies inside.
    """
    height, width = x.shape[2:]
    high, wide = min(size, height), min(size, width)
    rows, columns = height - high + 1, width - wide + 1  # where the corner of a square may be
    share = probability * (height * width / (high * wide * rows * columns))
    corners = (torch.rand(*x.shape[:2], rows, columns, device=x.device) < share).float()
    around = F.pad(corners, (wide - 1, wide - 1, high - 1, high - 1))
    kept = 1 - F.max_pool2d(around, (high, wide), stride=1)  # (B, C, H, W)
    return x * (kept * (kept.numel() / kept.sum().clamp(min=1))).to(x.dtype)


class DropBlock(nn.Module):
    """`drop_block` while training; folded, nothing."""

    def __init__(self, probability: float = 0.1, size: int = 3) -> None:
        super().__init__()
        self.probability = probability
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        return drop_block(x, self.probability, self.size) if self.training else x

    def fold(self) -> nn.Identity:
        """What it is in eval mode."""
        return nn.Identity()
