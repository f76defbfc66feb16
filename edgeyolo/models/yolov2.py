"""YOLOv2: Darknet-19, one level of anchors found by k-means, a finer map passed through, classes as a softmax.

Paper: YOLO9000, arXiv 1612.08242. `yolov2-tiny` is the authors' small one, without the finer map. `yolov2-nano` is
ours: Darknet-19 with a quarter of the channels, for small boards and for comparisons of what each generation was worth.

Differs: `PassthroughConv` as said there; objectness starts at one in ten. `--auto-anchor` finds anchors of a data set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgeyolo.criteria.region import RegionCriterion
from edgeyolo.heads import Anchors
from edgeyolo.models._network import DetectorNetwork
from edgeyolo.nn.conv import ConvBnAct
from edgeyolo.nn.reorg import PassthroughConv
from edgeyolo.spec.model import AnchorDecode

_STRIDE = 32
_ANCHORS: Anchors = (
    ((18.3, 21.7), (60.0, 66.0), (106.8, 175.2), (252.3, 112.9), (312.7, 293.4)),
)  # found by the authors on COCO, at 416
_WARM_SHARE = 0.005  # of a training
_START = 0.1  # objectness, at first

# Rows are stages, each behind the pooling of the one before; of a stage channels of its 3x3 and, between them, 1x1
# convolutions.
_DARKNET_19 = ((32,), (64,), (128, 64, 128), (256, 128, 256), (512, 256, 512, 256, 512), (1024, 512, 1024, 512, 1024))
_TINY = ((16,), (32,), (64,), (128,), (256,), (512, 1024))


@dataclass(frozen=True)
class Yolov2Config:
    """One model of the family.

    Attributes:
        stages: channels of the convolutions of each stage.
        head_chs: of the convolutions behind the last stage.
        fine_chs: of the finer map that is passed through; 0 for none.
        alternating: whether every second convolution of a stage is 1x1.
        width: multiplier of all of these.
        anchors_wh: of the one level, input pixels.
    """

    name: str
    stages: tuple[tuple[int, ...], ...] = _DARKNET_19
    head_chs: tuple[int, ...] = (1024, 1024, 1024)
    fine_chs: int = 64
    alternating: bool = True
    width: float = 1.0
    num_classes: int = 80
    activation: str = "leaky_relu"
    image_size: int = 416
    anchors_wh: Anchors = _ANCHORS
    learning_rate: float = 2e-3

    def chs(self, base: int) -> int:
        """Channels at this width."""
        return max(1, round(base * self.width))


VARIANTS: dict[str, Yolov2Config] = {
    config.name: config
    for config in (
        Yolov2Config("yolov2-nano", width=0.25),
        Yolov2Config("yolov2-tiny", stages=_TINY, head_chs=(512,), fine_chs=0, alternating=False),
        Yolov2Config("yolov2"),
    )
}


class Backbone(nn.Module):
    """Stages of convolutions, a pooling between them."""

    def __init__(self, config: Yolov2Config) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2, 2)
        self.stages = nn.ModuleList()
        chs = 3
        for row in config.stages:
            layers = []
            for position, base in enumerate(row):
                size = 1 if config.alternating and position % 2 else 3
                layers.append(ConvBnAct(chs, config.chs(base), size, activation=config.activation))
                chs = config.chs(base)
            self.stages.append(nn.Sequential(*layers))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> features of strides 16 and 32."""
        x = finer = images
        for number, stage in enumerate(self.stages):
            finer, x = x, stage(self.pool(x) if number else x)
        return finer, x


class Neck(nn.Module):
    """Convolutions of the coarse map; before the last one, the finer map joins."""

    def __init__(self, config: Yolov2Config) -> None:
        super().__init__()
        chs, activation = config.chs(config.stages[-1][-1]), config.activation
        *first, last = (config.chs(base) for base in config.head_chs)
        layers = []
        for out_chs in first:
            layers.append(ConvBnAct(chs, out_chs, 3, activation=activation))
            chs = out_chs
        self.convs = nn.Sequential(*layers)
        fine_chs = config.chs(config.fine_chs) if config.fine_chs else 0
        if fine_chs:
            self.squeeze = ConvBnAct(config.chs(config.stages[-2][-1]), fine_chs, activation=activation)
            self.join: nn.Module = PassthroughConv(fine_chs, chs, last, activation=activation)
        else:
            self.join = ConvBnAct(chs, last, 3, activation=activation)
        self.passes = fine_chs > 0

    def forward(self, features: tuple[Tensor, Tensor]) -> list[Tensor]:
        """Features of strides 16 and 32 -> one map of stride 32."""
        finer, coarse = features
        coarse = self.convs(coarse)
        return [self.join(self.squeeze(finer), coarse) if self.passes else self.join(coarse)]


class Network(DetectorNetwork):
    """(B, 3, H, W) -> one map, as `AnchorDecode` says, of softmax classes."""

    config: Yolov2Config
    decode: AnchorDecode
    strides: tuple[int, ...] = (_STRIDE,)

    def __init__(self, config: Yolov2Config) -> None:
        super().__init__()
        self.config = config
        self.decode = AnchorDecode(
            strides=self.strides, anchors_wh=config.anchors_wh, size="exp", reach=(1.0,), classes="softmax"
        )
        self.backbone = Backbone(config)
        self.neck = Neck(config)
        anchors = len(config.anchors_wh[0])
        self.output = nn.Conv2d(config.chs(config.head_chs[-1]), anchors * (5 + config.num_classes), 1)
        assert self.output.bias is not None
        with torch.no_grad():
            self.output.bias.view(anchors, -1)[:, 4] = math.log(_START / (1 - _START))

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> one map; H and W multiples of 32."""
        return [self.output(self.neck(self.backbone(images))[0])]

    def make_criterion(self, *, epochs: int | None = None) -> RegionCriterion:
        """Its loss.

        Args:
            epochs: of the training it is for; boxes are drawn to their anchors in the first of them.
        """
        warm = max(1, round(_WARM_SHARE * (epochs or 1)))
        return RegionCriterion(self.decode, self.config.num_classes, warm_epochs=warm)
