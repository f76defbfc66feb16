"""Convolution + batch norm + activation, its deploy form, and the arithmetic of folding a batch norm."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from edgeyolo.nn.activation import make_activation
from edgeyolo.nn.depthwise import DepthwiseConv2d


class ConvAct(nn.Module):
    """Convolution with bias, then an activation: the deploy form that convolutional blocks fold into."""

    def __init__(self, conv: nn.Conv2d, activation: str | None) -> None:
        super().__init__()
        self.conv = conv
        self.act = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H/s, W/s)."""
        out: Tensor = self.act(self.conv(x))
        return out


class ConvBnAct(nn.Module):
    """Convolution without bias, batch norm, activation; padded so that stride 1 keeps H and W.

    Args:
        kernel_size: odd, unless `padding` is given.
        padding: pixels on every side; None for half of the kernel.
        activation: a name `make_activation` knows; None for none.
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        kernel_size: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        padding: int | None = None,
        activation: str | None = "silu",
    ) -> None:
        super().__init__()
        self.activation = activation
        padding = kernel_size // 2 if padding is None else padding
        kind = DepthwiseConv2d if 1 < groups == in_chs else nn.Conv2d
        self.conv = kind(in_chs, out_chs, kernel_size, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_chs)
        self.act = make_activation(activation, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H/s, W/s)."""
        out: Tensor = self.act(self.bn(self.conv(x)))
        return out

    def fold(self) -> ConvAct:
        """The same function in eval mode, batch norm inside the convolution."""
        return ConvAct(conv_like(self.conv, *fold_batch_norm(self.conv, self.bn)), self.activation)


class BnAct(nn.Module):
    """Batch norm, then an activation, where no convolution comes right before; (B, C, H, W) -> the same."""

    def __init__(self, chs: int, activation: str | None) -> None:
        super().__init__()
        self.activation = activation
        self.bn = nn.BatchNorm2d(chs)
        self.act = make_activation(activation, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        out: Tensor = self.act(self.bn(x))
        return out

    def fold(self) -> ConvAct:
        """The same function in eval mode: a factor and a bias for each channel."""
        chs = self.bn.num_features
        one = nn.Conv2d(chs, chs, 1, groups=chs, bias=False, device="meta")
        one.weight = nn.Parameter(torch.ones_like(self.bn.weight).view(chs, 1, 1, 1))
        return ConvAct(conv_like(one, *fold_batch_norm(one, self.bn)), self.activation)


class Weighted(Protocol):
    """What a batch norm may be folded into: a convolution, whatever it is of."""

    @property
    def weight(self) -> Tensor:
        """(out, in/groups, kh, kw)."""

    @property
    def bias(self) -> Tensor | None:
        """(out,)."""


def fold_batch_norm(conv: Weighted, bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Float64 weight (out, in/groups, kh, kw) and bias (out,) of the convolution equal to `bn(conv(x))` in eval."""
    mean, variance = bn.running_mean, bn.running_var
    if mean is None or variance is None:
        raise ValueError("a batch norm without running statistics cannot be folded")
    if conv.weight.is_meta:  # shapes are all that there is, and torch is slow at arithmetic with them
        return torch.empty_like(conv.weight, dtype=torch.float64), torch.empty_like(bn.bias, dtype=torch.float64)
    scale = bn.weight.detach().double() / torch.sqrt(variance.double() + bn.eps)
    weight = conv.weight.detach().double() * scale[:, None, None, None]
    shift = bn.bias.detach().double() - mean.double() * scale
    if conv.bias is not None:
        shift = shift + conv.bias.detach().double() * scale
    return weight, shift


def conv_like(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A convolution like `conv` (stride, groups, device, number type) with these weights; their shape is its shape."""
    kernel_hw = (weight.shape[2], weight.shape[3])
    padding_hw = (kernel_hw[0] // 2, kernel_hw[1] // 2)
    if kernel_hw == conv.kernel_size and not isinstance(conv.padding, str):
        padding_hw = (conv.padding[0], conv.padding[1])
    folded = nn.Conv2d(
        weight.shape[1] * conv.groups,
        weight.shape[0],
        kernel_hw,
        (conv.stride[0], conv.stride[1]),
        padding_hw,
        groups=conv.groups,
        device="meta",
    )
    folded.weight = nn.Parameter(weight.to(conv.weight))
    folded.bias = nn.Parameter(bias.to(conv.weight))
    return folded.eval()


def start_normal(conv: nn.Conv2d, std: float) -> None:
    """Draw its weights from N(0, `std`); on a network without memory `nn.init.normal_` would load torch's compiler."""
    with torch.no_grad():
        conv.weight.copy_(torch.randn_like(conv.weight) * std)


def set_batch_norm(module: nn.Module, *, eps: float, momentum: float) -> None:
    """Give every batch norm inside `module` this epsilon and momentum (torch's convention: weight of the new batch)."""
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.eps = eps
            child.momentum = momentum
