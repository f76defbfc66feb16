"""YOLOv8: anchor-free, one point per cell, boxes as distributions; C2f stages, a decoupled head on three levels.

There is no paper; structure, counts and loss weights are facts of release 8.2. The class branch is two plain 3x3
convolutions (a later release made it depthwise: that is another model). Task-aligned assignment with CIoU as the
overlap, ten points for each object; cross-entropy of the classes, CIoU and distribution focal loss of the boxes.

Differs: a mean per picture, where the authors multiply the loss by the number of pictures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgeyolo.assigners.tal import TaskAlignedAssigner
from edgeyolo.criteria.tal import TalCriterion, TalWeights
from edgeyolo.losses.bce import quality_cross_entropy
from edgeyolo.losses.iou import ciou, clamped_ciou
from edgeyolo.models._network import DetectorNetwork
from edgeyolo.nn.c2f import C2f
from edgeyolo.nn.conv import ConvBnAct, set_batch_norm
from edgeyolo.nn.spp import Sppf
from edgeyolo.spec.model import DflDecode
from edgeyolo.weights.pretrained import Names, Published

_STRIDES = (8, 16, 32)
_CHS = (64, 128, 256, 512, 1024)
_BLOCKS = (3, 6, 6, 3)
_NECK_BLOCKS = 3
_OBJECTS = 5  # on a picture of 640 pixels, as the class scores start
_WEIGHTS = TalWeights(class_=0.5, iou=7.5, dfl=1.5)
_ASSIGNER = TaskAlignedAssigner(top_k=10, alpha=0.5, beta=6.0, overlap=clamped_ciou, contested="inside")


@dataclass(frozen=True)
class Yolov8Config:
    """One model of the family.

    Attributes:
        depth, width: multipliers of the numbers of blocks and channels.
        most_chs: the widest stage has at most so many, before the multiplication.
        bins: of each distance, 0 to bins - 1 strides.
    """

    name: str
    depth: float
    width: float
    most_chs: int
    num_classes: int = 80
    activation: str = "silu"
    image_size: int = 640
    bins: int = 16

    def chs(self, base: int) -> int:
        """Channels at this width, a multiple of eight."""
        return 8 * math.ceil(min(base, self.most_chs) * self.width / 8)

    def blocks(self, base: int) -> int:
        """Bottlenecks at this depth."""
        return max(1, round(base * self.depth))


VARIANTS: dict[str, Yolov8Config] = {
    config.name: config
    for config in (
        Yolov8Config("yolov8n", 0.33, 0.25, 1024),
        Yolov8Config("yolov8s", 0.33, 0.50, 1024),
        Yolov8Config("yolov8m", 0.67, 0.75, 768),
        Yolov8Config("yolov8l", 1.00, 1.00, 512),
        Yolov8Config("yolov8x", 1.00, 1.25, 512),
    )
}


class Backbone(nn.Module):
    """A convolution, then four stages that halve the picture each; the last one is pooled in a pyramid."""

    def __init__(self, config: Yolov8Config) -> None:
        super().__init__()
        activation = config.activation
        chs = [config.chs(base) for base in _CHS]
        self.stem = ConvBnAct(3, chs[0], 3, 2, activation=activation)
        stages = [
            nn.Sequential(
                ConvBnAct(in_chs, out_chs, 3, 2, activation=activation),
                C2f(out_chs, out_chs, config.blocks(count), shortcut=True, activation=activation),
            )
            for in_chs, out_chs, count in zip(chs, chs[1:], _BLOCKS, strict=False)
        ]
        self.stage_4, self.stage_8, self.stage_16, self.stage_32 = stages
        self.pool = Sppf(chs[4], chs[4], activation=activation)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, H, W) -> features of strides 8, 16 and 32."""
        at_8 = self.stage_8(self.stage_4(self.stem(images)))
        at_16 = self.stage_16(at_8)
        return at_8, at_16, self.pool(self.stage_32(at_16))


