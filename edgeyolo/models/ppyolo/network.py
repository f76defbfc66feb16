"""Backbone, neck and one output convolution per level."""

from __future__ import annotations

import math

import torch
from msgspec import structs
from torch import Tensor, nn

from edgeyolo.criteria.ppyolo import PpYoloCriterion, PpYoloWeights
from edgeyolo.models._network import DetectorNetwork
from edgeyolo.models.ppyolo.config import PpYoloConfig
from edgeyolo.models.ppyolo.necks import make_neck, neck_out_chs
from edgeyolo.nn.mobilenet import MobileNetV3
from edgeyolo.nn.resnet_vd import ResNetVd
from edgeyolo.spec.model import AnchorDecode, InputSpec

_REACH = 1.05
_USUAL_OBJECTS, _USUAL_SIDE = 8, 640  # what objectness starts from: as many on a picture of this size
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _make_backbone(config: PpYoloConfig) -> MobileNetV3 | ResNetVd:
    levels = len(config.anchors_wh)
    if config.backbone.startswith("mobilenet"):
        return MobileNetV3(config.backbone.removeprefix("mobilenet-"), config.width, levels)
    return ResNetVd(
        config.stem_chs,
        config.stage_chs,
        config.stage_blocks,
        bottleneck=config.backbone == "resnet-bottleneck",
        levels=levels,
        deformable=config.deformable,
    )


class Network(DetectorNetwork):
    """(B, 3, H, W) -> one map per level, finest first, as `AnchorDecode` says."""

    config: PpYoloConfig
    decode: AnchorDecode

    def __init__(self, config: PpYoloConfig) -> None:
        super().__init__()
        self.config = config
        self.strides = config.strides
        self.decode = AnchorDecode(
            strides=config.strides,
            anchors_wh=config.anchors_wh,
            size="exp",
            reach=(_REACH,) * len(config.strides),
            iou_power=config.iou_power,
        )
        self.backbone = _make_backbone(config)
        self.neck = make_neck(config, self.backbone.out_chs)
        self.outputs = nn.ModuleList()
        for chs, anchors, stride in zip(neck_out_chs(config), config.anchors_wh, config.strides, strict=True):
            conv = nn.Conv2d(chs, len(anchors) * (5 + config.num_classes + (config.iou_power > 0)), 1)
            self._start_objectness(conv, len(anchors), stride)
            self.outputs.append(conv)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> a map for each level; H and W multiples of 32."""
        features = self.neck(self.backbone(images))
        return [output(here) for output, here in zip(self.outputs, features, strict=True)]

    def make_input_spec(self, image_hw: tuple[int, int]) -> InputSpec:
        """As `DetectorNetwork` has it, with ImageNet's mean and deviation."""
        return structs.replace(super().make_input_spec(image_hw), mean=_MEAN, std=_STD)

    def make_criterion(self, *, epochs: int | None = None) -> PpYoloCriterion:
        """Its loss, which is the same in every epoch."""
        weights = PpYoloWeights(ignore=self.config.ignore)
        return PpYoloCriterion(self.decode, self.config.num_classes, weights)

    def _start_objectness(self, conv: nn.Conv2d, anchors: int, stride: int) -> None:
        """Let nearly every prediction say at first that it answers for nothing, as nearly all do."""
        assert conv.bias is not None
        with torch.no_grad():
            rows = conv.bias[anchors if self.config.iou_power else 0 :].view(anchors, -1)
            rows[:, 4] = math.log(_USUAL_OBJECTS / (_USUAL_SIDE / stride) ** 2)
