"""The stages of YOLOX and YOLOv5: half of the channels through bottlenecks, half past them, joined by a convolution.

Source: CSPNet, arXiv 1911.11929, in the form with three convolutions that YOLOv5 and YOLOX, arXiv 2107.08430, have.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeyolo.nn.bottleneck import Bottleneck
from edgeyolo.nn.conv import ConvBnAct


class C3(nn.Module):
    """See above.

    Args:
        count: bottlenecks, >= 1.
        shortcut: whether a bottleneck adds its input.
        depthwise: whether the 3x3 convolutions are of each channel alone.
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        count: int,
        *,
        shortcut: bool,
        activation: str | None = "silu",
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        half = out_chs // 2
        self.entry = ConvBnAct(in_chs, half, activation=activation)
        self.skip = ConvBnAct(in_chs, half, activation=activation)
        self.blocks: nn.Module = nn.Sequential(
            *(
                Bottleneck(half, entry_size=1, shortcut=shortcut, activation=activation, depthwise=depthwise)
                for _ in range(count)
            )
        )
        self.join = ConvBnAct(2 * half, out_chs, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H, W)."""
        out: Tensor = self.join(torch.cat((self.blocks(self.entry(x)), self.skip(x)), dim=1))
        return out
