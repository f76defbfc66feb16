"""Blocks of DAMO-YOLO: what its searched backbones are rows of, and the stage of its neck.

Source: DAMO-YOLO, arXiv 2211.15444, section 2.1 (MAE-NAS backbones) and 2.2 (Efficient-RepGFPN, figure 3).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from edgeyolo.nn.activation import make_activation
from edgeyolo.nn.conv import ConvBnAct
from edgeyolo.nn.repvgg import RepVggBlock


class InvertedResidual(nn.Module):
    """1x1 to `hidden_chs`, 5x5 of each channel alone, 1x1 without activation; the input is added where shapes allow it.

    Source: MobileNetV2, arXiv 1801.04381, section 3.
    """

    def __init__(self, in_chs: int, out_chs: int, hidden_chs: int, stride: int = 1, *, activation: str) -> None:
        super().__init__()
        self.shortcut = stride == 1 and in_chs == out_chs
        self.entry = ConvBnAct(in_chs, hidden_chs, activation=activation)
        self.depth = ConvBnAct(hidden_chs, hidden_chs, 5, stride, groups=hidden_chs, activation=activation)
        self.exit = ConvBnAct(hidden_chs, out_chs, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H/s, W/s)."""
        out: Tensor = self.exit(self.depth(self.entry(x)))
        return x + out if self.shortcut else out


class RepResidual(nn.Module):
    """A convolution to `hidden_chs`, a re-parameterised 3x3; without stride the input is added, then the activation.

    Args:
        entry_size: side of the first kernel.
    """

    def __init__(
        self, in_chs: int, out_chs: int, hidden_chs: int, stride: int = 1, *, entry_size: int, activation: str
    ) -> None:
        super().__init__()
        if stride == 1 and in_chs != out_chs:
            raise ValueError(f"no shortcut from {in_chs} to {out_chs} channels")
        self.shortcut = stride == 1
        self.entry = ConvBnAct(in_chs, hidden_chs, entry_size, activation=activation)
        self.exit = RepVggBlock(hidden_chs, out_chs, stride, activation=None)
        self.act = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H/s, W/s)."""
        out = self.exit(self.entry(x))
        activated: Tensor = self.act(x + out if self.shortcut else out)
        return activated


class ReverseBlock(nn.Module):
    """A re-parameterised 3x3 to `hidden_chs` and a 3x3 back; the input is added after the activation."""

    def __init__(self, chs: int, hidden_chs: int, *, activation: str) -> None:
        super().__init__()
        self.entry = RepVggBlock(chs, hidden_chs, activation=activation)
        self.exit = ConvBnAct(hidden_chs, chs, 3, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        out: Tensor = self.exit(self.entry(x))
        return x + out


class FusionStage(nn.Module):
    """Half of the channels through blocks, what each of them gives beside the other half, mixed by a 1x1 convolution.

    Args:
        count: of blocks, >= 1.
        make_block: channels -> a block that keeps them.
    """

    def __init__(
        self, in_chs: int, out_chs: int, count: int, make_block: Callable[[int], nn.Module], *, activation: str
    ) -> None:
        super().__init__()
        skip_chs = out_chs // 2
        chs = out_chs - skip_chs
        self.skip = ConvBnAct(in_chs, skip_chs, activation=activation)
        self.entry = ConvBnAct(in_chs, chs, activation=activation)
        self.blocks = nn.ModuleList(make_block(chs) for _ in range(count))
        self.join = ConvBnAct(skip_chs + count * chs, out_chs, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H, W)."""
        parts, deep = [self.skip(x)], self.entry(x)
        for block in self.blocks:
            deep = block(deep)
            parts.append(deep)
        out: Tensor = self.join(torch.cat(parts, dim=1))
        return out
