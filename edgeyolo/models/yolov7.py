"""YOLOv7: tiny, base, X, W6, E6, D6, E6E, and a nano of our own.

Source: YOLOv7, arXiv 2207.02696: architecture section 3 and figure 2, RepConv without identity and implicit vectors
section 4.1, coarse-to-fine auxiliary heads section 4.2. Channel numbers and anchors as published by the authors.
One shape serves all: a backbone of (down-sampling, ELAN), SPPCSPC, a neck of ELANs down and up, and a head.

Differs:
    - SPPCSPC's pools are a chain of three (the same function, cheaper).
    - The 6-pixel stem of W6 and larger is ReOrg + 3x3 in training; folded it is one 6x6 convolution of stride 2.
    - nano is tiny with half of the channels.
Parameter counts of both forms are the published ones; D6's published GFLOPs (806.8) are of the training form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from edgeyolo.criteria.criterion import Criterion
from edgeyolo.criteria.ota import LossWeights, OtaCriterion
from edgeyolo.models._image_size import check_image_hw
from edgeyolo.models._network import DetectorNetwork
from edgeyolo.models._yolov7_official import PUBLISHED as PUBLISHED
from edgeyolo.nn.conv import ConvBnAct, set_batch_norm
from edgeyolo.nn.down import PoolConvDown, WideDown
from edgeyolo.nn.elan import DoubleElan, Elan, ElanShape
from edgeyolo.nn.implicit import ImplicitConv
from edgeyolo.nn.reorg import ReorgConv
from edgeyolo.nn.repconv import RepConv
from edgeyolo.nn.spp import SppCspc, TinySppCspc
from edgeyolo.spec.model import AnchorDecode, InputSpec

Down = Literal["pool", "conv", "pool-conv", "wide"]
Anchors = tuple[tuple[tuple[float, float], ...], ...]

_TINY_WH: Anchors = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)
_BASE_WH: Anchors = (
    ((12, 16), (19, 36), (40, 28)),
    ((36, 75), (76, 55), (72, 146)),
    ((142, 110), (192, 243), (459, 401)),
)
_LARGE_WH: Anchors = (
    ((19, 27), (44, 40), (38, 94)),
    ((96, 68), (86, 152), (180, 137)),
    ((140, 301), (303, 264), (238, 542)),
    ((436, 615), (739, 380), (925, 792)),
)


@dataclass(frozen=True, kw_only=True)
class StageShape:
    """One stage of the backbone: down-sampling by two to `down_chs`, then an ELAN of width `elan_chs` to `out_chs`."""

    down_chs: int
    elan_chs: int
    out_chs: int


@dataclass(frozen=True, kw_only=True)
class Yolov7Config:
    """A variant of the family.

    Attributes:
        num_classes: K.
        activation: of every hidden layer.
        image_size: side in pixels of the square input it is published for.
        anchors_wh: per level, finest first, in input pixels.
        stem_chs: outputs of the 3x3 convolutions before the first stage; one or three, or one after ReOrg.
        reorg: the stem begins with ReOrg.
        stages: of the backbone, strides 4, 8, 16 ...; all but the first feed the neck.
        down: how stages and neck down-sample; a first stage but `wide`, and a neck of `pool`, by a strided convolution.
        elan_depth: 3x3 convolutions in each ELAN.
        backbone_step, neck_step: every how many of them one is concatenated.
        double: each ELAN is a pair (E-ELAN).
        tiny_spp: SPPCSPC without its 3x3 convolutions.
        neck_chs: outputs of the neck, finest level first; the last is SPPCSPC's too. Heads see twice as many.
        branch_chs: of the neck's ELANs, finest level first.
        chain_share: channels of the chain per channel of the branch in the neck's ELANs.
        rep_heads: the heads' 3x3 convolutions are RepConv.
        auxiliary_chs: channels of the auxiliary heads' 3x3 convolutions, finest first; empty for none.
        loss, learning_rate: weights of the loss, and AdamW's peak at batches of 8.
    """

    name: str
    num_classes: int = 80
    activation: str = "silu"
    image_size: int = 640
    anchors_wh: Anchors = _BASE_WH
    stem_chs: tuple[int, ...]
    reorg: bool = False
    stages: tuple[StageShape, ...]
    down: Down
    elan_depth: int
    backbone_step: int = 2
    neck_step: int = 1
    double: bool = False
    tiny_spp: bool = False
    neck_chs: tuple[int, ...]
    branch_chs: tuple[int, ...]
    chain_share: float = 0.5
    rep_heads: bool = False
    auxiliary_chs: tuple[int, ...] = ()
    loss: LossWeights = field(default_factory=LossWeights)
    learning_rate: float = 1e-3

    @property
    def strides(self) -> tuple[int, ...]:
        """Input pixels per cell, finest level first."""
        return tuple(8 << level for level in range(len(self.neck_chs)))


def _stages(*shapes: tuple[int, int, int]) -> tuple[StageShape, ...]:
    return tuple(StageShape(down_chs=down, elan_chs=elan, out_chs=out) for down, elan, out in shapes)


def _tiny(name: str, width: float) -> Yolov7Config:
    w32, w64, w128, w256, w512 = (int(chs * width) for chs in (32, 64, 128, 256, 512))
    return Yolov7Config(
        name=name,
        activation="leaky_relu",
        anchors_wh=_TINY_WH,
        stem_chs=(w32,),
        stages=_stages((w64, w32, w64), (w64, w64, w128), (w128, w128, w256), (w256, w256, w512)),
        down="pool",
        elan_depth=2,
        backbone_step=1,
        tiny_spp=True,
        neck_chs=(w64, w128, w256),
        branch_chs=(w32, w64, w128),
        chain_share=1.0,
        learning_rate=2e-3,
    )


def _large(name: str, widths: tuple[int, ...], *, down: Down, depth: int, double: bool = False) -> Yolov7Config:
    """W6, E6, D6, E6E; `widths`: of the stem, the five stages, and the neck's four levels."""
    stem, stages, neck = widths[0], widths[1:6], widths[6:]
    return Yolov7Config(
        name=name,
        image_size=1280,
        anchors_wh=_LARGE_WH,
        stem_chs=(stem,),
        reorg=True,
        stages=_stages(*((chs, elan, chs) for chs, elan in zip(stages, (64, 128, 256, 384, 512), strict=True))),
        down=down,
        elan_depth=depth,
        double=double,
        neck_chs=neck,
        branch_chs=(128, 256, 384, 512),
        auxiliary_chs=(320, 640, 960, 1280) if name == "yolov7-w6" else tuple(2 * chs for chs in neck),
    )


