"""YOLOv1: a picture is cut into a grid, and each cell answers for the object in its middle. Historical.

Paper: YOLO, arXiv 1506.02640. It is here to see where it all comes from and what was gained since (docs/history.md): it
trains, folds, quantizes and runs on every board, but a cell has one object, and boxes are far from as tight as any
later model's. Use another for work.

`yolov1` is figure 3 of the paper, `yolov1-fast` its Fast YOLO. `yolov1-nano` is ours: half of its channels, and a grid
twice as fine, for small boards and comparisons.

Differs: convolutions on the grid stand for the fully connected layers, so that any size of picture will do; all hidden
convolutions have batch norm, as in the authors' later configurations; no dropout.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgeyolo.criteria.grid import GridCriterion
from edgeyolo.models._network import DetectorNetwork
from edgeyolo.nn.conv import ConvBnAct
from edgeyolo.spec.model import GridDecode

_START_SIDE = 0.3  # root of the share of the picture that a box's side starts with
_POOL = (0, 0, 0)  # in the place of a convolution

# (channels, side of the kernel, stride) of each convolution.
_FIGURE_3 = (
    *((64, 7, 2), _POOL, (192, 3, 1), _POOL, (128, 1, 1), (256, 3, 1), (256, 1, 1), (512, 3, 1), _POOL),
    *(((256, 1, 1), (512, 3, 1)) * 4),
    *((512, 1, 1), (1024, 3, 1), _POOL),
    *(((512, 1, 1), (1024, 3, 1)) * 2),
    *((1024, 3, 1), (1024, 3, 2), (1024, 3, 1), (1024, 3, 1)),
)
_FAST = (
    *((16, 3, 1), _POOL, (32, 3, 1), _POOL, (64, 3, 1), _POOL, (128, 3, 1), _POOL, (256, 3, 1), _POOL),
    *((512, 3, 1), _POOL, (1024, 3, 1)),
)
_FINER = tuple(layer for i, layer in enumerate(_FAST) if i != len(_FAST) - 2)  # without the last pooling


@dataclass(frozen=True)
class Yolov1Config:
    """One model of the family.

    Attributes:
        layers: of the backbone, each (channels, side of the kernel, stride), or a pooling.
        stride: input pixels per cell of the grid.
        local_chs: of the convolution behind it, in the place of the connected layer.
        boxes: of each cell.
        width: multiplier of the channels.
    """

    name: str
    layers: tuple[tuple[int, int, int], ...]
    stride: int = 64
    local_chs: int = 256
    boxes: int = 2
    width: float = 1.0
    num_classes: int = 80
    activation: str = "leaky_relu"
    image_size: int = 448
    learning_rate: float = 4e-3

    def chs(self, base: int) -> int:
        """Channels at this width."""
        return max(1, round(base * self.width))


VARIANTS: dict[str, Yolov1Config] = {
    config.name: config
    for config in (
        Yolov1Config("yolov1-nano", _FINER, stride=32, width=0.5),
        Yolov1Config("yolov1-fast", _FAST),
        Yolov1Config("yolov1", _FIGURE_3),
    )
}


class Backbone(nn.Module):
    """Convolutions and poolings in a row."""

    def __init__(self, config: Yolov1Config) -> None:
        super().__init__()
        chs = 3
        self.layers = nn.Sequential()
        for layer in config.layers:
            if layer == _POOL:
                self.layers.append(nn.MaxPool2d(2, 2))
                continue
            base, size, stride = layer
            self.layers.append(ConvBnAct(chs, config.chs(base), size, stride, activation=config.activation))
            chs = config.chs(base)
        self.out_chs = chs

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> features of the grid, one map."""
        return [self.layers(images)]


class Neck(nn.Module):
    """What a cell says after a look at its neighbours."""

    def __init__(self, in_chs: int, config: Yolov1Config) -> None:
        super().__init__()
        self.local = ConvBnAct(in_chs, config.chs(config.local_chs), 3, activation=config.activation)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Features of the grid -> the map that the output reads."""
        return [self.local(features[0])]


class Network(DetectorNetwork):
    """(B, 3, H, W) -> one map, as `GridDecode` says."""

    config: Yolov1Config
    decode: GridDecode

    def __init__(self, config: Yolov1Config) -> None:
        super().__init__()
        self.config = config
        self.strides = (config.stride,)
        self.decode = GridDecode(strides=self.strides, boxes=config.boxes)
        self.backbone = Backbone(config)
        self.neck = Neck(self.backbone.out_chs, config)
        self.output = nn.Conv2d(config.chs(config.local_chs), 5 * config.boxes + config.num_classes, 1)
        self._start()

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> one map; H and W multiples of the grid's cells."""
        return [self.output(self.neck(self.backbone(images))[0])]

    def make_criterion(self, *, epochs: int | None = None) -> GridCriterion:
        """Its loss, which is the same in every epoch."""
        return GridCriterion(self.decode, self.config.num_classes)

    def _start(self) -> None:
        """Boxes in the middle of their cells, of a middling size; no confidence, and all classes alike."""
        assert self.output.bias is not None
        with torch.no_grad():
            boxes = self.output.bias[: 5 * self.config.boxes].view(-1, 5)
            boxes[:, :2], boxes[:, 2:4], boxes[:, 4] = 0.5, _START_SIDE, 0.0
            self.output.bias[5 * self.config.boxes :] = 1 / self.config.num_classes
