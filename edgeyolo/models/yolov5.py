"""YOLOv5: CSPDarknet of C3 stages with SPPF, a pyramid down and up, an anchor head on three levels, or four (P6).

`yolov5s-tr` is the small one with a transformer encoder in the last stage (C3TR); no weights are published for it.

There is no paper; structure, counts, anchors and loss weights are facts of release 7.0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from edgeyolo.criteria.neighbours import NeighbourCriterion
from edgeyolo.heads import Anchors
from edgeyolo.models._network import DetectorNetwork, start_anchor_bias
from edgeyolo.nn.c3 import C3
from edgeyolo.nn.conv import ConvBnAct, set_batch_norm
from edgeyolo.nn.spp import Sppf
from edgeyolo.nn.transformer import C3Transformer
from edgeyolo.spec.errors import CheckpointError
from edgeyolo.spec.model import AnchorDecode
from edgeyolo.weights.pretrained import Names, Published

_NECK_BLOCKS = 3
_P5_CHS, _P5_BLOCKS = (64, 128, 256, 512, 1024), (3, 6, 9, 3)
_P6_CHS, _P6_BLOCKS = (64, 128, 256, 512, 768, 1024), (3, 6, 9, 3, 3)
_P5_ANCHORS: Anchors = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)
_P6_ANCHORS: Anchors = (
    ((19, 27), (44, 40), (38, 94)),
    ((96, 68), (86, 152), (180, 137)),
    ((140, 301), (303, 264), (238, 542)),
    ((436, 615), (739, 380), (925, 792)),
)


@dataclass(frozen=True)
class Yolov5Config:
    """One model of the family.

    Attributes:
        depth, width: multipliers of the numbers of blocks and channels.
        stem_and_stages: channels of the stem and of each stage, before the multiplication.
        stage_blocks: bottlenecks of each stage, likewise.
        anchors_wh: per level, finest first, input pixels; the last stages have one level each.
        transformer: whether a transformer encoder stands for the bottlenecks of the last stage.
    """

    name: str
    depth: float
    width: float
    num_classes: int = 80
    activation: str = "silu"
    image_size: int = 640
    stem_and_stages: tuple[int, ...] = _P5_CHS
    stage_blocks: tuple[int, ...] = _P5_BLOCKS
    anchors_wh: Anchors = _P5_ANCHORS
    transformer: bool = False
    learning_rate: float = 2e-3

    @property
    def widths(self) -> list[int]:
        """Channels of the stem and the stages at this width, multiples of eight."""
        return [8 * math.ceil(base * self.width / 8) for base in self.stem_and_stages]

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the levels, input pixels."""
        return tuple(8 << level for level in range(len(self.anchors_wh)))

    def blocks(self, base: int) -> int:
        """Bottlenecks at this depth."""
        return max(1, round(base * self.depth))


def _p6(name: str, depth: float, width: float) -> Yolov5Config:
    return Yolov5Config(
        name,
        depth,
        width,
        image_size=1280,
        stem_and_stages=_P6_CHS,
        stage_blocks=_P6_BLOCKS,
        anchors_wh=_P6_ANCHORS,
    )


_SIZES = {"n": (0.33, 0.25), "s": (0.33, 0.50), "m": (0.67, 0.75), "l": (1.00, 1.00), "x": (1.33, 1.25)}
VARIANTS: dict[str, Yolov5Config] = {
    **{f"yolov5{size}": Yolov5Config(f"yolov5{size}", *scale) for size, scale in _SIZES.items()},
    **{f"yolov5{size}6": _p6(f"yolov5{size}6", *scale) for size, scale in _SIZES.items()},
    "yolov5s-tr": Yolov5Config("yolov5s-tr", *_SIZES["s"], transformer=True),
}


class Backbone(nn.Module):
    """A 6x6 convolution, then stages that halve the picture each; the last one is pooled in a pyramid."""

    def __init__(self, config: Yolov5Config) -> None:
        super().__init__()
        chs, activation = config.widths, config.activation
        self.stem = ConvBnAct(3, chs[0], 6, 2, padding=2, activation=activation)
        self.stages = nn.ModuleList()
        for (in_chs, out_chs), base in zip(pairwise(chs), config.stage_blocks, strict=True):
            down, count = ConvBnAct(in_chs, out_chs, 3, 2, activation=activation), config.blocks(base)
            stage: nn.Module = C3(out_chs, out_chs, count, shortcut=True, activation=activation)
            if config.transformer and len(self.stages) == len(chs) - 2:
                stage = C3Transformer(out_chs, out_chs, count, activation=activation)
            self.stages.append(nn.Sequential(down, stage))
        self.pool = Sppf(chs[-1], chs[-1], activation=activation)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> features of strides 8, 16 ..., finest first."""
        x = self.stem(images)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return [*features[1:-1], self.pool(x)]


class Neck(nn.Module):
    """Coarse features flow down to the finest level, then back up; modules of each way stand in its order."""

    def __init__(self, config: Yolov5Config) -> None:
        super().__init__()
        chs, activation = config.widths[-len(config.anchors_wh) :], config.activation
        steps = list(pairwise(chs))  # (finer, coarser)

        def mix(in_chs: int, out_chs: int) -> C3:
            return C3(in_chs, out_chs, config.blocks(_NECK_BLOCKS), shortcut=False, activation=activation)

        self.upsample = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.reduces = nn.ModuleList(ConvBnAct(coarse, fine, activation=activation) for fine, coarse in steps[::-1])
        self.tops = nn.ModuleList(mix(2 * fine, fine) for fine, _ in steps[::-1])
        self.downs = nn.ModuleList(ConvBnAct(fine, fine, 3, 2, activation=activation) for fine, _ in steps)
        self.bottoms = nn.ModuleList(mix(2 * fine, coarse) for fine, coarse in steps)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Features, finest first -> the same, mixed."""
        x, laterals = features[-1], []
        for reduce, top, feature in zip(self.reduces, self.tops, features[-2::-1], strict=True):
            laterals.append(reduce(x))
            x = top(torch.cat((self.upsample(laterals[-1]), feature), dim=1))
        outs = [x]
        for down, bottom, lateral in zip(self.downs, self.bottoms, laterals[::-1], strict=True):
            outs.append(bottom(torch.cat((down(outs[-1]), lateral), dim=1)))
        return outs


