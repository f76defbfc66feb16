"""The models of the family."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from edgeyolo.heads import Anchors

_YOLOV3_ANCHORS: Anchors = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)
_TINY_ANCHORS: Anchors = (
    ((10, 15), (24, 36), (72, 42)),
    ((35, 87), (102, 96), (60, 170)),
    ((220, 125), (128, 222), (264, 266)),
)
_R18_ANCHORS: Anchors = (((10, 14), (23, 27), (37, 58)), ((81, 82), (135, 169), (344, 319)))
_MOBILE_ANCHORS: Anchors = (((11, 18), (34, 47), (51, 126)), ((115, 71), (120, 195), (254, 235)))
_R50_BLOCKS, _R101_BLOCKS = (3, 4, 6, 3), (3, 4, 23, 3)


@dataclass(frozen=True)
class PpYoloConfig:
    """One model of the family.

    Attributes:
        backbone: MobileNetV3 or ResNet-vd, the latter of plain blocks or of bottlenecks.
        neck: "tiny" of depthwise convolutions, "fpn" down only, "pan" down and up in cross-stage-partial blocks.
        neck_chs: of the neck's levels, coarsest first; of "fpn" and "pan" half of what leaves them.
        lateral_chs: of what flows from each level of "fpn" to the next finer one.
        anchors_wh: per level, finest first, input pixels.
        activation: of the neck; backbones keep theirs.
        width: multiplier of MobileNetV3's channels.
        stem_chs, stage_chs, stage_blocks: of ResNet-vd.
        deformable: whether 3x3 convolutions of the last stage are deformable.
        coordinates: whether convolutions of the neck see where they are (CoordConv).
        pairs: of a 1x1 and a 3x3 convolution in each block of "fpn".
        pyramid: whether the coarsest level is pooled over 5, 9 and 13 cells.
        iou_power: of the predicted overlap in a score; 0 for none.
        ignore: overlap above which a prediction that answers for nothing is left alone.
    """

    name: str
    backbone: Literal["mobilenet-large", "mobilenet-small", "resnet", "resnet-bottleneck"]
    neck: Literal["tiny", "fpn", "pan"]
    neck_chs: tuple[int, ...]
    anchors_wh: Anchors
    lateral_chs: tuple[int, ...] = ()
    num_classes: int = 80
    activation: str = "leaky_relu"
    image_size: int = 640
    width: float = 1.0
    stem_chs: tuple[int, int, int] = (32, 32, 64)
    stage_chs: tuple[int, ...] = (64, 128, 256, 512)
    stage_blocks: tuple[int, ...] = _R50_BLOCKS
    deformable: bool = False
    coordinates: bool = False
    pairs: int = 2
    pyramid: bool = True
    iou_power: float = 0.0
    ignore: float = 0.7
    learning_rate: float = 2e-3

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the levels, input pixels."""
        return (8, 16, 32)[-len(self.anchors_wh) :]


def _mobile(letter: str, size: Literal["mobilenet-large", "mobilenet-small"]) -> PpYoloConfig:
    return PpYoloConfig(
        f"ppyolo-mbv3-{letter}",
        size,
        "fpn",
        (256, 128),
        _MOBILE_ANCHORS,
        lateral_chs=(256,),
        image_size=320,
        coordinates=True,
        pairs=0,
        ignore=0.5,
        learning_rate=4e-3,
    )


def _deformable(config: PpYoloConfig) -> PpYoloConfig:
    return replace(config, name=f"{config.name}-dcn", deformable=True)


_R50 = PpYoloConfig(
    "ppyolo-r50",
    "resnet-bottleneck",
    "fpn",
    (512, 256, 128),
    _YOLOV3_ANCHORS,
    lateral_chs=(256, 128),
    image_size=608,
    coordinates=True,
    iou_power=0.4,
)
_V2_R50 = PpYoloConfig(
    "ppyolov2-r50", "resnet-bottleneck", "pan", (512, 256, 128), _YOLOV3_ANCHORS, activation="mish", iou_power=0.5
)
_V2_R101 = replace(_V2_R50, name="ppyolov2-r101", stage_blocks=_R101_BLOCKS)
_CONFIGS = (
    PpYoloConfig(
        "ppyolo-tiny",
        "mobilenet-large",
        "tiny",
        (160, 128, 96),
        _TINY_ANCHORS,
        image_size=320,
        width=0.5,
        ignore=0.5,
        learning_rate=4e-3,
    ),
    _mobile("s", "mobilenet-small"),
    _mobile("l", "mobilenet-large"),
    PpYoloConfig(
        "ppyolo-r18",
        "resnet",
        "fpn",
        (256, 128),
        _R18_ANCHORS,
        lateral_chs=(256,),
        image_size=416,
        stage_blocks=(2, 2, 2, 2),
        pairs=0,
        pyramid=False,
    ),
    *(_R50, _deformable(_R50)),
    *(_V2_R50, _deformable(_V2_R50)),
    *(_V2_R101, _deformable(_V2_R101)),
)
VARIANTS: dict[str, PpYoloConfig] = {config.name: config for config in _CONFIGS}
