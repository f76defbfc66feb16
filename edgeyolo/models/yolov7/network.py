"""The network: a backbone of (down-sampling, ELAN), SPPCSPC, a neck of ELANs down and up, and a head."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from edgeyolo.criteria.criterion import Criterion
from edgeyolo.criteria.ota import OtaCriterion
from edgeyolo.models._network import DetectorNetwork, start_anchor_bias
from edgeyolo.models.yolov7.config import Down, Yolov7Config
from edgeyolo.nn.conv import ConvBnAct, set_batch_norm
from edgeyolo.nn.down import PoolConvDown, WideDown
from edgeyolo.nn.elan import DoubleElan, Elan, ElanShape
from edgeyolo.nn.implicit import ImplicitConv
from edgeyolo.nn.reorg import ReorgConv
from edgeyolo.nn.repconv import RepConv
from edgeyolo.nn.spp import SppCspc, TinySppCspc
from edgeyolo.spec.model import AnchorDecode


def _make_down(kind: Down, in_chs: int, out_chs: int, activation: str) -> nn.Module:
    if kind == "pool":
        return nn.MaxPool2d(2, stride=2)
    if kind == "conv":
        return ConvBnAct(in_chs, out_chs, 3, 2, activation=activation)
    block = PoolConvDown if kind == "pool-conv" else WideDown
    return block(in_chs, out_chs, activation=activation)


def _make_elan(config: Yolov7Config, in_chs: int, out_chs: int, shape: ElanShape) -> nn.Module:
    block = DoubleElan if config.double else Elan
    return block(in_chs, out_chs, shape, activation=config.activation)


class Backbone(nn.Module):
    """Stem and stages."""

    def __init__(self, config: Yolov7Config) -> None:
        super().__init__()
        self.stem = _make_stem(config)
        self.stages = nn.ModuleList()
        in_chs = config.stem_chs[-1]
        for position, stage in enumerate(config.stages):
            kind: Down = "conv" if position == 0 and config.down != "wide" else config.down
            shape = ElanShape(stage.elan_chs, stage.elan_chs, config.elan_depth, config.backbone_step)
            down = _make_down(kind, in_chs, stage.down_chs, config.activation)
            self.stages.append(nn.Sequential(down, _make_elan(config, stage.down_chs, stage.out_chs, shape)))
            in_chs = stage.out_chs

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> features of strides 8, 16 ..., finest first."""
        x = self.stem(images)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features[1:]


def _make_stem(config: Yolov7Config) -> nn.Sequential:
    """(B, 3, H, W) -> (B, stem_chs[-1], H/2, W/2)."""
    if config.reorg:
        return nn.Sequential(ReorgConv(3, config.stem_chs[0], activation=config.activation))
    stem = nn.Sequential()
    in_chs = 3
    for position, out_chs in enumerate(config.stem_chs):
        stride = 2 if position == len(config.stem_chs) // 2 else 1
        stem.append(ConvBnAct(in_chs, out_chs, 3, stride, activation=config.activation))
        in_chs = out_chs
    return stem


