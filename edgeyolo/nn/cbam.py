"""The convolutional block attention module: a gate per channel, then a gate per position.

Source: CBAM, arXiv 1807.06521, section 3; the second half alone is the SAM that YOLOv4 names, arXiv 2004.10934.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeyolo.nn.c3 import C3


class ChannelAttention(nn.Module):
    """`x * sigmoid(mlp(mean(x)) + mlp(max(x)))`, mean and maximum over the picture; equation 2.

    Args:
        reduction: how much narrower the hidden layer is.
    """

    def __init__(self, chs: int, *, reduction: int = 16) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(chs, max(1, chs // reduction), 1, bias=False)
        self.act = nn.ReLU()
        self.excite = nn.Conv2d(max(1, chs // reduction), chs, 1, bias=False)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        pooled = torch.cat((x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)), dim=2)  # (B, C, 2, 1)
        mixed = self.excite(self.act(self.squeeze(pooled))).mean((2, 3), keepdim=True)  # half of the sum of both
        out: Tensor = x * self.gate(2 * mixed)
        return out


class SpatialAttention(nn.Module):
    """`x * sigmoid(conv([mean(x), max(x)]))`, mean and maximum over the channels; equation 3."""

    def __init__(self, *, kernel_size: int = 7) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        summary = torch.cat((x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)), dim=1)
        out: Tensor = x * self.gate(self.conv(summary))
        return out


class CbamC3(C3):
    """A `C3` whose result goes through both gates."""

    def __init__(
        self, in_chs: int, out_chs: int, count: int, *, shortcut: bool, activation: str | None = "silu"
    ) -> None:
        super().__init__(in_chs, out_chs, count, shortcut=shortcut, activation=activation)
        self.channels = ChannelAttention(out_chs)
        self.positions = SpatialAttention()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H, W)."""
        out: Tensor = self.positions(self.channels(super().forward(x)))
        return out
