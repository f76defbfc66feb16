"""An output convolution times one learned number.

Source: FCOS, arXiv 1904.01355, section 3.2: each level of a head says distances in a unit of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeyolo.nn.conv import conv_like


class ScaledConv(nn.Module):
    """`scale * conv(x)`; the scale is 1 at first."""

    def __init__(self, in_chs: int, out_chs: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chs, out_chs, kernel_size, padding=kernel_size // 2)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H, W)."""
        out: Tensor = self.conv(x) * self.scale
        return out

    def fold(self) -> nn.Conv2d:
        """The same function as one convolution."""
        assert self.conv.bias is not None
        weight, bias, scale = (x.detach().double() for x in (self.conv.weight, self.conv.bias, self.scale))
        return conv_like(self.conv, weight * scale, bias * scale)