class TopDownStep(nn.Module):
    """One step down the neck: a coarse map, up-sampled, joins the backbone's map of the next finer level."""

    def __init__(self, config: Yolov7Config, coarse_chs: int, lateral_chs: int, level: int) -> None:
        super().__init__()
        out_chs = config.neck_chs[level]
        self.reduce = ConvBnAct(coarse_chs, out_chs, activation=config.activation)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.lateral = ConvBnAct(lateral_chs, out_chs, activation=config.activation)
        self.elan = _make_elan(config, 2 * out_chs, out_chs, _neck_shape(config, level))

    def forward(self, coarse: Tensor, lateral: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) and (B, D, 2H, 2W) -> (B, out_chs, 2H, 2W), and one ELAN of a pair for auxiliary heads."""
        joined = torch.cat([self.lateral(lateral), self.upsample(self.reduce(coarse))], dim=1)
        if not isinstance(self.elan, DoubleElan):
            return (self.elan(joined),) * 2
        second = self.elan.second(joined)
        return second + self.elan.first(joined), second


class BottomUpStep(nn.Module):
    """One step up the neck: a fine map, down-sampled, joins what the way down left at the next coarser level."""

    def __init__(self, config: Yolov7Config, level: int) -> None:
        super().__init__()
        out_chs = config.neck_chs[level]
        kind: Down = "conv" if config.down == "pool" else config.down
        self.down = _make_down(kind, config.neck_chs[level - 1], out_chs, config.activation)
        self.elan = _make_elan(config, 2 * out_chs, out_chs, _neck_shape(config, level))

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """(B, C, 2H, 2W) and (B, out_chs, H, W) -> (B, out_chs, H, W)."""
        out: Tensor = self.elan(torch.cat([self.down(fine), coarse], dim=1))
        return out


def _neck_shape(config: Yolov7Config, level: int) -> ElanShape:
    branch_chs = config.branch_chs[level]
    return ElanShape(branch_chs, int(branch_chs * config.chain_share), config.elan_depth, config.neck_step)


class Neck(nn.Module):
    """SPPCSPC, then ELANs from coarse to fine and back."""

    def __init__(self, config: Yolov7Config) -> None:
        super().__init__()
        feature_chs = [stage.out_chs for stage in config.stages[1:]]
        levels = range(len(feature_chs))
        spp = TinySppCspc if config.tiny_spp else SppCspc
        self.spp = spp(feature_chs[-1], config.neck_chs[-1], activation=config.activation)
        self.merges = nn.ModuleList(
            TopDownStep(config, config.neck_chs[level + 1], feature_chs[level], level)
            for level in reversed(levels[:-1])
        )
        self.rejoins = nn.ModuleList(BottomUpStep(config, level) for level in levels[1:])

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Features, finest first -> maps for the lead heads and for the auxiliary heads, each finest first."""
        descent = auxiliary = [self.spp(features[-1])]
        for merge, lateral in zip(self.merges, features[-2::-1], strict=True):
            merged, beside = merge(descent[0], lateral)
            descent, auxiliary = [merged, *descent], [beside, *auxiliary]
        ascent = [descent[0]]
        for rejoin, coarse in zip(self.rejoins, descent[1:], strict=True):
            ascent.append(rejoin(ascent[-1], coarse))
        return ascent, auxiliary


class Head(nn.Module):
    """Per level a 3x3 convolution, then an output convolution (between implicit vectors in the lead head)."""

    def __init__(self, config: Yolov7Config, hidden_chs: Sequence[int], *, lead: bool) -> None:
        super().__init__()
        out_chs = len(config.anchors_wh[0]) * (5 + config.num_classes)
        self.transforms = nn.ModuleList()
        self.outputs = nn.ModuleList()
        transform = RepConv if lead and config.rep_heads else partial(ConvBnAct, kernel_size=3)
        for in_chs, width, stride in zip(config.neck_chs, hidden_chs, config.strides, strict=True):
            self.transforms.append(transform(in_chs, width, activation=config.activation))
            output = ImplicitConv(width, out_chs) if lead else nn.Conv2d(width, out_chs, 1)
            start_anchor_bias(output.conv if isinstance(output, ImplicitConv) else output, stride, config.num_classes)
            self.outputs.append(output)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """(B, C, H/s, W/s) -> (B, anchors x (5 + K), H/s, W/s) per level."""
        return [o(t(x)) for o, t, x in zip(self.outputs, self.transforms, maps, strict=True)]


class AuxiliaryHead(Head):
    """Heads on the way down the neck, for training only."""

    def __init__(self, config: Yolov7Config) -> None:
        super().__init__(config, config.auxiliary_chs, lead=False)

    def fold(self) -> None:
        """No part in the deploy form."""


class Network(DetectorNetwork):
    """A YOLOv7 detector; `strides` are input pixels per cell, finest level first."""

    config: Yolov7Config
    decode: AnchorDecode

    def __init__(self, config: Yolov7Config) -> None:
        super().__init__()
        self.config = config
        self.strides = config.strides
        self.decode = AnchorDecode(strides=config.strides, anchors_wh=config.anchors_wh)
        self.backbone = Backbone(config)
        self.neck = Neck(config)
        self.head = Head(config, [2 * chs for chs in config.neck_chs], lead=True)
        self.auxiliary = AuxiliaryHead(config) if config.auxiliary_chs else None
        set_batch_norm(self, eps=1e-3, momentum=0.03)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> (B, anchors x (5 + K), H/s, W/s) per level, finest first; in training auxiliary after."""
        ascent, beside = self.neck(self.backbone(images))
        maps: list[Tensor] = self.head(ascent)
        if self.auxiliary is not None and self.training:
            maps = maps + self.auxiliary(beside)
        return maps

    def make_criterion(self, *, epochs: int | None = None) -> Criterion:
        """The loss it is trained with; the same in every epoch, however many there are."""
        return OtaCriterion(self.decode, self.config.num_classes, self.config.loss)
