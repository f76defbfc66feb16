"""Deformable convolution: each tap of the kernel is moved by what the input says, and weighed by it.

Source: Deformable ConvNets v2, arXiv 1811.11168, equation 1; samples between cells are bilinear, and zero outside.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from edgeyolo.nn.activation import make_activation
from edgeyolo.nn.conv import fold_batch_norm

_AXES = 2
TORCH_NAME = "edgeyolo::deform_conv"


def deform_conv(x: Tensor, weight: Tensor, bias: Tensor, moves: Tensor, masks: Tensor, stride: int) -> Tensor:
    """A convolution, padded so that stride 1 keeps the size, whose taps are moved.

    Args:
        x: (B, C, H, W).
        weight: (out_chs, C, k, k), k odd.
        bias: (out_chs,).
        moves: (B, k x k x 2, h, w) rows and columns that each tap is moved by, row first.
        masks: (B, k x k, h, w) what each tap is multiplied by.

    Returns:
        (B, out_chs, h, w).
    """
    if torch.onnx.is_in_onnx_export():
        exported: Tensor = _exported(x, weight, bias, moves, masks, stride)
        return exported
    return _sample_and_mix(x, weight, bias, moves, masks, stride)


fx.wrap("deform_conv")  # one node of the graph, as it is one operator of the engines that have it


def _sample_and_mix(x: Tensor, weight: Tensor, bias: Tensor, moves: Tensor, masks: Tensor, stride: int) -> Tensor:
    batch, chs, height, width = x.shape
    side, (rows, columns) = weight.shape[2], moves.shape[2:]
    steps = torch.arange(side, device=x.device) - side // 2
    moved = moves.view(batch, side * side, _AXES, rows, columns)
    down = moved[:, :, 0] + torch.arange(rows, device=x.device)[:, None] * stride
    across = moved[:, :, 1] + torch.arange(columns, device=x.device) * stride
    down = down + steps.repeat_interleave(side)[:, None, None]
    across = across + steps.repeat(side)[:, None, None]
    places = torch.stack(((2 * across + 1) / width - 1, (2 * down + 1) / height - 1), dim=-1)  # (B, k x k, h, w, 2)
    found = F.grid_sample(x, places.flatten(1, 2), mode="bilinear", padding_mode="zeros", align_corners=False)
    weighed = found.view(batch, chs, side * side, rows, columns) * masks[:, None]
    return F.conv2d(weighed.flatten(1, 2), weight.reshape(weight.shape[0], -1, 1, 1), bias)


@torch.library.custom_op(TORCH_NAME, mutates_args=())
def _exported(x: Tensor, weight: Tensor, bias: Tensor, moves: Tensor, masks: Tensor, stride: int) -> Tensor:
    """The same as one operator of torch, which the tracer does not look into; without a gradient."""
    return _sample_and_mix(x, weight, bias, moves, masks, stride)


class DeformConv2d(nn.Module):
    """A deformable convolution that finds its moves and masks itself; all 0 and one half at first.

    Attributes:
        guide: the convolution of the same size that finds them, (moves, logits of the masks).
    """

    def __init__(self, in_channels: int, out_channels: int, size: int, stride: int = 1) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, 1
        self.kernel_size, self.stride = (size, size), (stride, stride)
        self.guide = nn.Conv2d(in_channels, (_AXES + 1) * size * size, size, stride, size // 2)
        nn.init.zeros_(self.guide.weight)
        assert self.guide.bias is not None
        nn.init.zeros_(self.guide.bias)
        like = nn.Conv2d(in_channels, out_channels, size)
        self.weight = like.weight
        self.bias: nn.Parameter | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H/s, W/s)."""
        taps = self.kernel_size[0] * self.kernel_size[1]
        moves, masks = torch.split(self.guide(x), [_AXES * taps, taps], dim=1)
        bias = self.weight.new_zeros(self.out_channels) if self.bias is None else self.bias
        return deform_conv(x, self.weight, bias, moves, masks.sigmoid(), self.stride[0])


class DeformConvBnAct(nn.Module):
    """`DeformConv2d`, batch norm, activation."""

    def __init__(self, in_chs: int, out_chs: int, size: int, stride: int = 1, *, activation: str | None) -> None:
        super().__init__()
        self.activation = activation
        self.conv = DeformConv2d(in_chs, out_chs, size, stride)
        self.bn = nn.BatchNorm2d(out_chs)
        self.act = make_activation(activation, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H/s, W/s)."""
        out: Tensor = self.act(self.bn(self.conv(x)))
        return out

    def fold(self) -> nn.Sequential:
        """The same function in eval mode, batch norm inside the convolution."""
        weight, bias = fold_batch_norm(self.conv, self.bn)
        conv = DeformConv2d(
            self.conv.in_channels, self.conv.out_channels, self.conv.kernel_size[0], self.conv.stride[0]
        )
        conv.guide = self.conv.guide
        conv.weight = nn.Parameter(weight.to(self.conv.weight))
        conv.bias = nn.Parameter(bias.to(self.conv.weight))
        return nn.Sequential(conv, make_activation(self.activation))
