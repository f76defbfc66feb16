"""The network of DAMO-YOLO: a searched backbone, an Efficient-RepGFPN neck, and next to no head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from msgspec import structs
from torch import Tensor, nn

from edgeyolo.criteria.aligned_ota import AlignedOtaCriterion
from edgeyolo.models._network import DetectorNetwork
from edgeyolo.models.damoyolo.config import DamoYoloConfig, Stage
from edgeyolo.nn.bottleneck import DepthwiseConv
from edgeyolo.nn.conv import ConvBnAct, set_batch_norm, start_normal
from edgeyolo.nn.reorg import ReorgConv
from edgeyolo.nn.scaled import ScaledConv
from edgeyolo.nn.spp import Sppf
from edgeyolo.nn.tinynas import FusionStage, InvertedResidual, RepResidual, ReverseBlock
from edgeyolo.spec.model import DflDecode, InputSpec

_STRIDES = (8, 16, 32)
_STAGE_STRIDES = (2, 2, 2, 1, 2)
_POOL_ACTIVATION = "silu"  # of the pyramid of pools, whatever the others have
_CSP_ACTIVATION = "relu"  # of the convolutions around the blocks of a cross-stage-partial stage, likewise
_PRIOR = 0.01
_OUTPUT_STD = 0.01


def _make_row(config: DamoYoloConfig, in_chs: int, stage: Stage, stride: int) -> list[nn.Module]:
    """The blocks of one stage; the first one changes the size."""
    blocks: list[nn.Module] = []
    for number in range(stage.count):
        first = (in_chs, stride) if number == 0 else (stage.out_chs, 1)
        if config.backbone == "inverted":
            block: nn.Module = InvertedResidual(
                first[0], stage.out_chs, stage.hidden_chs, first[1], activation=config.activation
            )
        else:
            block = RepResidual(
                first[0], stage.out_chs, stage.hidden_chs, first[1], entry_size=1, activation=config.activation
            )
        blocks.append(block)
    return blocks


class CspStage(nn.Module):
    """Halve the picture, run half of the channels through blocks, join them with the other half, mix.

    Args:
        rows: stages of one resolution, whose blocks follow each other.
        pool: a pyramid of pools comes before the channels part.
    """

    def __init__(self, in_chs: int, rows: Sequence[Stage], *, pool: bool, activation: str) -> None:
        super().__init__()
        chs = rows[0].out_chs // 2
        out_chs = rows[-1].out_chs
        self.down = ConvBnAct(in_chs, 2 * chs, 3, 2, activation=_CSP_ACTIVATION)
        self.pool = Sppf(2 * chs, 2 * chs, activation=_POOL_ACTIVATION) if pool else nn.Identity()
        self.entry = ConvBnAct(2 * chs, chs, activation=_CSP_ACTIVATION)
        self.skip = ConvBnAct(2 * chs, out_chs // 2, activation=_CSP_ACTIVATION)
        self.blocks = nn.Sequential(
            *(
                RepResidual(chs, chs, row.hidden_chs, entry_size=3, activation=activation)
                for row in rows
                for _ in range(row.count)
            )
        )
        self.join = ConvBnAct(out_chs, out_chs, activation=_CSP_ACTIVATION)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H/2, W/2)."""
        x = self.pool(self.down(x))
        out: Tensor = self.join(torch.cat((self.blocks(self.entry(x)), self.skip(x)), dim=1))
        return out