class Network(DetectorNetwork):
    """(B, 3, H, W) -> (B, anchors x (5 + K), H/s, W/s) per level, finest first."""

    config: Yolov5Config
    decode: AnchorDecode

    def __init__(self, config: Yolov5Config) -> None:
        super().__init__()
        self.config = config
        self.strides = config.strides
        self.decode = AnchorDecode(strides=self.strides, anchors_wh=config.anchors_wh)
        self.backbone = Backbone(config)
        self.neck = Neck(config)
        self.outputs = nn.ModuleList()
        for anchors, chs, stride in zip(
            config.anchors_wh, config.widths[-len(self.strides) :], self.strides, strict=True
        ):
            output = nn.Conv2d(chs, len(anchors) * (5 + config.num_classes), 1)
            start_anchor_bias(output, stride, config.num_classes)
            self.outputs.append(output)
        set_batch_norm(self, eps=1e-3, momentum=0.03)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> one map per level; H and W multiples of the coarsest stride."""
        maps = self.neck(self.backbone(images))
        return [output(x) for output, x in zip(self.outputs, maps, strict=True)]

    def make_criterion(self, *, epochs: int | None = None) -> NeighbourCriterion:
        """Its loss; the same in every epoch, however many there are."""
        return NeighbourCriterion(self.decode, self.config.num_classes)


def _names(config: Yolov5Config, tensors: Mapping[str, Tensor], where: object) -> Names:
    """Rows of the authors' configuration; rows without weights (up-sampling, concatenation) have a number too."""
    modules = {"backbone.stem": "model.0"}
    row = 1
    for position, count in enumerate(config.stage_blocks):
        modules[f"backbone.stages.{position}.0"] = f"model.{row}"
        modules |= _c3(f"backbone.stages.{position}.1", f"model.{row + 1}", config.blocks(count))
        row += 2
    modules |= {"backbone.pool.entry": f"model.{row}.cv1", "backbone.pool.join": f"model.{row}.cv2"}
    row += 1
    steps = range(len(config.anchors_wh) - 1)
    for position in steps:  # convolution, up-sampling, concatenation, stage
        modules[f"neck.reduces.{position}"] = f"model.{row}"
        modules |= _c3(f"neck.tops.{position}", f"model.{row + 3}", config.blocks(_NECK_BLOCKS))
        row += 4
    for position in steps:  # convolution, concatenation, stage
        modules[f"neck.downs.{position}"] = f"model.{row}"
        modules |= _c3(f"neck.bottoms.{position}", f"model.{row + 2}", config.blocks(_NECK_BLOCKS))
        row += 3
    modules["outputs"] = f"model.{row}.m"
    _check_anchors(config, tensors.get(f"model.{row}.anchors"), where)
    return Names(modules=modules, ignored=(".anchors", ".anchor_grid"))


def _check_anchors(config: Yolov5Config, theirs: Tensor | None, where: object) -> None:
    """Raise CheckpointError where the file's anchors, which it has in strides, are others: its boxes would be wrong."""
    ours = torch.tensor(config.anchors_wh) / torch.tensor(config.strides)[:, None, None]
    if theirs is None or theirs.shape != ours.shape or torch.allclose(theirs.float(), ours, rtol=2e-3):
        return
    raise CheckpointError(
        f"was trained with other anchors than {config.name}",
        where=where,
        hint="Its boxes would be wrong; train without automatic anchors (--noautoanchor there)",
    )


def _c3(here: str, there: str, count: int) -> dict[str, str]:
    modules = {f"{here}.{part}": f"{there}.cv{i}" for i, part in enumerate(("entry", "skip", "join"), 1)}
    for i in range(count):
        block = f"{there}.m.{i}"
        modules |= {f"{here}.blocks.{i}.entry": f"{block}.cv1", f"{here}.blocks.{i}.exit": f"{block}.cv2"}
    return modules


def _count_classes(config: Yolov5Config, tensors: Mapping[str, Tensor]) -> int | None:
    rows = len(config.stage_blocks) * 2 + 2 + 7 * (len(config.anchors_wh) - 1)
    weight = tensors.get(f"model.{rows}.m.0.weight")
    if weight is None or weight.dim() == 0:
        return None
    classes, rest = divmod(weight.shape[0], len(config.anchors_wh[0]))
    return classes - 5 if rest == 0 and classes > 5 else None


PUBLISHED = Published(
    source="ultralytics",
    licence="AGPL-3.0",
    variants=tuple(name for name, config in VARIANTS.items() if not config.transformer),
    outputs="outputs.",
    count_classes=_count_classes,
    names=_names,
)
