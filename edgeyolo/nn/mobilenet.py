"""MobileNetV3: inverted residuals, some with squeeze-and-excitation.

Source: arXiv 1905.02244, tables 1 and 2; rounding of channels as in MobileNetV2's published code. The slope of the gate
is 0.2, as PaddleDetection has it, where the paper has 1/6.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgeyolo.nn.conv import ConvBnAct

_STEM_CHS = 16
_GATE_SLOPE = 0.2
_SQUEEZE = 4


@dataclass(frozen=True)
class Residual:
    """One block: side of its kernel, channels inside and out, squeeze-and-excitation, activation, stride."""

    kernel_size: int
    inner: int
    out: int
    squeeze: bool
    activation: str
    stride: int


_TABLE = {
    "large": (
        (3, 16, 16, False, "relu", 1),
        (3, 64, 24, False, "relu", 2),
        (3, 72, 24, False, "relu", 1),
        (5, 72, 40, True, "relu", 2),
        (5, 120, 40, True, "relu", 1),
        (5, 120, 40, True, "relu", 1),
        (3, 240, 80, False, "hardswish", 2),
        (3, 200, 80, False, "hardswish", 1),
        (3, 184, 80, False, "hardswish", 1),
        (3, 184, 80, False, "hardswish", 1),
        (3, 480, 112, True, "hardswish", 1),
        (3, 672, 112, True, "hardswish", 1),
        (5, 672, 160, True, "hardswish", 2),
        (5, 960, 160, True, "hardswish", 1),
        (5, 960, 160, True, "hardswish", 1),
    ),
    "small": (
        (3, 16, 16, True, "relu", 2),
        (3, 72, 24, False, "relu", 2),
        (3, 88, 24, False, "relu", 1),
        (5, 96, 40, True, "hardswish", 2),
        (5, 240, 40, True, "hardswish", 1),
        (5, 240, 40, True, "hardswish", 1),
        (5, 120, 48, True, "hardswish", 1),
        (5, 144, 48, True, "hardswish", 1),
        (5, 288, 96, True, "hardswish", 2),
        (5, 576, 96, True, "hardswish", 1),
        (5, 576, 96, True, "hardswish", 1),
    ),
}
BLOCKS = {size: tuple(Residual(*row) for row in rows) for size, rows in _TABLE.items()}


def round_chs(chs: float) -> int:
    """The nearest multiple of 8 that is not under nine tenths of it."""
    rounded = max(8, int(chs + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * chs else rounded


class SqueezeExcite(nn.Module):
    """`x * clip(0.2 conv(relu(conv(mean(x)))) + 0.5)`: channels are weighed by the picture they come from."""

    def __init__(self, chs: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze = nn.Conv2d(chs, chs // _SQUEEZE, 1)
        self.act = nn.ReLU()
        self.excite = nn.Conv2d(chs // _SQUEEZE, chs, 1)
        self.gate = nn.Hardsigmoid()
        self.gain = 6 * _GATE_SLOPE  # on top of the slope of the gate

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        gates = self.excite(self.act(self.squeeze(self.pool(x))))
        out: Tensor = x * self.gate(gates * self.gain if self.gain != 1 else gates)
        return out

    def fold(self) -> SqueezeExcite:
        """The same function with the slope inside the second convolution."""
        folded = copy.deepcopy(self)
        with torch.no_grad():
            for parameter in folded.excite.parameters():
                parameter.mul_(self.gain)
        folded.gain = 1.0
        return folded


class InvertedResidual(nn.Module):
    """1x1 convolution to more channels, depthwise convolution, 1x1 to fewer; the input is added where shapes agree."""

    def __init__(self, in_chs: int, inner_chs: int, out_chs: int, block: Residual) -> None:
        super().__init__()
        self.shortcut = block.stride == 1 and in_chs == out_chs
        self.entry = ConvBnAct(in_chs, inner_chs, activation=block.activation)
        self.depth = ConvBnAct(
            inner_chs, inner_chs, block.kernel_size, block.stride, groups=inner_chs, activation=block.activation
        )
        self.squeeze = SqueezeExcite(inner_chs) if block.squeeze else nn.Identity()
        self.exit = ConvBnAct(inner_chs, out_chs, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H/s, W/s)."""
        out: Tensor = self.exit(self.squeeze(self.depth(self.entry(x))))
        return x + out if self.shortcut else out


class MobileNetV3(nn.Module):
    """A convolution of stride 2, then the blocks.

    Args:
        size: "large" or "small".
        width: multiplier of channels.
        levels: how many of the last strides to give.

    Attributes:
        out_chs: of the levels, finest first.
    """

    def __init__(self, size: str, width: float, levels: int) -> None:
        super().__init__()
        table = BLOCKS[size]
        chs = round_chs(_STEM_CHS * width)
        self.stem = ConvBnAct(3, chs, 3, 2, activation="hardswish")
        self.blocks = nn.ModuleList()
        for block in table:
            out_chs = round_chs(block.out * width)
            self.blocks.append(InvertedResidual(chs, round_chs(block.inner * width), out_chs, block))
            chs = out_chs
        ends = [i - 1 for i, block in enumerate(table) if block.stride == 2 and i] + [len(table) - 1]
        self.ends = ends[-levels:]
        self.out_chs = [round_chs(table[i].out * width) for i in self.ends]

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> features, finest first."""
        x, features = self.stem(images), []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.ends:
                features.append(x)
        return features
