"""YOLOX: anchor-free, one box for each cell, a decoupled head with objectness, matched by SimOTA.

Paper: YOLOX, arXiv 2107.08430. CSPDarknet behind a Focus stem, a pyramid of C3 stages down and up, per level one 1x1
convolution and a branch each for classes and for boxes. In nano all 3x3 convolutions but the stem's are depthwise.
The input is BGR in 0-255, letterboxed to the top left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from msgspec import structs
from torch import Tensor, nn

from edgeyolo.criteria.simota import SimOtaCriterion
from edgeyolo.models._network import DetectorNetwork
from edgeyolo.nn.bottleneck import DepthwiseConv
from edgeyolo.nn.c3 import C3
from edgeyolo.nn.conv import ConvBnAct, set_batch_norm
from edgeyolo.nn.reorg import ReorgConv
from edgeyolo.nn.spp import Sppf
from edgeyolo.spec.model import InputSpec, PointDecode
from edgeyolo.weights.pretrained import Names, Published

_STRIDES = (8, 16, 32)
_CHS = (64, 128, 256, 512, 1024)
_BLOCKS = (3, 9, 9, 3)
_NECK_BLOCKS = 3
_HEAD_CHS = 256
_PRIOR = 0.01  # of objectness and class, as they start
_SCHEDULE_EPOCHS, _L1_EPOCHS = 300, 15


@dataclass(frozen=True)
class YoloxConfig:
    """One model of the family.

    Attributes:
        depth, width: multipliers of the numbers of blocks and channels of size l.
        depthwise: whether 3x3 convolutions are of each channel alone.
    """

    name: str
    depth: float
    width: float
    depthwise: bool = False
    num_classes: int = 80
    activation: str = "silu"
    image_size: int = 640

    def chs(self, base: int) -> int:
        """Channels at this width."""
        return int(base * self.width)

    def blocks(self, base: int) -> int:
        """Bottlenecks at this depth: of a stage a multiple of what a stage of three has."""
        return base // _NECK_BLOCKS * max(1, round(_NECK_BLOCKS * self.depth))


VARIANTS: dict[str, YoloxConfig] = {
    config.name: config
    for config in (
        YoloxConfig("yolox-nano", 0.33, 0.25, depthwise=True, image_size=416),
        YoloxConfig("yolox-tiny", 0.33, 0.375, image_size=416),
        YoloxConfig("yolox-s", 0.33, 0.50),
        YoloxConfig("yolox-m", 0.67, 0.75),
        YoloxConfig("yolox-l", 1.00, 1.00),
        YoloxConfig("yolox-x", 1.33, 1.25),
    )
}


def _conv3x3(config: YoloxConfig, in_chs: int, out_chs: int, stride: int = 1) -> nn.Module:
    kind = DepthwiseConv if config.depthwise else ConvBnAct
    return kind(in_chs, out_chs, 3, stride, activation=config.activation)


def _c3(config: YoloxConfig, in_chs: int, out_chs: int, count: int, *, shortcut: bool = False) -> C3:
    return C3(
        in_chs,
        out_chs,
        config.blocks(count),
        shortcut=shortcut,
        activation=config.activation,
        depthwise=config.depthwise,
    )


class Backbone(nn.Module):
    """Pixels to channels, then four stages that halve the picture each; the last one is pooled in a pyramid."""

    def __init__(self, config: YoloxConfig) -> None:
        super().__init__()
        chs = [config.chs(base) for base in _CHS]
        self.stem = ReorgConv(3, chs[0], activation=config.activation)
        self.down_4, self.down_8, self.down_16, self.down_32 = (
            _conv3x3(config, in_chs, out_chs, 2) for in_chs, out_chs in pairwise(chs)
        )
        self.pool = Sppf(chs[4], chs[4], activation=config.activation)
        self.stage_4, self.stage_8, self.stage_16 = (
            _c3(config, width, width, count, shortcut=True) for width, count in zip(chs[1:4], _BLOCKS, strict=False)
        )
        self.stage_32 = _c3(config, chs[4], chs[4], _BLOCKS[3])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, H, W) -> features of strides 8, 16 and 32."""
        at_8 = self.stage_8(self.down_8(self.stage_4(self.down_4(self.stem(images)))))
        at_16 = self.stage_16(self.down_16(at_8))
        return at_8, at_16, self.stage_32(self.pool(self.down_32(at_16)))


