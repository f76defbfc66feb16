"""Two convolutions with a shortcut around them, and the depthwise pair that can stand for one."""

from __future__ import annotations

from torch import Tensor, nn

from edgeyolo.nn.conv import ConvBnAct


class DepthwiseConv(nn.Module):
    """A convolution of every channel alone, then a 1x1 convolution over all of them; each with batch norm.

    Source: MobileNets, arXiv 1704.04861, section 3.1.
    """

    def __init__(
        self, in_chs: int, out_chs: int, kernel_size: int = 3, stride: int = 1, *, activation: str | None = "silu"
    ) -> None:
        super().__init__()
        self.depth = ConvBnAct(in_chs, in_chs, kernel_size, stride, groups=in_chs, activation=activation)
        self.point = ConvBnAct(in_chs, out_chs, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H/s, W/s)."""
        out: Tensor = self.point(self.depth(x))
        return out


class Bottleneck(nn.Module):
    """Two convolutions in a row, as wide as the input; with `shortcut` the input is added.

    Args:
        entry_size: side of the first kernel; the second is 3 wide.
        depthwise: whether the second is a `DepthwiseConv`.
    """

    def __init__(
        self, chs: int, *, entry_size: int, shortcut: bool, activation: str | None = "silu", depthwise: bool = False
    ) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.entry = ConvBnAct(chs, chs, entry_size, activation=activation)
        self.exit = (DepthwiseConv if depthwise else ConvBnAct)(chs, chs, 3, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        out: Tensor = self.exit(self.entry(x))
        return x + out if self.shortcut else out
