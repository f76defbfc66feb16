"""The variants of YOLOv7 as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from edgeyolo.criteria.ota import OtaWeights
from edgeyolo.heads import Anchors

Down = Literal["pool", "conv", "pool-conv", "wide"]

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
    loss: OtaWeights = field(default_factory=OtaWeights)
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
