"""Spatial pyramid pooling inside a cross-stage-partial block.

Stride-1 maximum pools of 5, 9 and 13 pixels are computed as a chain of three 5-pixel pools, which is the same function:
padding never wins a maximum, and the maximum over 5-windows of 5-windows is the maximum over one 9-window.
Source: SPP, arXiv 1406.4729; CSP, arXiv 1911.11929; the chain is that of SPPF in YOLOv5.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeyolo.nn.conv import ConvBnAct


class PoolPyramid(nn.Module):
    """The input and its stride-1 maximum pools of 5, 9 and 13 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.pool_5 = nn.MaxPool2d(5, stride=1, padding=2)
        self.pool_9 = nn.MaxPool2d(5, stride=1, padding=2)
        self.pool_13 = nn.MaxPool2d(5, stride=1, padding=2)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> four of (B, C, H, W): the input, pooled over 5, over 9, over 13."""
        over_5 = self.pool_5(x)
        over_9 = self.pool_9(over_5)
        return [x, over_5, over_9, self.pool_13(over_9)]


class SppCspc(nn.Module):
    """SPPCSPC of YOLOv7: convolutions before and after the pools on one branch, a plain 1x1 on the other."""

    def __init__(self, in_chs: int, out_chs: int, *, activation: str | None = "silu") -> None:
        super().__init__()
        self.entry = ConvBnAct(in_chs, out_chs, activation=activation)
        self.skip = ConvBnAct(in_chs, out_chs, activation=activation)
        self.before = nn.Sequential(
            ConvBnAct(out_chs, out_chs, 3, activation=activation),
            ConvBnAct(out_chs, out_chs, activation=activation),
        )
        self.pyramid = PoolPyramid()
        self.after = nn.Sequential(
            ConvBnAct(4 * out_chs, out_chs, activation=activation),
            ConvBnAct(out_chs, out_chs, 3, activation=activation),
        )
        self.join = ConvBnAct(2 * out_chs, out_chs, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H, W)."""
        pooled = self.pyramid(self.before(self.entry(x)))
        deep = self.after(torch.cat(pooled, dim=1))
        out: Tensor = self.join(torch.cat([deep, self.skip(x)], dim=1))
        return out


class TinySppCspc(nn.Module):
    """SPPCSPC of YOLOv7-tiny: no 3x3 convolutions, and the pools are concatenated widest first."""

    def __init__(self, in_chs: int, out_chs: int, *, activation: str | None = "leaky_relu") -> None:
        super().__init__()
        self.skip = ConvBnAct(in_chs, out_chs, activation=activation)
        self.entry = ConvBnAct(in_chs, out_chs, activation=activation)
        self.pyramid = PoolPyramid()
        self.after = ConvBnAct(4 * out_chs, out_chs, activation=activation)
        self.join = ConvBnAct(2 * out_chs, out_chs, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H, W)."""
        deep = self.after(torch.cat(self.pyramid(self.entry(x))[::-1], dim=1))
        out: Tensor = self.join(torch.cat([deep, self.skip(x)], dim=1))
        return out


class Sppf(nn.Module):
    """SPPF of YOLOv5 and YOLOv8: half of the channels, and their pools, mixed by a 1x1 convolution."""

    def __init__(self, in_chs: int, out_chs: int, *, activation: str | None = "silu") -> None:
        super().__init__()
        self.entry = ConvBnAct(in_chs, in_chs // 2, activation=activation)
        self.pyramid = PoolPyramid()
        self.join = ConvBnAct(4 * (in_chs // 2), out_chs, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H, W)."""
        out: Tensor = self.join(torch.cat(self.pyramid(self.entry(x)), dim=1))
        return out
