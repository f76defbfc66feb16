"""YOLOv5 with attention: CBAM in the stages of the backbone, a level of stride 4, and a neck of its own.

A network that a survey of YOLO detectors prints layer by layer, in the large size: Focus stem, C3 stages with CBAM,
SPP, levels of strides 4 to 32, the third of which mixes in a BottleneckCSP. Source: YOLOv5 has no paper; CBAM, arXiv
1807.06521; Focus as in YOLOX, arXiv 2107.08430.

Differs: anchors are not printed there; those of stride 4 are half of YOLOv5's finest. SPP's pools are a chain of three.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from edgeyolo.criteria.neighbours import NeighbourCriterion
from edgeyolo.heads import Anchors
from edgeyolo.models._network import DetectorNetwork, start_anchor_bias
from edgeyolo.nn.c3 import C3
from edgeyolo.nn.cbam import CbamC3
from edgeyolo.nn.conv import ConvBnAct, set_batch_norm
from edgeyolo.nn.csp_bottleneck import CspBottleneck
from edgeyolo.nn.reorg import ReorgConv
from edgeyolo.nn.spp import Sppf
from edgeyolo.spec.model import AnchorDecode

_STRIDES = (4, 8, 16, 32)
_STAGE_BLOCKS = (3, 9, 9, 3)
_NECK_BLOCKS = 3
_CSP_LEVEL = 2  # whose stage on the way up is a BottleneckCSP


@dataclass(frozen=True)
class Yolov5CbamConfig:
    """One model of the family; channels per level, those of stride 4 first.

    Attributes:
        stem_chs, stage_chs: of the backbone.
        reduce_chs: of the convolutions on the way down, from each level but the finest.
        top_chs: of the stages on the way down, to each level but the coarsest.
        down_chs: of the convolutions on the way up, from each level but the coarsest.
        bottom_chs: of the stages on the way up, to each level but the finest.
        anchors_wh: per level, input pixels.
    """

    name: str
    num_classes: int = 80
    activation: str = "silu"
    image_size: int = 640
    stem_chs: int = 64
    stage_chs: tuple[int, ...] = (128, 256, 512, 1024)
    reduce_chs: tuple[int, ...] = (256, 512, 512)
    top_chs: tuple[int, ...] = (256, 256, 512)
    down_chs: tuple[int, ...] = (256, 256, 512)
    bottom_chs: tuple[int, ...] = (512, 512, 1024)
    anchors_wh: Anchors = (
        ((5, 6), (8, 15), (16, 11)),
        ((10, 13), (16, 30), (33, 23)),
        ((30, 61), (62, 45), (59, 119)),
        ((116, 90), (156, 198), (373, 326)),
    )
    learning_rate: float = 2e-3


VARIANTS = {"yolov5l-cbam": Yolov5CbamConfig("yolov5l-cbam")}


class Backbone(nn.Module):
    """A Focus stem, then stages that halve the picture each; the last one pools between its convolution and blocks."""

    def __init__(self, config: Yolov5CbamConfig) -> None:
        super().__init__()
        activation = config.activation
        self.stem = ReorgConv(3, config.stem_chs, activation=activation)
        self.stages = nn.ModuleList()
        steps = pairwise((config.stem_chs, *config.stage_chs))
        for stride, (in_chs, out_chs), count in zip(_STRIDES, steps, _STAGE_BLOCKS, strict=True):
            pools = [Sppf(out_chs, out_chs, activation=activation)] if stride == _STRIDES[-1] else []
            down = ConvBnAct(in_chs, out_chs, 3, 2, activation=activation)
            stage = CbamC3(out_chs, out_chs, count, shortcut=True, activation=activation)
            self.stages.append(nn.Sequential(down, *pools, stage))

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> features of strides 4, 8, 16 and 32."""
        x = self.stem(images)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class Neck(nn.Module):
    """Coarse features flow down to the finest level, then back up; modules of each way stand in its order."""

    def __init__(self, config: Yolov5CbamConfig) -> None:
        super().__init__()
        activation = config.activation
        self.upsample = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.reduces, self.tops, self.downs, self.bottoms = (nn.ModuleList() for _ in range(4))
        chs = config.stage_chs[-1]
        for level in range(len(_STRIDES) - 2, -1, -1):
            self.reduces.append(ConvBnAct(chs, config.reduce_chs[level], activation=activation))
            chs, joined = config.top_chs[level], config.reduce_chs[level] + config.stage_chs[level]
            self.tops.append(C3(joined, chs, _NECK_BLOCKS, shortcut=False, activation=activation))
        for level in range(1, len(_STRIDES)):
            self.downs.append(ConvBnAct(chs, config.down_chs[level - 1], 3, 2, activation=activation))
            chs, joined = config.bottom_chs[level - 1], config.down_chs[level - 1] + config.reduce_chs[level - 1]
            stage = CspBottleneck if level == _CSP_LEVEL else C3
            self.bottoms.append(stage(joined, chs, _NECK_BLOCKS, shortcut=False, activation=activation))

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

    config: Yolov5CbamConfig
    decode: AnchorDecode
    strides = _STRIDES

    def __init__(self, config: Yolov5CbamConfig) -> None:
        super().__init__()
        self.config = config
        self.decode = AnchorDecode(strides=_STRIDES, anchors_wh=config.anchors_wh)
        self.backbone = Backbone(config)
        self.neck = Neck(config)
        self.outputs = nn.ModuleList()
        level_chs = (config.top_chs[0], *config.bottom_chs)
        for anchors, chs, stride in zip(config.anchors_wh, level_chs, _STRIDES, strict=True):
            output = nn.Conv2d(chs, len(anchors) * (5 + config.num_classes), 1)
            start_anchor_bias(output, stride, config.num_classes)
            self.outputs.append(output)
        set_batch_norm(self, eps=1e-3, momentum=0.03)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> one map per level; H and W multiples of 32."""
        maps = self.neck(self.backbone(images))
        return [output(x) for output, x in zip(self.outputs, maps, strict=True)]

    def make_criterion(self, *, epochs: int | None = None) -> NeighbourCriterion:
        """Its loss; the same in every epoch, however many there are."""
        return NeighbourCriterion(self.decode, self.config.num_classes)
