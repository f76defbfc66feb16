"""The ReOrg stem: pixels to channels, then a 3x3 convolution; folded, one 6x6 convolution of stride 2.

Source: YOLOv7, arXiv 2207.02696 (W6 and larger); pixels to channels as in YOLOv2, arXiv 1612.08242.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeyolo.nn.conv import ConvAct, ConvBnAct, fold_batch_norm

_PHASES_YX = ((0, 0), (1, 0), (0, 1), (1, 1))


class ReorgConv(nn.Module):
    """Each 2x2 patch of pixels becomes one position with four times the channels; then `ConvBnAct` 3x3.

    Channels are phase-major; phases in the order (row, column) = (0, 0), (1, 0), (0, 1), (1, 1).
    """

    def __init__(self, in_chs: int, out_chs: int, *, activation: str | None = "silu") -> None:
        super().__init__()
        self.conv = ConvBnAct(4 * in_chs, out_chs, 3, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), H and W even -> (B, out_chs, H/2, W/2)."""
        out: Tensor = self.conv(torch.cat([x[..., row::2, column::2] for row, column in _PHASES_YX], dim=1))
        return out

    def fold(self) -> ConvAct:
        """The same function as one 6x6 convolution, stride 2: tap (2i + row, 2j + column) is tap (i, j) of a phase."""
        weight, bias = fold_batch_norm(self.conv.conv, self.conv.bn)
        out_chs, in_chs = weight.shape[0], weight.shape[1] // 4
        wide = weight.new_zeros(out_chs, in_chs, 6, 6)
        for phase, (row, column) in enumerate(_PHASES_YX):
            wide[:, :, row::2, column::2] = weight[:, phase * in_chs : (phase + 1) * in_chs]
        folded = nn.Conv2d(in_chs, out_chs, 6, 2, 2, device="meta")
        folded.weight = nn.Parameter(wide.to(self.conv.conv.weight))
        folded.bias = nn.Parameter(bias.to(self.conv.conv.weight))
        return ConvAct(folded, self.conv.activation)
