"""The stages of YOLOv8: a bundle of bottlenecks of which every one hands its output on to the end.

Source: the published configurations and counts of YOLOv8; ELAN, arXiv 2211.04800, for gathering what each block gives.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeyolo.nn.bottleneck import Bottleneck
from edgeyolo.nn.conv import ConvAct, ConvBnAct, conv_like, fold_batch_norm
from edgeyolo.nn.fold import fold_in_place


class C2f(nn.Module):
    """One convolution whose first half is passed on and whose second half runs through bottlenecks; all are joined.

    Args:
        count: bottlenecks, >= 1.
    """

    def __init__(
        self, in_chs: int, out_chs: int, count: int, *, shortcut: bool, activation: str | None = "silu"
    ) -> None:
        super().__init__()
        self.half_chs = out_chs // 2
        self.entry = ConvBnAct(in_chs, 2 * self.half_chs, activation=activation)
        self.blocks = nn.ModuleList(
            Bottleneck(self.half_chs, entry_size=3, shortcut=shortcut, activation=activation) for _ in range(count)
        )
        self.join = ConvBnAct((2 + count) * self.half_chs, out_chs, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H, W)."""
        entry = self.entry(x)
        return _gather(entry[:, : self.half_chs], entry[:, self.half_chs :], self.blocks, self.join)

    def fold(self) -> FoldedC2f:
        """The same function in eval mode, the first convolution cut into its halves: engines need not split a map."""
        weight, bias = fold_batch_norm(self.entry.conv, self.entry.bn)
        skip, entry = (
            ConvAct(conv_like(self.entry.conv, weight[part], bias[part]), self.entry.activation)
            for part in (slice(None, self.half_chs), slice(self.half_chs, None))
        )
        return FoldedC2f(skip, entry, fold_in_place(self.blocks), self.join.fold())


class FoldedC2f(nn.Module):
    """The deploy form of `C2f`."""

    def __init__(self, skip: ConvAct, entry: ConvAct, blocks: nn.ModuleList, join: ConvAct) -> None:
        super().__init__()
        self.skip = skip
        self.entry = entry
        self.blocks = blocks
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H, W)."""
        return _gather(self.skip(x), self.entry(x), self.blocks, self.join)


def _gather(passed: Tensor, x: Tensor, blocks: nn.ModuleList, join: nn.Module) -> Tensor:
    maps = [passed, x]
    for block in blocks:
        x = block(x)
        maps.append(x)
    out: Tensor = join(torch.cat(maps, dim=1))
    return out
