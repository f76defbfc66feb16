"""RepConv: a 3x3 and a 1x1 convolution side by side, one 3x3 convolution once folded.

Source: RepVGG, arXiv 2101.03697, section 3.2; YOLOv7, arXiv 2207.02696, section 4.1, which drops the identity branch.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from edgeyolo.nn.activation import make_activation
from edgeyolo.nn.conv import ConvAct, ConvBnAct, conv_like, fold_batch_norm


class RepConv(nn.Module):
    """The sum of a batch-normed 3x3 and a batch-normed 1x1 convolution, then an activation. Stride 1, no identity."""

    def __init__(self, in_chs: int, out_chs: int, *, activation: str | None = "silu") -> None:
        super().__init__()
        self.activation = activation
        self.dense = ConvBnAct(in_chs, out_chs, 3, activation=None)
        self.point = ConvBnAct(in_chs, out_chs, 1, activation=None)
        self.act = make_activation(activation, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H, W)."""
        out: Tensor = self.act(self.dense(x) + self.point(x))
        return out

    def fold(self) -> ConvAct:
        """The same function in eval mode as one 3x3 convolution: the 1x1 kernel is added to the centre of the 3x3."""
        weight, bias = fold_batch_norm(self.dense.conv, self.dense.bn)
        point_weight, point_bias = fold_batch_norm(self.point.conv, self.point.bn)
        merged = conv_like(self.dense.conv, weight + F.pad(point_weight, (1, 1, 1, 1)), bias + point_bias)
        return ConvAct(merged, self.activation)
