"""Implicit knowledge: learned vectors added before and multiplied after an output convolution.

Source: YOLOR, arXiv 2105.04206; YOLOv7, arXiv 2207.02696, section 4.1, which folds them into the convolution.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeyolo.nn.conv import conv_like


class ImplicitConv(nn.Module):
    """`scale * conv(x + offset)`, with one learned offset per input and one learned scale per output channel."""

    def __init__(self, in_chs: int, out_chs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chs, out_chs, 1)
        self.offset = nn.Parameter(torch.randn(1, in_chs, 1, 1) * 0.02)
        self.scale = nn.Parameter(1.0 + torch.randn(1, out_chs, 1, 1) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H, W)."""
        out: Tensor = self.conv(x + self.offset) * self.scale
        return out

    def fold(self) -> nn.Conv2d:
        """The same function as one 1x1 convolution."""
        weight = self.conv.weight.detach().double()
        bias = self.conv.weight.new_zeros(weight.shape[0]) if self.conv.bias is None else self.conv.bias.detach()
        scale = self.scale.detach().double().flatten()
        lifted = bias.double() + weight[:, :, 0, 0] @ self.offset.detach().double().flatten()
        return conv_like(self.conv, weight * scale[:, None, None, None], lifted * scale)
