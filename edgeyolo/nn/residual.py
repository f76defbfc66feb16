"""Residual blocks: convolutions whose output is added to their input before the last activation.

Source: Deep Residual Learning, arXiv 1512.03385, figure 5.
"""

from __future__ import annotations

from torch import Tensor, nn

from edgeyolo.nn.activation import make_activation
from edgeyolo.nn.conv import ConvBnAct


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, as wide as the input."""

    def __init__(self, chs: int, *, activation: str = "relu") -> None:
        super().__init__()
        self.entry = ConvBnAct(chs, chs, 3, activation=activation)
        self.exit = ConvBnAct(chs, chs, 3, activation=None)
        self.act = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        out: Tensor = self.act(self.exit(self.entry(x)) + x)
        return out


class NarrowBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the middle one of `chs` channels and the last of four times as many.

    Where the input has another number of channels it goes through a 1x1 convolution before it is added.
    """

    widening = 4

    def __init__(self, in_chs: int, chs: int, *, activation: str = "relu") -> None:
        super().__init__()
        out_chs = self.widening * chs
        self.entry = ConvBnAct(in_chs, chs, activation=activation)
        self.middle = ConvBnAct(chs, chs, 3, activation=activation)
        self.exit = ConvBnAct(chs, out_chs, activation=None)
        self.skip = nn.Identity() if in_chs == out_chs else ConvBnAct(in_chs, out_chs, activation=None)
        self.act = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chs, H, W) -> (B, 4 x chs, H, W)."""
        out: Tensor = self.act(self.exit(self.middle(self.entry(x))) + self.skip(x))
        return out
