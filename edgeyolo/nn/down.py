"""Down-sampling by two, part by maximum pooling and part by strided convolution.

Source: YOLOv7, arXiv 2207.02696, section 3 (transition blocks).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeyolo.nn.conv import ConvBnAct


class PoolConvDown(nn.Module):
    """MP: half of the channels pooled then 1x1, half 1x1 then 3x3 of stride 2."""

    def __init__(self, in_chs: int, out_chs: int, *, activation: str | None = "silu") -> None:
        super().__init__()
        half_chs = out_chs // 2
        self.pool = nn.MaxPool2d(2, stride=2)
        self.pooled = ConvBnAct(in_chs, half_chs, activation=activation)
        self.entry = ConvBnAct(in_chs, half_chs, activation=activation)
        self.strided = ConvBnAct(half_chs, half_chs, 3, 2, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H/2, W/2)."""
        return torch.cat([self.strided(self.entry(x)), self.pooled(self.pool(x))], dim=1)


class WideDown(nn.Module):
    """DownC: as `PoolConvDown`, but the 1x1 before the strided convolution keeps the channels of the input."""

    def __init__(self, in_chs: int, out_chs: int, *, activation: str | None = "silu") -> None:
        super().__init__()
        half_chs = out_chs // 2
        self.entry = ConvBnAct(in_chs, in_chs, activation=activation)
        self.strided = ConvBnAct(in_chs, half_chs, 3, 2, activation=activation)
        self.pool = nn.MaxPool2d(2, stride=2)
        self.pooled = ConvBnAct(in_chs, half_chs, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H/2, W/2)."""
        return torch.cat([self.strided(self.entry(x)), self.pooled(self.pool(x))], dim=1)
