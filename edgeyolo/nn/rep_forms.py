"""Other forms of a RepVGG convolution: scaled branches, and the plain convolution that their scales say how to train.

Branches that are normalised each give kernels of very different sizes once folded, which is what the paper blames for
their loss in int8. Re-parameterising the optimizer instead trains one plain 3x3 convolution: the scales of branches,
found by a network of scaled branches, say how it starts and how much each of its weights learns.

Source: RepOptimizers, arXiv 2205.15242, sections 3.1 to 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeyolo.nn.activation import make_activation
from edgeyolo.nn.conv import ConvAct, ConvBnAct, conv_like, fold_batch_norm
from edgeyolo.nn.repvgg import RepVggBlock


@dataclass(frozen=True)
class RepScales:
    """The scales of one block's branches, one number per output channel.

    Attributes:
        identity: of the branch that hands the input on; None where there is none.
    """

    conv3x3: Tensor
    conv1x1: Tensor
    identity: Tensor | None


class ScaledBranches(nn.Module):
    """`act(bn(s * conv3x3(x) + t * conv1x1(x) + u * x))`: trained to find the scales s, t and u of its channels.

    Args:
        depth: blocks up to this one, this one included; s and t start at sqrt(2 / depth), u at 1.
    """

    def __init__(self, block: RepVggBlock, depth: int) -> None:
        super().__init__()
        conv = block.conv3x3.conv
        self.activation, self.stride = block.activation, block.stride
        self.conv3x3 = nn.Conv2d(conv.in_channels, conv.out_channels, 3, block.stride, 1, bias=False)
        self.conv1x1 = nn.Conv2d(conv.in_channels, conv.out_channels, 1, bias=False)
        start = torch.full((conv.out_channels, 1, 1), math.sqrt(2 / depth))
        self.scale3x3, self.scale1x1 = nn.Parameter(start), nn.Parameter(start.clone())
        self.scale_identity = nn.Parameter(torch.ones_like(start)) if block.identity is not None else None
        self.bn = _norm_like(block.conv3x3.bn)
        self.act = make_activation(block.activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H/s, W/s)."""
        finest = x if self.stride == 1 else x[..., :: self.stride, :: self.stride]
        total = self.scale3x3 * self.conv3x3(x) + self.scale1x1 * self.conv1x1(finest)
        if self.scale_identity is not None:
            total = total + self.scale_identity * x
        out: Tensor = self.act(self.bn(total))
        return out

    def fold(self) -> ConvAct:
        """One 3x3 convolution equal to it in eval mode."""
        weight = merged_kernel(self.conv3x3.weight, self.conv1x1.weight, self.scales())
        merged = conv_like(self.conv3x3, weight.detach(), torch.zeros(len(weight)))
        return ConvAct(conv_like(merged, *fold_batch_norm(merged, self.bn)), self.activation)

    def scales(self) -> RepScales:
        """What it has found."""
        identity = None if self.scale_identity is None else self.scale_identity.detach().flatten()
        return RepScales(self.scale3x3.detach().flatten(), self.scale1x1.detach().flatten(), identity)


def scale_branches(network: nn.Module) -> int:
    """Put scaled branches in the place of each RepVGG convolution; returns how many there are."""
    blocks = _rep_blocks(network)
    for depth, (path, block) in enumerate(blocks.items(), start=1):
        _replace(network, path, ScaledBranches(block, depth))
    return len(blocks)


def make_plain(network: nn.Module) -> int:
    """Put a plain convolution with batch norm in the place of each RepVGG convolution; returns how many there are."""
    blocks = _rep_blocks(network)
    for path, block in blocks.items():
        conv = block.conv3x3.conv
        plain = ConvBnAct(conv.in_channels, conv.out_channels, 3, block.stride, activation=block.activation)
        plain.bn = _norm_like(block.conv3x3.bn)
        _replace(network, path, plain)
    return len(blocks)


def scales_in(network: nn.Module) -> dict[str, RepScales]:
    """Path of each block of scaled branches -> what it has found."""
    return {path: part.scales() for path, part in network.named_modules() if isinstance(part, ScaledBranches)}


def start_plain(network: nn.Module, scales: Mapping[str, RepScales]) -> None:
    """Give plain convolutions the kernels that fresh branches with these scales would add up to."""
    for path, found in scales.items():
        conv = network.get_submodule(path).get_submodule("conv")
        assert isinstance(conv, nn.Conv2d)
        fresh = nn.Conv2d(conv.in_channels, conv.out_channels, 1, bias=False)
        with torch.no_grad():
            conv.weight.copy_(merged_kernel(conv.weight, fresh.weight, found))


def merged_kernel(weight3x3: Tensor, weight1x1: Tensor, scales: RepScales) -> Tensor:
    """The 3x3 kernel (out, in, 3, 3) of scaled branches together."""
    scale3x3, scale1x1 = (scale[:, None, None, None] for scale in (scales.conv3x3, scales.conv1x1))
    kernel = scale3x3 * weight3x3 + F.pad(scale1x1 * weight1x1, (1, 1, 1, 1))
    return kernel if scales.identity is None else kernel + _at_centre(scales.identity)


def learning_factors(scales: RepScales, in_chs: int, *, power: int) -> Tensor:
    """How much each weight of the plain kernel learns beside a weight of one branch, (out, in, 3, 3).

    Args:
        power: 2 for gradients, whose steps are in proportion to the scales once more (equation 6 of the paper); 1 for
            steps that do not depend on the size of the gradient, as Adam's.
    """
    ones = torch.ones(len(scales.conv3x3), in_chs, 3, 3)
    pointwise = torch.ones(len(scales.conv1x1), in_chs, 1, 1)
    plain = RepScales(scales.conv3x3.abs() ** power, scales.conv1x1.abs() ** power, None)
    factors = merged_kernel(ones, pointwise, plain)
    return factors if scales.identity is None else factors + _at_centre(torch.ones_like(scales.identity))


def _at_centre(values: Tensor) -> Tensor:
    """(C,) -> (C, C, 3, 3), the values where a channel meets itself in the middle of the kernel."""
    return F.pad(torch.diag(values)[:, :, None, None], (1, 1, 1, 1))


def _norm_like(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(norm.num_features, eps=norm.eps, momentum=norm.momentum)


def _replace(network: nn.Module, path: str, part: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, part)


def _rep_blocks(network: nn.Module) -> dict[str, RepVggBlock]:
    return {path: part for path, part in network.named_modules() if isinstance(part, RepVggBlock)}
