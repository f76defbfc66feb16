"""The network of YOLOv6, and its sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from edgeyolo.criteria.tal import TalCriterion, TalWeights
from edgeyolo.losses.iou import giou, siou
from edgeyolo.models._network import DetectorNetwork
from edgeyolo.models.yolov6.auxiliary import AuxiliaryAnchors
from edgeyolo.models.yolov6.output import CLASS_BIAS, make_output
from edgeyolo.nn.bep import BiFusion, CspRepStage, CspSppf, MakeConv, RepRow, plain_conv, rep_conv
from edgeyolo.nn.conv import ConvBnAct, set_batch_norm
from edgeyolo.nn.spp import Sppf
from edgeyolo.spec.model import DflDecode, PointDecode

_P5_CHS, _P5_BLOCKS = (64, 128, 256, 512, 1024), (6, 12, 18, 6)
_P6_CHS, _P6_BLOCKS = (64, 128, 256, 512, 768, 1024), (6, 12, 18, 6, 6)
_P5_NECK, _P6_NECK = (128, 256, 512), (128, 256, 512, 1024)
NECK_BLOCKS = 12
_HEAD_ACTIVATION = "silu"
_SCHEDULE_EPOCHS, _STATIC_EPOCHS = 300, 4


@dataclass(frozen=True)
class Yolov6Config:
    """One model of the family.

    Attributes:
        depth, width: multipliers of the numbers of convolutions and channels.
        share: of a stage's channels in each of its branches; 0 for rows of convolutions without branches.
        activation: of the hidden layers; the head has SiLU.
        neck_activation: of the convolutions between the neck's stages; None for the same.
        rep: whether convolutions are re-parameterised.
        siou: whether boxes are trained on SIoU, and not on GIoU.
        bins: of each distance, 0 to bins - 1 strides; 0 for the distances themselves.
        stem_and_stages: channels of the stem and of each stage, before the multiplication.
        stage_blocks: convolutions of each stage, likewise.
        neck_chs: of each level, finest first, likewise.
    """

    name: str
    depth: float
    width: float
    num_classes: int = 80
    activation: str = "relu"
    neck_activation: str | None = None
    image_size: int = 640
    share: float = 0.0
    rep: bool = True
    siou: bool = False
    bins: int = 0
    stem_and_stages: tuple[int, ...] = _P5_CHS
    stage_blocks: tuple[int, ...] = _P5_BLOCKS
    neck_chs: tuple[int, ...] = _P5_NECK

    def chs(self, base: int) -> int:
        """Channels at this width, a multiple of eight."""
        return 8 * math.ceil(base * self.width / 8)

    def blocks(self, base: int) -> int:
        """Convolutions at this depth."""
        return max(1, round(base * self.depth))

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the levels, input pixels."""
        return tuple(8 << level for level in range(len(self.neck_chs)))

    @property
    def box_overlap(self) -> Callable[[Tensor, Tensor], Tensor]:
        """That boxes are trained on."""
        return siou if self.siou else giou


_SIZES: dict[str, tuple[float, float, dict[str, object]]] = {
    "n": (0.33, 0.25, {"siou": True}),
    "s": (0.33, 0.50, {}),
    "m": (0.60, 0.75, {"share": 2 / 3, "bins": 17}),
    "l": (1.00, 1.00, {"share": 1 / 2, "bins": 17, "rep": False, "activation": "silu", "neck_activation": "relu"}),
}
_P6 = {"image_size": 1280, "stem_and_stages": _P6_CHS, "stage_blocks": _P6_BLOCKS, "neck_chs": _P6_NECK}
VARIANTS: dict[str, Yolov6Config] = {
    f"yolov6{size}{ending}": Yolov6Config(f"yolov6{size}{ending}", depth, width, **more, **form)  # type: ignore[arg-type]
    for ending, form in (("", {}), ("6", _P6))
    for size, (depth, width, more) in _SIZES.items()
}


def _make_conv(config: Yolov6Config) -> MakeConv:
    return (rep_conv if config.rep else plain_conv)(config.activation)


def _make_stage(config: Yolov6Config, in_chs: int, out_chs: int, count: int) -> nn.Module:
    conv, count = _make_conv(config), config.blocks(count)
    if not config.share:
        return RepRow(in_chs, out_chs, count, conv)
    return CspRepStage(in_chs, out_chs, count, conv, share=config.share, activation=config.activation)


