"""Cross-stage partial stages of re-parameterised residual blocks (PP-YOLOE's backbone and neck)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeyolo.nn.conv import ConvBnAct
from edgeyolo.nn.ese import EffectiveSe
from edgeyolo.nn.repvgg import RepVggBlock
from edgeyolo.nn.spp import PoolPyramid


class RepResBlock(nn.Module):
    """A 3x3 convolution, then a RepVGG block; with `shortcut` the input is added.

    Source: PP-YOLOE, arXiv 2203.16250, section 2.2 (RepResBlock).
    """

    def __init__(self, chs: int, *, activation: str, shortcut: bool, alpha: bool = False) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.conv = ConvBnAct(chs, chs, 3, activation=activation)
        self.rep = RepVggBlock(chs, chs, activation=activation, alpha=alpha)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        out: Tensor = self.rep(self.conv(x))
        return x + out if self.shortcut else out


class PooledConv(nn.Module):
    """The input beside its 5, 9 and 13 wide maximum pools, mixed by a 1x1 convolution.

    Source: SPP as in PP-YOLOv2, arXiv 2104.10419.
    """

    def __init__(self, chs: int, *, activation: str) -> None:
        super().__init__()
        self.pyramid = PoolPyramid()
        self.conv = ConvBnAct(4 * chs, chs, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        out: Tensor = self.conv(torch.cat(self.pyramid(x), dim=1))
        return out


class CspResStage(nn.Module):
    """Backbone stage: halve the picture, run half of the channels through blocks, join, weigh the channels, mix.

    Args:
        count: residual blocks, >= 1.
        alpha: whether their 1x1 branches have a learned factor (PP-YOLOE+).

    Source: PP-YOLOE, arXiv 2203.16250, figure 3 (CSPRepResStage).
    """

    def __init__(self, in_chs: int, out_chs: int, count: int, *, activation: str, alpha: bool) -> None:
        super().__init__()
        middle = (in_chs + out_chs) // 2
        half = middle // 2
        self.down = ConvBnAct(in_chs, middle, 3, 2, activation=activation)
        self.passed = ConvBnAct(middle, half, activation=activation)
        self.entry = ConvBnAct(middle, half, activation=activation)
        self.blocks = nn.Sequential(
            *(RepResBlock(half, activation=activation, shortcut=True, alpha=alpha) for _ in range(count))
        )
        self.attention = EffectiveSe(2 * half)
        self.exit = ConvBnAct(2 * half, out_chs, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H/2, W/2)."""
        x = self.down(x)
        joined = torch.cat((self.passed(x), self.blocks(self.entry(x))), dim=1)
        out: Tensor = self.exit(self.attention(joined))
        return out


class CspPanStage(nn.Module):
    """Neck stage: half of the channels through blocks without shortcut, joined with the other half, mixed.

    Args:
        count: blocks, >= 1.
        pyramid: puts a `PooledConv` after the middle block.

    Source: PP-YOLOE, arXiv 2203.16250, section 2.2 (neck).
    """

    def __init__(self, in_chs: int, out_chs: int, count: int, *, activation: str, pyramid: bool = False) -> None:
        super().__init__()
        half = out_chs // 2
        self.passed = ConvBnAct(in_chs, half, activation=activation)
        self.entry = ConvBnAct(in_chs, half, activation=activation)
        blocks: list[nn.Module] = [RepResBlock(half, activation=activation, shortcut=False) for _ in range(count)]
        if pyramid:
            blocks.insert((count + 1) // 2, PooledConv(half, activation=activation))
        self.blocks = nn.Sequential(*blocks)
        self.exit = ConvBnAct(2 * half, out_chs, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H, W)."""
        out: Tensor = self.exit(torch.cat((self.passed(x), self.blocks(self.entry(x))), dim=1))
        return out
