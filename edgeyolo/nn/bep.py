"""Blocks of YOLOv6: rows of re-parameterised convolutions, and a cross-stage-partial stage of them.

Source: YOLOv6, arXiv 2209.02976, section 2.1 (RepBlock, CSPStackRep), and YOLOv6 v3.0, arXiv 2301.05586, section 2.1
(bi-directional concatenation, SimCSPSPPF).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from edgeyolo.nn.conv import ConvBnAct
from edgeyolo.nn.repvgg import RepVggBlock
from edgeyolo.nn.spp import PoolPyramid

MakeConv = Callable[[int, int, int], nn.Module]  # channels in, channels out, stride -> a 3x3 convolution


def rep_conv(activation: str) -> MakeConv:
    """RepVGG convolutions, with the identity branch where shapes allow one."""

    def make(in_chs: int, out_chs: int, stride: int) -> nn.Module:
        identity = in_chs == out_chs and stride == 1
        return RepVggBlock(in_chs, out_chs, stride, activation=activation, identity=identity)

    return make


def plain_conv(activation: str) -> MakeConv:
    """Plain convolutions with batch norm, for the sizes that do not re-parameterise."""
    return lambda in_chs, out_chs, stride: ConvBnAct(in_chs, out_chs, 3, stride, activation=activation)


class RepRow(nn.Sequential):
    """Convolutions in a row; the first changes the number of channels."""

    def __init__(self, in_chs: int, out_chs: int, count: int, conv: MakeConv) -> None:
        super().__init__(conv(in_chs, out_chs, 1), *(conv(out_chs, out_chs, 1) for _ in range(count - 1)))


class WeightedPair(nn.Module):
    """Two convolutions, and the input times a learned factor beside them."""

    def __init__(self, chs: int, conv: MakeConv) -> None:
        super().__init__()
        self.first = conv(chs, chs, 1)
        self.second = conv(chs, chs, 1)
        self.alpha = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        out: Tensor = self.second(self.first(x)) + self.alpha * x
        return out


class CspRepStage(nn.Module):
    """A share of the channels through weighted pairs, as many past them, joined by a 1x1 convolution.

    Args:
        count: convolutions asked for; half as many pairs, at least one.
        share: of `out_chs` that a branch has.
    """

    def __init__(self, in_chs: int, out_chs: int, count: int, conv: MakeConv, *, share: float, activation: str) -> None:
        super().__init__()
        chs = int(out_chs * share)
        self.entry = ConvBnAct(in_chs, chs, activation=activation)
        self.skip = ConvBnAct(in_chs, chs, activation=activation)
        self.blocks = nn.Sequential(*(WeightedPair(chs, conv) for _ in range(max(1, count // 2))))
        self.join = ConvBnAct(2 * chs, out_chs, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H, W)."""
        out: Tensor = self.join(torch.cat((self.blocks(self.entry(x)), self.skip(x)), dim=1))
        return out


class CspSppf(nn.Module):
    """SimCSPSPPF: pools between convolutions on one branch, a 1x1 convolution on the other."""

    def __init__(self, in_chs: int, out_chs: int, *, activation: str) -> None:
        super().__init__()
        chs = out_chs // 2
        self.before = nn.Sequential(
            ConvBnAct(in_chs, chs, activation=activation),
            ConvBnAct(chs, chs, 3, activation=activation),
            ConvBnAct(chs, chs, activation=activation),
        )
        self.skip = ConvBnAct(in_chs, chs, activation=activation)
        self.pyramid = PoolPyramid()
        self.after = nn.Sequential(
            ConvBnAct(4 * chs, chs, activation=activation), ConvBnAct(chs, chs, 3, activation=activation)
        )
        self.join = ConvBnAct(2 * chs, out_chs, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H, W)."""
        deep = self.after(torch.cat(self.pyramid(self.before(x)), dim=1))
        out: Tensor = self.join(torch.cat((self.skip(x), deep), dim=1))
        return out


class BiFusion(nn.Module):
    """A coarse map, the feature of its next finer level, and the one of the level below that, joined.

    Args:
        chs: of the coarse map, and of the result.
        feature_chs: of the level that the result is of.
        finer_chs: of the level below.
    """

    def __init__(self, chs: int, feature_chs: int, finer_chs: int, *, activation: str) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(chs, chs, 2, 2)
        self.lateral = ConvBnAct(feature_chs, chs, activation=activation)
        self.finer = nn.Sequential(
            ConvBnAct(finer_chs, chs, activation=activation), ConvBnAct(chs, chs, 3, 2, activation=activation)
        )
        self.join = ConvBnAct(3 * chs, chs, activation=activation)

    def forward(self, coarse: Tensor, feature: Tensor, finer: Tensor) -> Tensor:
        """(B, C, H/2, W/2), (B, ., H, W), (B, ., 2H, 2W) -> (B, C, H, W)."""
        out: Tensor = self.join(torch.cat((self.up(coarse), self.lateral(feature), self.finer(finer)), dim=1))
        return out