class Neck(nn.Module):
    """Coarse features flow down to the finest level, then back up."""

    def __init__(self, config: Yolov8Config) -> None:
        super().__init__()
        activation = config.activation
        at_8, at_16, at_32 = (config.chs(base) for base in _CHS[2:])

        def mix(in_chs: int, out_chs: int) -> C2f:
            return C2f(in_chs, out_chs, config.blocks(_NECK_BLOCKS), shortcut=False, activation=activation)

        self.upsample = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.top_16 = mix(at_32 + at_16, at_16)
        self.top_8 = mix(at_16 + at_8, at_8)
        self.down_8 = ConvBnAct(at_8, at_8, 3, 2, activation=activation)
        self.bottom_16 = mix(at_8 + at_16, at_16)
        self.down_16 = ConvBnAct(at_16, at_16, 3, 2, activation=activation)
        self.bottom_32 = mix(at_16 + at_32, at_32)

    def forward(self, features: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Features of strides 8, 16 and 32 -> the same, mixed."""
        at_8, at_16, at_32 = features
        top_16 = self.top_16(torch.cat((self.upsample(at_32), at_16), dim=1))
        out_8 = self.top_8(torch.cat((self.upsample(top_16), at_8), dim=1))
        out_16 = self.bottom_16(torch.cat((self.down_8(out_8), top_16), dim=1))
        out_32 = self.bottom_32(torch.cat((self.down_16(out_16), at_32), dim=1))
        return out_8, out_16, out_32


class LevelHead(nn.Module):
    """The head of one level: a branch for classes and one for boxes, each two 3x3 convolutions and a 1x1."""

    def __init__(self, chs: int, stride: int, config: Yolov8Config) -> None:
        super().__init__()
        finest_chs, classes = config.chs(_CHS[2]), config.num_classes
        class_chs = max(finest_chs, min(classes, 100))
        box_chs = max(16, finest_chs // 4, 4 * config.bins)
        self.classes = _branch(chs, class_chs, config.activation)
        self.boxes = _branch(chs, box_chs, config.activation)
        self.class_logits = nn.Conv2d(class_chs, classes, 1)
        self.box_logits = nn.Conv2d(box_chs, 4 * config.bins, 1)
        for conv, bias in (
            (self.class_logits, math.log(_OBJECTS / classes / (640 / stride) ** 2)),
            (self.box_logits, 1.0),
        ):
            assert conv.bias is not None
            nn.init.constant_(conv.bias, bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> class logits (B, K, h, w), box logits (B, 4 x bins, h, w)."""
        return self.class_logits(self.classes(x)), self.box_logits(self.boxes(x))


def _branch(in_chs: int, out_chs: int, activation: str) -> nn.Sequential:
    return nn.Sequential(
        ConvBnAct(in_chs, out_chs, 3, activation=activation), ConvBnAct(out_chs, out_chs, 3, activation=activation)
    )


class Network(DetectorNetwork):
    """(B, 3, H, W) -> per level, finest first: class logits (B, K, h, w), then box logits (B, 4 x bins, h, w)."""

    config: Yolov8Config
    decode: DflDecode
    strides: ClassVar[tuple[int, ...]] = _STRIDES

    def __init__(self, config: Yolov8Config) -> None:
        super().__init__()
        self.config = config
        self.decode = DflDecode(strides=_STRIDES, bins=config.bins)
        self.backbone = Backbone(config)
        self.neck = Neck(config)
        levels = zip(_CHS[2:], _STRIDES, strict=True)
        self.head_8, self.head_16, self.head_32 = (LevelHead(config.chs(c), stride, config) for c, stride in levels)
        set_batch_norm(self, eps=1e-3, momentum=0.03)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> six maps; H and W multiples of 32."""
        out_8, out_16, out_32 = self.neck(self.backbone(images))
        return [*self.head_8(out_8), *self.head_16(out_16), *self.head_32(out_32)]

    def make_criterion(self, *, epochs: int | None = None) -> TalCriterion:
        """Its loss; the same in every epoch, however many there are."""
        return TalCriterion(
            self.decode,
            self.config.num_classes,
            _WEIGHTS,
            assigner=_ASSIGNER,
            box_overlap=ciou,
            class_loss=quality_cross_entropy,
        )


# Rows of the authors' configuration; rows without weights (up-sampling, concatenation) have a number too.
_OFFICIAL_STAGES = {
    "backbone.stem": 0,
    "backbone.stage_4": 1,
    "backbone.stage_8": 3,
    "backbone.stage_16": 5,
    "backbone.stage_32": 7,
    "backbone.pool": 9,
    "neck.top_16": 12,
    "neck.top_8": 15,
    "neck.down_8": 16,
    "neck.bottom_16": 18,
    "neck.down_16": 19,
    "neck.bottom_32": 21,
}
_OFFICIAL_HEAD = "model.22"


def _names(config: Yolov8Config, _tensors: Mapping[str, Tensor], _where: object) -> Names:
    modules: dict[str, str] = {}
    for here, row in _OFFICIAL_STAGES.items():
        if ".stage_" in here:
            modules[f"{here}.0"] = f"model.{row}"
            modules |= _c2f(f"{here}.1", f"model.{row + 1}", config)
        elif here.startswith(("neck.top", "neck.bottom")):
            modules |= _c2f(here, f"model.{row}", config)
        elif here == "backbone.pool":
            modules |= {f"{here}.entry": f"model.{row}.cv1", f"{here}.join": f"model.{row}.cv2"}
        else:
            modules[here] = f"model.{row}"
    for level, stride in enumerate(_STRIDES):
        for branch, logits, there in (("classes", "class_logits", "cv3"), ("boxes", "box_logits", "cv2")):
            modules |= {f"head_{stride}.{branch}.{i}": f"{_OFFICIAL_HEAD}.{there}.{level}.{i}" for i in range(2)}
            modules[f"head_{stride}.{logits}"] = f"{_OFFICIAL_HEAD}.{there}.{level}.2"
    return Names(modules=modules, ignored=(".dfl.conv.weight",))


def _c2f(here: str, there: str, config: Yolov8Config) -> dict[str, str]:
    modules = {f"{here}.entry": f"{there}.cv1", f"{here}.join": f"{there}.cv2"}
    for i in range(config.blocks(max(_BLOCKS))):
        modules |= {
            f"{here}.blocks.{i}.{ours}": f"{there}.m.{i}.{n}" for ours, n in (("entry", "cv1"), ("exit", "cv2"))
        }
    return modules


def _count_classes(_config: Yolov8Config, tensors: Mapping[str, Tensor]) -> int | None:
    weight = tensors.get(f"{_OFFICIAL_HEAD}.cv3.0.2.weight")
    return None if weight is None or weight.dim() == 0 else weight.shape[0]


PUBLISHED = Published(
    source="ultralytics",
    licence="AGPL-3.0",
    variants=tuple(VARIANTS),
    outputs=".class",  # the width of the branch follows the number of classes too
    count_classes=_count_classes,
    names=_names,
)
