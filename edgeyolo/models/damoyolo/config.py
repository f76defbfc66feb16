"""The variants of DAMO-YOLO as data: what the authors' search found, and the sizes of neck and head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Backbone = Literal["inverted", "residual", "csp"]


@dataclass(frozen=True)
class Stage:
    """A row of blocks of the backbone.

    Attributes:
        out_chs: of each block; in a `csp` backbone of the stage, half of which go through the blocks.
        count: blocks.
        hidden_chs: inside each block.
    """

    out_chs: int
    count: int
    hidden_chs: int


@dataclass(frozen=True, kw_only=True)
class DamoYoloConfig:
    """One model of the family.

    Attributes:
        backbone: kind of its blocks: inverted residuals; re-parameterised ones behind a 1x1 convolution, in rows; or
            behind a 3x3 convolution, in cross-stage-partial stages.
        stem_chs: outputs of the stem.
        stages: of strides 4, 8, 16, 16 and 32.
        neck_chs: outputs of the neck, finest level first.
        neck_count: blocks in each stage of the neck.
        neck_share: channels inside a block of the neck per channel outside; the blocks are inverted residuals where the
            backbone's are.
        bins: of each distance, 0 to bins - 1 strides.
        head_size: side of the kernels of the head, which is one convolution for classes and one for boxes.
    """

    name: str
    backbone: Backbone
    stem_chs: int
    stages: tuple[Stage, ...]
    neck_chs: tuple[int, ...]
    neck_count: int
    neck_share: float
    num_classes: int = 80
    activation: str = "silu"
    image_size: int = 640
    bins: int = 17
    head_size: int = 3

    @property
    def level_chs(self) -> tuple[int, int, int]:
        """What the backbone gives to the neck, of strides 8, 16 and 32."""
        return self.stages[1].out_chs, self.stages[3].out_chs, self.stages[4].out_chs


def _stages(*rows: tuple[int, int, int]) -> tuple[Stage, ...]:
    return tuple(Stage(*row) for row in rows)


def _nano(name: str, stem_chs: int, stages: tuple[Stage, ...]) -> DamoYoloConfig:
    return DamoYoloConfig(
        name=name,
        backbone="inverted",
        stem_chs=stem_chs,
        stages=stages,
        neck_chs=(stages[1].out_chs, stages[3].out_chs, stages[4].out_chs),
        neck_count=2,
        neck_share=3.0,
        image_size=416,
        bins=8,
        head_size=1,
    )


VARIANTS: dict[str, DamoYoloConfig] = {
    config.name: config
    for config in (
        _nano("damo-ns", 16, _stages((24, 1, 88), (40, 2, 160), (64, 2, 288), (80, 2, 400), (160, 2, 880))),
        _nano("damo-nm", 16, _stages((40, 2, 144), (64, 2, 256), (112, 2, 504), (128, 2, 640), (256, 1, 1408))),
        _nano("damo-nl", 24, _stages((48, 1, 168), (80, 2, 320), (160, 2, 720), (160, 3, 800), (320, 2, 1760))),
        DamoYoloConfig(
            name="damo-t",
            backbone="residual",
            stem_chs=24,
            stages=_stages((64, 2, 24), (96, 2, 64), (192, 2, 96), (192, 2, 152), (384, 1, 192)),
            neck_chs=(64, 128, 256),
            neck_count=3,
            neck_share=1.0,
            activation="relu",
        ),
        DamoYoloConfig(
            name="damo-s",
            backbone="residual",
            stem_chs=32,
            stages=_stages((128, 1, 24), (128, 5, 88), (256, 3, 128), (256, 2, 120), (512, 1, 144)),
            neck_chs=(128, 256, 512),
            neck_count=3,
            neck_share=0.75,
            activation="relu",
        ),
        DamoYoloConfig(
            name="damo-m",
            backbone="csp",
            stem_chs=32,
            stages=_stages((128, 1, 64), (128, 3, 64), (256, 3, 256), (256, 4, 256), (512, 2, 256)),
            neck_chs=(128, 256, 512),
            neck_count=4,
            neck_share=1.0,
        ),
        DamoYoloConfig(
            name="damo-l",
            backbone="csp",
            stem_chs=32,
            stages=_stages((128, 2, 96), (128, 4, 96), (256, 4, 384), (256, 5, 384), (512, 3, 384)),
            neck_chs=(128, 256, 512),
            neck_count=6,
            neck_share=1.0,
        ),
    )
}
