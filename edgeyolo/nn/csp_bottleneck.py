"""BottleneckCSP, the stage that C3 grew out of: batch norm and activation come after both halves are joined.

Source: CSPNet, arXiv 1911.11929, in the form that YOLOv5 has had from its first release.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeyolo.nn.activation import make_activation
from edgeyolo.nn.bottleneck import Bottleneck
from edgeyolo.nn.conv import ConvAct, ConvBnAct, conv_like, fold_batch_norm
from edgeyolo.nn.fold import fold_in_place


class CspBottleneck(nn.Module):
    """Half of the channels through bottlenecks and a bare convolution, half through a bare convolution alone.

    Args:
        count: bottlenecks, >= 1.
        shortcut: whether a bottleneck adds its input.
    """

    def __init__(
        self, in_chs: int, out_chs: int, count: int, *, shortcut: bool, activation: str | None = "silu"
    ) -> None:
        super().__init__()
        half = out_chs // 2
        self.activation = activation
        self.entry = ConvBnAct(in_chs, half, activation=activation)
        self.blocks = nn.Sequential(
            *(Bottleneck(half, entry_size=1, shortcut=shortcut, activation=activation) for _ in range(count))
        )
        self.deep = nn.Conv2d(half, half, 1, bias=False)
        self.skip = nn.Conv2d(in_chs, half, 1, bias=False)
        self.bn = nn.BatchNorm2d(2 * half)
        self.act = make_activation(activation)
        self.join = ConvBnAct(2 * half, out_chs, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H, W)."""
        halves = torch.cat((self.deep(self.blocks(self.entry(x))), self.skip(x)), dim=1)
        out: Tensor = self.join(self.act(self.bn(halves)))
        return out

    def fold(self) -> FoldedCspBottleneck:
        """The same function in eval mode: each half of the batch norm inside its convolution."""
        deep, skip = (
            ConvAct(conv_like(conv, *fold_batch_norm(conv, self._norm_of(part))), self.activation)
            for conv, part in ((self.deep, 0), (self.skip, 1))
        )
        return FoldedCspBottleneck(self.entry.fold(), fold_in_place(self.blocks), deep, skip, self.join.fold())

    def _norm_of(self, part: int) -> nn.BatchNorm2d:
        """The half of the batch norm that is of one convolution."""
        half = self.bn.num_features // 2
        norm = nn.BatchNorm2d(half, eps=self.bn.eps, device=self.bn.weight.device)
        chosen = slice(part * half, (part + 1) * half)
        norm.weight, norm.bias = nn.Parameter(self.bn.weight[chosen]), nn.Parameter(self.bn.bias[chosen])
        assert self.bn.running_mean is not None and self.bn.running_var is not None
        norm.running_mean, norm.running_var = self.bn.running_mean[chosen], self.bn.running_var[chosen]
        return norm


class FoldedCspBottleneck(nn.Module):
    """The deploy form of `CspBottleneck`."""

    def __init__(self, entry: ConvAct, blocks: nn.Sequential, deep: ConvAct, skip: ConvAct, join: ConvAct) -> None:
        super().__init__()
        self.entry = entry
        self.blocks = blocks
        self.deep = deep
        self.skip = skip
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H, W)."""
        out: Tensor = self.join(torch.cat((self.deep(self.blocks(self.entry(x))), self.skip(x)), dim=1))
        return out
