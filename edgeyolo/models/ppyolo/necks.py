"""The three necks of the family: (features, finest first) -> maps that the outputs read, finest first."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from edgeyolo.models.ppyolo.config import PpYoloConfig
from edgeyolo.nn.conv import ConvBnAct
from edgeyolo.nn.coord import CoordConv
from edgeyolo.nn.drop_block import DropBlock
from edgeyolo.nn.spp import PoolPyramid

_CSP_PAIRS = 3


class PooledConv(nn.Module):
    """The input and its pools over 5, 9 and 13 cells, mixed by a 1x1 convolution."""

    def __init__(self, in_chs: int, out_chs: int, activation: str) -> None:
        super().__init__()
        self.pyramid = PoolPyramid()
        self.conv = ConvBnAct(4 * in_chs, out_chs, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H, W)."""
        out: Tensor = self.conv(torch.cat(self.pyramid(x), dim=1))
        return out


class Down(nn.Module):
    """Coarse features flow down to the finest level: a block for each, and what leads from one to the next.

    Attributes:
        blocks: coarsest level first; each gives what flows on.
        tips: what the outputs read, one for each block.
        laterals: what flows on, before it is enlarged.
    """

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        self.tips = nn.ModuleList()
        self.laterals = nn.ModuleList()
        self.upsample = nn.Upsample(scale_factor=2.0, mode="nearest")

    def add(self, block: nn.Module, tip: nn.Module, lateral: nn.Module | None) -> None:
        """One level more; no lateral for the last."""
        self.blocks.append(block)
        self.tips.append(tip)
        if lateral is not None:
            self.laterals.append(lateral)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Features, finest first -> one map each, finest first."""
        found: list[Tensor] = []
        flow: Tensor | None = None
        for i, (block, tip) in enumerate(zip(self.blocks, self.tips, strict=True)):
            here = features[-1 - i]
            flow = block(here if flow is None else torch.cat((flow, here), dim=1))
            found.insert(0, tip(flow))
            if i < len(self.laterals):
                flow = self.upsample(self.laterals[i](flow))
        return found


def make_neck(config: PpYoloConfig, in_chs: list[int]) -> nn.Module:
    """The neck of a config; `in_chs` of the features, finest first."""
    make = {"tiny": _make_tiny, "fpn": _make_fpn, "pan": Pan}[config.neck]
    return make(config, in_chs)


def neck_out_chs(config: PpYoloConfig) -> list[int]:
    """Channels of what leaves it, finest first."""
    factor = 1 if config.neck == "tiny" else 2
    return [factor * chs for chs in reversed(config.neck_chs)]


def _make_tiny(config: PpYoloConfig, in_chs: list[int]) -> nn.Module:
    neck, activation, flow = Down(), config.activation, 0
    for i, chs in enumerate(config.neck_chs):
        entry = in_chs[-1 - i]
        pool = [PooledConv(entry, entry, activation)] if i == 0 and config.pyramid else []
        block = nn.Sequential(
            *pool,
            DropBlock(),
            ConvBnAct(entry + flow, chs, activation=activation),
            ConvBnAct(chs, chs, 5, groups=chs, activation=activation),
            ConvBnAct(chs, chs, activation=activation),
            ConvBnAct(chs, chs, 5, groups=chs, activation=activation),
        )
        is_last = i == len(config.neck_chs) - 1
        lateral = None if is_last else ConvBnAct(chs, chs, activation=activation)
        neck.add(block, ConvBnAct(chs, chs, activation=activation), lateral)
        flow = chs
    return neck


def _make_fpn(config: PpYoloConfig, in_chs: list[int]) -> nn.Module:
    neck, activation, flow = Down(), config.activation, 0
    conv: type[nn.Module] = CoordConv if config.coordinates else ConvBnAct
    for i, chs in enumerate(config.neck_chs):
        entry, is_coarsest = in_chs[-1 - i] + flow, i == 0
        layers: list[nn.Module] = []
        for _ in range(config.pairs):
            layers += [conv(entry, chs, activation=activation), ConvBnAct(chs, 2 * chs, 3, activation=activation)]
            entry = 2 * chs
        if is_coarsest and config.pyramid:  # before the last 3x3 convolution, or first of all
            place = len(layers) - 1 if layers else 0
            pooled = chs if layers else entry
            layers.insert(place, PooledConv(pooled, pooled, activation))
        layers.insert(len(layers) if is_coarsest or not config.pairs else 2, DropBlock())
        layers.append(conv(entry, chs, activation=activation))
        lateral = None
        if i < len(config.lateral_chs):
            flow = config.lateral_chs[i]
            lateral = ConvBnAct(chs, flow, activation=activation)
        neck.add(nn.Sequential(*layers), conv(chs, 2 * chs, 3, activation=activation), lateral)
    return neck


class CspBlock(nn.Module):
    """Pairs of 1x1 and 3x3 convolutions on one half of the channels, a 1x1 convolution past them on the other."""

    def __init__(self, in_chs: int, chs: int, activation: str, *, pyramid: bool = False) -> None:
        super().__init__()
        self.entry = ConvBnAct(in_chs, chs, activation=activation)
        self.skip = ConvBnAct(in_chs, chs, activation=activation)
        self.join = ConvBnAct(2 * chs, 2 * chs, activation=activation)
        layers = [layer for _ in range(_CSP_PAIRS) for layer in self._pair(chs, activation)]
        if pyramid:
            layers[3] = PooledConv(chs, chs, activation)
        self.convs = nn.Sequential(*layers[:4], DropBlock(), *layers[4:])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 2 x chs, H, W)."""
        out: Tensor = self.join(torch.cat((self.convs(self.entry(x)), self.skip(x)), dim=1))
        return out

    @staticmethod
    def _pair(chs: int, activation: str) -> Iterator[nn.Module]:
        yield ConvBnAct(chs, chs, activation=activation)
        yield ConvBnAct(chs, chs, 3, activation=activation)


class Pan(nn.Module):
    """Coarse features flow down to the finest level, then back up."""

    def __init__(self, config: PpYoloConfig, in_chs: list[int]) -> None:
        super().__init__()
        activation, flow = config.activation, 0
        self.down = Down()
        for i, chs in enumerate(config.neck_chs):
            block = CspBlock(in_chs[-1 - i] + flow, chs, activation, pyramid=i == 0 and config.pyramid)
            is_last = i == len(config.neck_chs) - 1
            self.down.add(block, nn.Identity(), None if is_last else ConvBnAct(2 * chs, chs, activation=activation))
            flow = chs
        self.shrinks, self.blocks = nn.ModuleList(), nn.ModuleList()
        for finer, coarser in pairwise(reversed(config.neck_chs)):
            self.shrinks.append(ConvBnAct(2 * finer, 2 * finer, 3, 2, activation=activation))
            self.blocks.append(CspBlock(2 * finer + 2 * coarser, coarser, activation))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Features, finest first -> one map each, finest first."""
        finest, *rest = self.down(features)
        found = [finest]
        for shrink, block, here in zip(self.shrinks, self.blocks, rest, strict=True):
            found.append(block(torch.cat((shrink(found[-1]), here), dim=1)))
        return found