_BASE = Yolov7Config(
    name="yolov7",
    stem_chs=(32, 64, 64),
    stages=_stages((128, 64, 256), (256, 128, 512), (512, 256, 1024), (1024, 256, 1024)),
    down="pool-conv",
    elan_depth=4,
    neck_chs=(128, 256, 512),
    branch_chs=(128, 256, 512),
    rep_heads=True,
)
_X = Yolov7Config(
    name="yolov7x",
    stem_chs=(40, 80, 80),
    stages=_stages((160, 64, 320), (320, 128, 640), (640, 256, 1280), (1280, 256, 1280)),
    down="pool-conv",
    elan_depth=6,
    neck_step=2,
    neck_chs=(160, 320, 640),
    branch_chs=(128, 256, 512),
    chain_share=1.0,
)
_E6_WIDTHS = (80, 160, 320, 640, 960, 1280, 160, 320, 480, 640)

VARIANTS: dict[str, Yolov7Config] = {
    config.name: config
    for config in (
        _tiny("yolov7-nano", 0.5),
        _tiny("yolov7-tiny", 1.0),
        _BASE,
        _X,
        _large("yolov7-w6", (64, 128, 256, 512, 768, 1024, 128, 256, 384, 512), down="conv", depth=4),
        _large("yolov7-e6", _E6_WIDTHS, down="wide", depth=6),
        _large("yolov7-d6", (96, 192, 384, 768, 1152, 1536, 192, 384, 576, 768), down="wide", depth=8),
        _large("yolov7-e6e", _E6_WIDTHS, down="wide", depth=6, double=True),
    )
}


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


class Merge(nn.Module):
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


class Rejoin(nn.Module):
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
            Merge(config, config.neck_chs[level + 1], feature_chs[level], level) for level in reversed(levels[:-1])
        )
        self.rejoins = nn.ModuleList(Rejoin(config, level) for level in levels[1:])

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
            _start_bias(output.conv if isinstance(output, ImplicitConv) else output, stride, config.num_classes)
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


def _start_bias(conv: nn.Conv2d, stride: int, num_classes: int) -> None:
    """Start at about 8 objects per 640-pixel picture, and 0.6 of them spread over the classes.

    Source: Focal Loss, arXiv 1708.02002, section 3.3.
    """
    assert conv.bias is not None
    with torch.no_grad():
        bias = conv.bias.view(-1, 5 + num_classes)
        bias[:, 4] += math.log(8 / (640 / stride) ** 2)
        bias[:, 5:] += math.log(0.6 / (num_classes - 0.99))


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

    def make_input_spec(self, image_hw: tuple[int, int]) -> InputSpec:
        """The input it is trained on: RGB in [0, 1], letterboxed in grey.

        Raises:
            UsageError: height or width is not a multiple of the coarsest stride.
        """
        check_image_hw(image_hw, max(self.strides))
        return InputSpec(image_hw=image_hw)

    def make_criterion(self, *, epochs: int | None = None) -> Criterion:
        """The loss it is trained with; the same in every epoch, however many there are."""
        return OtaCriterion(self.decode, self.config.num_classes, self.config.loss)