class Backbone(nn.Module):
    """A convolution, then stages that halve the picture each; the last one is pooled in a pyramid."""

    def __init__(self, config: Yolov6Config) -> None:
        super().__init__()
        conv, chs = _make_conv(config), [config.chs(base) for base in config.stem_and_stages]
        self.stem = conv(3, chs[0], 2)
        self.stages = nn.ModuleList(
            nn.Sequential(conv(in_chs, out_chs, 2), _make_stage(config, out_chs, out_chs, count))
            for (in_chs, out_chs), count in zip(pairwise(chs), config.stage_blocks, strict=True)
        )
        pool = Sppf if config.share else CspSppf
        self.pool = pool(chs[-1], chs[-1], activation=config.activation)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> features of strides 4, 8, 16 ..., finest first."""
        x = self.stem(images)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return [*features[:-1], self.pool(x)]


class Neck(nn.Module):
    """Coarse features flow down to the finest level, then back up; modules of each way stand in its order."""

    def __init__(self, config: Yolov6Config) -> None:
        super().__init__()
        feature_chs = [config.chs(base) for base in config.stem_and_stages[1:]]  # of strides 4, 8 ...
        top_chs = [config.chs(base) for base in config.neck_chs[:-1]]  # of all levels but the coarsest, finest first
        activation = config.neck_activation or config.activation
        levels = list(range(len(top_chs)))[::-1]
        above = [*top_chs[1:], feature_chs[-1]]
        self.reduces = nn.ModuleList(ConvBnAct(above[i], top_chs[i], activation=activation) for i in levels)
        self.fusions = nn.ModuleList(
            BiFusion(top_chs[i], feature_chs[i + 1], feature_chs[i], activation=activation) for i in levels
        )
        self.tops = nn.ModuleList(_make_stage(config, top_chs[i], top_chs[i], NECK_BLOCKS) for i in levels)
        self.downs = nn.ModuleList(ConvBnAct(chs, chs, 3, 2, activation=activation) for chs in top_chs)
        self.bottoms = nn.ModuleList(
            _make_stage(config, 2 * chs, config.chs(base), NECK_BLOCKS)
            for chs, base in zip(top_chs, config.neck_chs[1:], strict=True)
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Features, those of stride 4 first -> maps of strides 8 ..., finest first."""
        x, laterals = features[-1], []
        finer = zip(features[-2:0:-1], features[-3::-1], strict=True)
        for reduce, fusion, top, (feature, below) in zip(self.reduces, self.fusions, self.tops, finer, strict=True):
            laterals.append(reduce(x))
            x = top(fusion(laterals[-1], feature, below))
        outs = [x]
        for down, bottom, lateral in zip(self.downs, self.bottoms, laterals[::-1], strict=True):
            outs.append(bottom(torch.cat((down(outs[-1]), lateral), dim=1)))
        return outs


class LevelHead(nn.Module):
    """The head of one level: a 1x1 convolution, then a 3x3 convolution each for classes and for boxes."""

    def __init__(self, chs: int, config: Yolov6Config) -> None:
        super().__init__()
        self.entry = ConvBnAct(chs, chs, activation=_HEAD_ACTIVATION)
        self.classes = ConvBnAct(chs, chs, 3, activation=_HEAD_ACTIVATION)
        self.boxes = ConvBnAct(chs, chs, 3, activation=_HEAD_ACTIVATION)
        self.class_logits = make_output(chs, config.num_classes, CLASS_BIAS)
        self.box_values = make_output(chs, 4 * max(1, config.bins), 1.0)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> class logits (B, K, h, w), box values (B, 4 or 4 x bins, h, w)."""
        x = self.entry(x)
        return self.class_logits(self.classes(x)), self.box_values(self.boxes(x))


class Network(DetectorNetwork):
    """(B, 3, H, W) -> per level, finest first: class logits, box values, as its decode says."""

    config: Yolov6Config
    decode: DflDecode | PointDecode

    def __init__(self, config: Yolov6Config) -> None:
        super().__init__()
        self.config = config
        self.strides = config.strides
        if config.bins:
            self.decode = DflDecode(strides=self.strides, bins=config.bins)
        else:
            self.decode = PointDecode(strides=self.strides, box="sides", objectness=False)
        self.backbone = Backbone(config)
        self.neck = Neck(config)
        self.heads = nn.ModuleList(LevelHead(config.chs(base), config) for base in config.neck_chs)
        set_batch_norm(self, eps=1e-3, momentum=0.03)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> two maps per level; H and W multiples of the coarsest stride."""
        maps = self.neck(self.backbone(images))
        return [map_ for head, x in zip(self.heads, maps, strict=True) for map_ in head(x)]

    def make_criterion(self, *, epochs: int | None = None) -> TalCriterion:
        """Its loss.

        Args:
            epochs: of the training it is for; ATSS takes the share of them that it takes of the authors' schedule. None
                for that schedule.
        """
        static = _STATIC_EPOCHS if epochs is None else round(_STATIC_EPOCHS * epochs / _SCHEDULE_EPOCHS)
        return TalCriterion(
            self.decode,
            self.config.num_classes,
            TalWeights(),
            static_assigner_epochs=static,
            box_overlap=self.config.box_overlap,
        )

    def make_companion(self) -> AuxiliaryAnchors | None:
        """Outputs relative to anchors; the sizes with four levels have none."""
        config = self.config
        if len(config.neck_chs) != len(AuxiliaryAnchors.anchors_wh):
            return None
        level_chs = [config.chs(base) for base in config.neck_chs]
        return AuxiliaryAnchors(level_chs, self.strides, config.num_classes, box_overlap=config.box_overlap)