class Backbone(nn.Module):
    """A stem, then stages that halve the picture each; the pyramid of pools stands in the last one."""

    def __init__(self, config: DamoYoloConfig) -> None:
        super().__init__()
        if config.backbone == "inverted":
            self.stem: nn.Module = ConvBnAct(3, config.stem_chs, 3, 2, activation=config.activation)
        else:
            self.stem = ReorgConv(3, config.stem_chs, activation=config.activation)
        stages = self._make_csp(config) if config.backbone == "csp" else self._make_rows(config)
        self.stage_4, self.stage_8, self.stage_16, self.stage_32 = stages

    def _make_csp(self, config: DamoYoloConfig) -> list[nn.Module]:
        first, second, third, fourth, last = config.stages
        in_chs, stages = config.stem_chs, []
        for rows in ((first,), (second,), (third, fourth), (last,)):
            stages.append(CspStage(in_chs, rows, pool=last in rows, activation=config.activation))
            in_chs = rows[-1].out_chs
        return list(stages)

    def _make_rows(self, config: DamoYoloConfig) -> list[nn.Module]:
        in_chs, rows = config.stem_chs, []
        for stage, stride in zip(config.stages, _STAGE_STRIDES, strict=True):
            rows.append(_make_row(config, in_chs, stage, stride))
            in_chs = stage.out_chs
        rows[-1].insert(1, Sppf(in_chs, in_chs, activation=_POOL_ACTIVATION))
        return [nn.Sequential(*row) for row in (rows[0], rows[1], rows[2] + rows[3], rows[4])]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, H, W) -> features of strides 8, 16 and 32."""
        at_8 = self.stage_8(self.stage_4(self.stem(images)))
        at_16 = self.stage_16(at_8)
        return at_8, at_16, self.stage_32(at_16)


class Neck(nn.Module):
    """Fine features flow up and coarse ones down at once, then all of them up again; a level's own comes first."""

    def __init__(self, config: DamoYoloConfig) -> None:
        super().__init__()
        activation, is_depthwise = config.activation, config.backbone == "inverted"
        at_8, at_16, at_32 = config.level_chs
        out_8, out_16, out_32 = config.neck_chs

        def make_block(chs: int) -> nn.Module:
            if is_depthwise:
                hidden_chs = 8 * math.ceil(chs * config.neck_share / 8)
                return InvertedResidual(chs, chs, hidden_chs, activation=activation)
            return ReverseBlock(chs, int(chs * config.neck_share), activation=activation)

        def mix(in_chs: int, out_chs: int) -> FusionStage:
            return FusionStage(in_chs, out_chs, config.neck_count, make_block, activation=activation)

        def down(chs: int) -> nn.Module:
            return (DepthwiseConv if is_depthwise else ConvBnAct)(chs, chs, 3, 2, activation=activation)

        self.upsample = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.down_16 = down(at_16)
        self.middle_32 = mix(at_32 + at_16, at_32)
        self.down_8 = down(at_8)
        self.middle_16 = mix(at_16 + at_8 + at_32, at_16)
        self.mix_8 = mix(at_8 + at_16, out_8)
        self.out_down_8 = down(out_8)
        self.mix_16 = mix(at_16 + out_8, out_16)
        self.middle_down_16 = down(at_16)
        self.out_down_16 = down(out_16)
        self.mix_32 = mix(at_32 + at_16 + out_16, out_32)

    def forward(self, features: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Features of strides 8, 16 and 32 -> the same, mixed."""
        at_8, at_16, at_32 = features
        middle_32 = self.middle_32(torch.cat((at_32, self.down_16(at_16)), dim=1))
        middle_16 = self.middle_16(torch.cat((at_16, self.down_8(at_8), self.upsample(middle_32)), dim=1))
        out_8 = self.mix_8(torch.cat((at_8, self.upsample(middle_16)), dim=1))
        out_16 = self.mix_16(torch.cat((middle_16, self.out_down_8(out_8)), dim=1))
        coarse = (middle_32, self.middle_down_16(middle_16), self.out_down_16(out_16))
        return out_8, out_16, self.mix_32(torch.cat(coarse, dim=1))


class LevelHead(nn.Module):
    """The head of one level: a convolution for classes, and one for boxes times a number of the level."""

    def __init__(self, chs: int, config: DamoYoloConfig) -> None:
        super().__init__()
        size = config.head_size
        self.class_logits = nn.Conv2d(chs, config.num_classes, size, padding=size // 2)
        self.box_logits = ScaledConv(chs, 4 * config.bins, size)
        for conv, bias in ((self.class_logits, -math.log((1 - _PRIOR) / _PRIOR)), (self.box_logits.conv, 0.0)):
            assert conv.bias is not None
            start_normal(conv, _OUTPUT_STD)
            nn.init.constant_(conv.bias, bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> class logits (B, K, h, w), box logits (B, 4 x bins, h, w)."""
        return self.class_logits(x), self.box_logits(x)


class Network(DetectorNetwork):
    """(B, 3, H, W) -> per level, finest first: class logits (B, K, h, w), then box logits (B, 4 x bins, h, w)."""

    config: DamoYoloConfig
    decode: DflDecode
    strides: ClassVar[tuple[int, ...]] = _STRIDES

    def __init__(self, config: DamoYoloConfig) -> None:
        super().__init__()
        self.config = config
        self.decode = DflDecode(strides=_STRIDES, bins=config.bins, offset=0.0)
        self.backbone = Backbone(config)
        self.neck = Neck(config)
        self.head_8, self.head_16, self.head_32 = (LevelHead(chs, config) for chs in config.neck_chs)
        set_batch_norm(self, eps=1e-3, momentum=0.03)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> six maps; H and W multiples of 32."""
        out_8, out_16, out_32 = self.neck(self.backbone(images))
        return [*self.head_8(out_8), *self.head_16(out_16), *self.head_32(out_32)]

    def make_input_spec(self, image_hw: tuple[int, int]) -> InputSpec:
        """As `DetectorNetwork` has it, but in 0-255, and the picture in the top left corner, black beside it."""
        spec = super().make_input_spec(image_hw)
        return structs.replace(spec, std=(1 / 255,) * 3, letterbox_alignment="top-left", letterbox_value=0)

    def make_criterion(self, *, epochs: int | None = None) -> AlignedOtaCriterion:
        """Its loss; the same in every epoch, however many there are."""
        return AlignedOtaCriterion(self.decode, self.config.num_classes)
