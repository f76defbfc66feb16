"""ELAN, the block of the YOLOv7 family, and E-ELAN.

Source: YOLOv7, arXiv 2207.02696, section 3.1 and figure 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from edgeyolo.nn.conv import ConvBnAct


@dataclass(frozen=True)
class ElanShape:
    """What an ELAN looks like inside.

    Attributes:
        branch_chs: channels of the two 1x1 convolutions that both read the input.
        chain_chs: channels of each 3x3 convolution of the chain on the second branch.
        depth: number of 3x3 convolutions.
        step: every `step`-th output of the chain is concatenated, counted back from the last; divides `depth`.
    """

    branch_chs: int
    chain_chs: int
    depth: int
    step: int = 1


class Elan(nn.Module):
    """Two 1x1 branches, a chain of 3x3 convolutions on one of them, all joined by a 1x1 convolution.

    The concatenation is latest first: chain outputs from the last back, then the chained branch, then the other.
    """

    def __init__(self, in_chs: int, out_chs: int, shape: ElanShape, *, activation: str | None = "silu") -> None:
        super().__init__()
        self.step = shape.step
        self.skip = ConvBnAct(in_chs, shape.branch_chs, activation=activation)
        self.entry = ConvBnAct(in_chs, shape.branch_chs, activation=activation)
        widths = [shape.branch_chs] + [shape.chain_chs] * shape.depth
        self.chain = nn.ModuleList(ConvBnAct(a, b, 3, activation=activation) for a, b in pairwise(widths))
        joined_chs = 2 * shape.branch_chs + shape.chain_chs * (shape.depth // shape.step)
        self.join = ConvBnAct(joined_chs, out_chs, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H, W)."""
        kept = [self.skip(x), self.entry(x)]
        out = kept[-1]
        for position, conv in enumerate(self.chain, start=1):
            out = conv(out)
            if position % self.step == 0:
                kept.append(out)
        joined: Tensor = self.join(torch.cat(kept[::-1], dim=1))
        return joined


class DoubleElan(nn.Module):
    """E-ELAN as YOLOv7-E6E builds it: two ELANs of one shape side by side on one input, summed.

    Differs: the paper draws it as group convolution with shuffled and merged cardinality, which this equals.
    """

    def __init__(self, in_chs: int, out_chs: int, shape: ElanShape, *, activation: str | None = "silu") -> None:
        super().__init__()
        self.first = Elan(in_chs, out_chs, shape, activation=activation)
        self.second = Elan(in_chs, out_chs, shape, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H, W)."""
        out: Tensor = self.second(x) + self.first(x)
        return out