class Neck(nn.Module):
    """Coarse features flow down to the finest level, then back up."""

    def __init__(self, config: YoloxConfig) -> None:
        super().__init__()
        at_8, at_16, at_32 = (config.chs(base) for base in _CHS[2:])
        self.upsample = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.lateral_32 = ConvBnAct(at_32, at_16, activation=config.activation)
        self.top_16 = _c3(config, 2 * at_16, at_16, _NECK_BLOCKS)
        self.lateral_16 = ConvBnAct(at_16, at_8, activation=config.activation)
        self.top_8 = _c3(config, 2 * at_8, at_8, _NECK_BLOCKS)
        self.down_8 = _conv3x3(config, at_8, at_8, 2)
        self.bottom_16 = _c3(config, 2 * at_8, at_16, _NECK_BLOCKS)
        self.down_16 = _conv3x3(config, at_16, at_16, 2)
        self.bottom_32 = _c3(config, 2 * at_16, at_32, _NECK_BLOCKS)

    def forward(self, features: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Features of strides 8, 16 and 32 -> the same, mixed."""
        at_8, at_16, at_32 = features
        coarse = self.lateral_32(at_32)
        middle = self.lateral_16(self.top_16(torch.cat((self.upsample(coarse), at_16), dim=1)))
        out_8 = self.top_8(torch.cat((self.upsample(middle), at_8), dim=1))
        out_16 = self.bottom_16(torch.cat((self.down_8(out_8), middle), dim=1))
        out_32 = self.bottom_32(torch.cat((self.down_16(out_16), coarse), dim=1))
        return out_8, out_16, out_32


class LevelHead(nn.Module):
    """The head of one level: a 1x1 convolution, then two 3x3 convolutions for classes and two for boxes."""

    def __init__(self, in_chs: int, config: YoloxConfig) -> None:
        super().__init__()
        chs = config.chs(_HEAD_CHS)
        self.entry = ConvBnAct(in_chs, chs, activation=config.activation)
        self.classes = nn.Sequential(_conv3x3(config, chs, chs), _conv3x3(config, chs, chs))
        self.boxes = nn.Sequential(_conv3x3(config, chs, chs), _conv3x3(config, chs, chs))
        self.class_logits = nn.Conv2d(chs, config.num_classes, 1)
        self.objectness = nn.Conv2d(chs, 1, 1)
        self.box_values = nn.Conv2d(chs, 4, 1)
        for conv in (self.class_logits, self.objectness):
            assert conv.bias is not None
            nn.init.constant_(conv.bias, -math.log((1 - _PRIOR) / _PRIOR))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, h, w) -> class logits (B, K, h, w), objectness (B, 1, h, w), box values (B, 4, h, w)."""
        x = self.entry(x)
        boxes = self.boxes(x)
        return self.class_logits(self.classes(x)), self.objectness(boxes), self.box_values(boxes)


class Network(DetectorNetwork):
    """(B, 3, H, W) -> per level, finest first: class logits, objectness, box values, as `PointDecode` says."""

    config: YoloxConfig
    decode: PointDecode
    strides: ClassVar[tuple[int, ...]] = _STRIDES

    def __init__(self, config: YoloxConfig) -> None:
        super().__init__()
        self.config = config
        self.decode = PointDecode(strides=_STRIDES, box="centre", objectness=True)
        self.backbone = Backbone(config)
        self.neck = Neck(config)
        self.head_8, self.head_16, self.head_32 = (LevelHead(config.chs(base), config) for base in _CHS[2:])
        set_batch_norm(self, eps=1e-3, momentum=0.03)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> nine maps; H and W multiples of 32."""
        out_8, out_16, out_32 = self.neck(self.backbone(images))
        return [*self.head_8(out_8), *self.head_16(out_16), *self.head_32(out_32)]

    def make_input_spec(self, image_hw: tuple[int, int]) -> InputSpec:
        """As `DetectorNetwork` has it, but BGR in 0-255, and the picture in the top left corner."""
        spec = super().make_input_spec(image_hw)
        unit = (1 / 255,) * 3
        return structs.replace(spec, colour_order="bgr", std=unit, letterbox_alignment="top-left")

    def make_criterion(self, *, epochs: int | None = None) -> SimOtaCriterion:
        """Its loss.

        Args:
            epochs: of the training it is for; the L1 loss takes the share of them at the end that it takes of the
                paper's schedule, at least one. None for the paper's schedule.
        """
        epochs = epochs or _SCHEDULE_EPOCHS
        last = max(1, round(_L1_EPOCHS * epochs / _SCHEDULE_EPOCHS))
        return SimOtaCriterion(self.decode, self.config.num_classes, l1_from_epoch=epochs - last)


# What the YOLOX repository calls the modules.
_OFFICIAL = {
    "backbone.stem.conv": "backbone.backbone.stem.conv",
    "backbone.down_4": "backbone.backbone.dark2.0",
    "backbone.stage_4": "backbone.backbone.dark2.1",
    "backbone.down_8": "backbone.backbone.dark3.0",
    "backbone.stage_8": "backbone.backbone.dark3.1",
    "backbone.down_16": "backbone.backbone.dark4.0",
    "backbone.stage_16": "backbone.backbone.dark4.1",
    "backbone.down_32": "backbone.backbone.dark5.0",
    "backbone.pool": "backbone.backbone.dark5.1",
    "backbone.stage_32": "backbone.backbone.dark5.2",
    "neck.lateral_32": "backbone.lateral_conv0",
    "neck.top_16": "backbone.C3_p4",
    "neck.lateral_16": "backbone.reduce_conv1",
    "neck.top_8": "backbone.C3_p3",
    "neck.down_8": "backbone.bu_conv2",
    "neck.bottom_16": "backbone.C3_n3",
    "neck.down_16": "backbone.bu_conv1",
    "neck.bottom_32": "backbone.C3_n4",
}
_OFFICIAL_HEAD = {
    "entry": "stems.{}",
    "classes.0": "cls_convs.{}.0",
    "classes.1": "cls_convs.{}.1",
    "boxes.0": "reg_convs.{}.0",
    "boxes.1": "reg_convs.{}.1",
    "class_logits": "cls_preds.{}",
    "objectness": "obj_preds.{}",
    "box_values": "reg_preds.{}",
}
_PARTS = {"depth": "dconv", "point": "pconv"}


def _names(config: YoloxConfig, _tensors: Mapping[str, Tensor], _where: object) -> Names:
    modules = dict(_OFFICIAL)
    for level, stride in enumerate(_STRIDES):
        for here, there in _OFFICIAL_HEAD.items():
            modules[f"head_{stride}.{here}"] = f"head.{there.format(level)}"
    for here, there in list(modules.items()):
        if ".stage_" in here or here.startswith(("neck.top", "neck.bottom")):
            modules |= {f"{here}.{part}": f"{there}.conv{i}" for i, part in enumerate(("entry", "skip", "join"), 1)}
            for i in range(config.blocks(max(_BLOCKS))):
                block = f"{there}.m.{i}"
                modules |= {f"{here}.blocks.{i}.entry": f"{block}.conv1", f"{here}.blocks.{i}.exit": f"{block}.conv2"}
        if here == "backbone.pool":
            modules |= {f"{here}.entry": f"{there}.conv1", f"{here}.join": f"{there}.conv2"}
    if config.depthwise:
        modules |= {
            f"{here}.{ours}": f"{there}.{theirs}" for here, there in modules.items() for ours, theirs in _PARTS.items()
        }
    return Names(modules=modules)


def _count_classes(_config: YoloxConfig, tensors: Mapping[str, Tensor]) -> int | None:
    weight = tensors.get("head.cls_preds.0.weight")
    return None if weight is None or weight.dim() == 0 else weight.shape[0]


PUBLISHED = Published(
    source="the YOLOX repository",
    licence="Apache-2.0",
    variants=tuple(VARIANTS),
    outputs=".class_logits.",
    count_classes=_count_classes,
    names=_names,
)
