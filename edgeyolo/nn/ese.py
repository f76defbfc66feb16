"""Effective squeeze-and-excitation: a gate per channel from the global mean, through one convolution."""

from __future__ import annotations

from torch import Tensor, nn

from edgeyolo.nn.conv import ConvBnAct, start_normal

_GATE_STD = 0.001


class EffectiveSe(nn.Module):
    """`x * hardsigmoid(conv1x1(mean(x)))`: channels are weighed by the picture they come from.

    Source: CenterMask / VoVNetV2, arXiv 1911.06667, section 3.3 (eSE), with the hard sigmoid of PP-YOLOE's backbone.
    """

    def __init__(self, chs: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Conv2d(chs, chs, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        out: Tensor = x * self.gate(self.fc(self.pool(x)))
        return out


class EseAttention(nn.Module):
    """`conv(x * sigmoid(conv1x1(mean)))`: the layer attention of PP-YOLOE's efficient task-aligned head.

    The mean is given, because the class and the box branch of a level share it.

    Source: PP-YOLOE, arXiv 2203.16250, section 2.2 (ET-head).
    """

    def __init__(self, chs: int, *, activation: str) -> None:
        super().__init__()
        self.fc = nn.Conv2d(chs, chs, 1)
        self.gate = nn.Sigmoid()
        self.conv = ConvBnAct(chs, chs, activation=activation)
        start_normal(self.fc, _GATE_STD)
        if self.fc.bias is not None:
            nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor, mean: Tensor) -> Tensor:
        """(B, C, H, W) and its mean (B, C, 1, 1) -> (B, C, H, W)."""
        out: Tensor = self.conv(x * self.gate(self.fc(mean)))
        return out
