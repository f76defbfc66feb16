"""ReOrg: 2x2 patches to channels, then a 3x3 convolution; folded, one 6x6 convolution of stride 2.

As the stem of a network, and as YOLOv2's way from a finer map past a coarser one.

Source: YOLOv7, arXiv 2207.02696 (W6 and larger); pixels to channels as in YOLOv2, arXiv 1612.08242.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeyolo.nn.activation import make_activation
from edgeyolo.nn.conv import ConvAct, ConvBnAct, conv_like, fold_batch_norm

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
        """The same function as one 6x6 convolution, stride 2."""
        weight, bias = fold_batch_norm(self.conv.conv, self.conv.bn)
        return ConvAct(_wide_conv(weight, bias, self.conv.conv), self.conv.activation)


class PassthroughSum(nn.Module):
    """What `PassthroughConv` folds into: a convolution of each map, and their sum."""

    def __init__(self, of_fine: nn.Conv2d, of_coarse: nn.Conv2d, activation: str | None) -> None:
        super().__init__()
        self.of_fine = of_fine
        self.of_coarse = of_coarse
        self.act = make_activation(activation)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """(B, C, 2H, 2W) and (B, D, H, W) -> (B, out_chs, H, W)."""
        out: Tensor = self.act(self.of_fine(fine) + self.of_coarse(coarse))
        return out


class PassthroughConv(nn.Module):
    """2x2 patches of the finer map as channels, the coarser map behind them, then `ConvBnAct` 3x3.

    Source: YOLOv2, arXiv 1612.08242, section 2, fine-grained features.
    Differs: phases of a patch are in the order of `ReorgConv`; darknet's layer mixes them with channels.
    """

    def __init__(self, fine_chs: int, coarse_chs: int, out_chs: int, *, activation: str | None) -> None:
        super().__init__()
        self.fine_chs = fine_chs
        self.conv = ConvBnAct(4 * fine_chs + coarse_chs, out_chs, 3, activation=activation)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """(B, C, 2H, 2W) and (B, D, H, W) -> (B, out_chs, H, W)."""
        patches = [fine[..., row::2, column::2] for row, column in _PHASES_YX]
        out: Tensor = self.conv(torch.cat((*patches, coarse), dim=1))
        return out

    def fold(self) -> PassthroughSum:
        """The same function without the patches."""
        conv, first = self.conv.conv, 4 * self.fine_chs
        weight, bias = fold_batch_norm(conv, self.conv.bn)
        of_fine = _wide_conv(weight[:, :first], None, conv)
        return PassthroughSum(of_fine, conv_like(conv, weight[:, first:], bias), self.conv.activation)


def _wide_conv(weight: Tensor, bias: Tensor | None, like: nn.Conv2d) -> nn.Conv2d:
    """A 3x3 convolution (out, 4 x in, 3, 3) of 2x2 patches as one of stride 2 of what they are of.

    Tap (2i + row, 2j + column) is tap (i, j) of a phase.
    """
    out_chs, in_chs = weight.shape[0], weight.shape[1] // 4
    wide = weight.new_zeros(out_chs, in_chs, 6, 6)
    for phase, (row, column) in enumerate(_PHASES_YX):
        wide[:, :, row::2, column::2] = weight[:, phase * in_chs : (phase + 1) * in_chs]
    folded = nn.Conv2d(in_chs, out_chs, 6, 2, 2, bias=bias is not None, device="meta")
    folded.weight = nn.Parameter(wide.to(like.weight))
    if bias is not None:
        folded.bias = nn.Parameter(bias.to(like.weight))
    return folded.eval()
