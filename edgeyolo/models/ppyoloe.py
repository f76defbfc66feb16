"""PP-YOLOE and PP-YOLOE+: anchor-free detectors, one point per cell, boxes as distributions.

Paper: PP-YOLOE, arXiv 2203.16250. Backbone CSPRepResNet (large stem, RepResBlocks, effective SE), neck CSP-PAN with
SPP, efficient task-aligned head, ATSS then task-aligned assignment. PP-YOLOE+ adds a learned factor to the 1x1 branch
of every backbone block, takes pixel / 255 without mean and std, and is meant for a short schedule from a pretrained
start.

Differs: the class convolution starts from N(0, 0.01) in place of zero, so that features have a gradient from the first
step. A picture is letterboxed; the official pipeline stretches it to the square.
Could not be determined: what the published GFLOPs count beside convolutions (they are 0.1 to 0.6 % more than ours), and
how ATSS epochs shrink with the schedule (100 of 300 and 30 of 80 are the published pairs).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from msgspec import structs
from torch import Tensor, nn

from edgeyolo.criteria.tal import TalCriterion, TalWeights
from edgeyolo.models._network import DetectorNetwork
from edgeyolo.nn.conv import ConvBnAct, start_normal
from edgeyolo.nn.csp import CspPanStage, CspResStage
from edgeyolo.nn.ese import EseAttention
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.model import DflDecode, InputSpec
from edgeyolo.weights.pretrained import Names, Published

_STRIDES = (8, 16, 32)
_BACKBONE_CHS = (64, 128, 256, 512, 1024)
_BACKBONE_BLOCKS = (3, 6, 6, 3)
_NECK_CHS = (192, 384, 768)
_NECK_BLOCKS = 3
_CLASS_PRIOR = 0.01

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class PpYoloeConfig:
    """One model of the family.

    Attributes:
        depth, width: multipliers of the numbers of blocks and channels of size l.
        bins: of each distance, 0 to bins - 1 strides.
        alpha: a learned factor on the 1x1 branch of backbone blocks.
        mean, std: of the input, RGB, in units of pixel / 255.
        schedule_epochs: of the paper's training.
        static_assigner_epochs: of these, how many are assigned by ATSS before task alignment.
        class_weight, iou_weight, dfl_weight: of the three losses.
    """

    name: str
    depth: float
    width: float
    num_classes: int = 80
    activation: str = "silu"
    image_size: int = 640
    bins: int = 17
    alpha: bool = False
    mean: tuple[float, float, float] = _IMAGENET_MEAN
    std: tuple[float, float, float] = _IMAGENET_STD
    schedule_epochs: int = 300
    static_assigner_epochs: int = 100
    class_weight: float = 1.0
    iou_weight: float = 2.5
    dfl_weight: float = 0.5

    def chs(self, base: int) -> int:
        """Channels at this width."""
        return max(1, round(base * self.width))

    def blocks(self, base: int) -> int:
        """Blocks at this depth."""
        return max(1, round(base * self.depth))

    @property
    def backbone_blocks(self) -> list[int]:
        """Blocks of each backbone stage."""
        return [self.blocks(base) for base in _BACKBONE_BLOCKS]

    @property
    def neck_blocks(self) -> int:
        """Blocks of each neck stage."""
        return self.blocks(_NECK_BLOCKS)


def _plus(name: str, depth: float, width: float) -> PpYoloeConfig:
    return PpYoloeConfig(
        name,
        depth,
        width,
        alpha=True,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        schedule_epochs=80,
        static_assigner_epochs=30,
    )


_CONFIGS = (
    PpYoloeConfig("ppyoloe-s", 0.33, 0.50),
    PpYoloeConfig("ppyoloe-m", 0.67, 0.75),
    PpYoloeConfig("ppyoloe-l", 1.0, 1.0),
    PpYoloeConfig("ppyoloe-x", 1.33, 1.25),
    _plus("ppyoloe-plus-s", 0.33, 0.50),
    _plus("ppyoloe-plus-m", 0.67, 0.75),
    _plus("ppyoloe-plus-l", 1.0, 1.0),
    _plus("ppyoloe-plus-x", 1.33, 1.25),
)
VARIANTS: dict[str, PpYoloeConfig] = {config.name: config for config in _CONFIGS}


class Backbone(nn.Module):
    """CSPRepResNet: a stem of three 3x3 convolutions, then four stages that halve the picture each."""

    def __init__(self, config: PpYoloeConfig) -> None:
        super().__init__()
        activation = config.activation
        stem_chs, *chs = (config.chs(base) for base in _BACKBONE_CHS)
        counts = config.backbone_blocks
        self.stem = nn.Sequential(
            ConvBnAct(3, stem_chs // 2, 3, 2, activation=activation),
            ConvBnAct(stem_chs // 2, stem_chs // 2, 3, activation=activation),
            ConvBnAct(stem_chs // 2, stem_chs, 3, activation=activation),
        )
        self.stage_4 = CspResStage(stem_chs, chs[0], counts[0], activation=activation, alpha=config.alpha)
        self.stage_8 = CspResStage(chs[0], chs[1], counts[1], activation=activation, alpha=config.alpha)
        self.stage_16 = CspResStage(chs[1], chs[2], counts[2], activation=activation, alpha=config.alpha)
        self.stage_32 = CspResStage(chs[2], chs[3], counts[3], activation=activation, alpha=config.alpha)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, H, W) -> features of strides 8, 16 and 32."""
        at_8 = self.stage_8(self.stage_4(self.stem(images)))
        at_16 = self.stage_16(at_8)
        return at_8, at_16, self.stage_32(at_16)


class Neck(nn.Module):
    """CSP-PAN: coarse features flow down to the finest level, then back up; the coarsest is pooled in a pyramid."""

    def __init__(self, config: PpYoloeConfig) -> None:
        super().__init__()
        activation, count = config.activation, config.neck_blocks
        in_8, in_16, in_32 = (config.chs(base) for base in _BACKBONE_CHS[2:])
        out_8, out_16, out_32 = (config.chs(base) for base in _NECK_CHS)
        self.top_32 = CspPanStage(in_32, out_32, count, activation=activation, pyramid=True)
        self.lateral_32 = ConvBnAct(out_32, out_32 // 2, activation=activation)
        self.top_16 = CspPanStage(in_16 + out_32 // 2, out_16, count, activation=activation)
        self.lateral_16 = ConvBnAct(out_16, out_16 // 2, activation=activation)
        self.top_8 = CspPanStage(in_8 + out_16 // 2, out_8, count, activation=activation)
        self.down_8 = ConvBnAct(out_8, out_8, 3, 2, activation=activation)
        self.bottom_16 = CspPanStage(out_8 + out_16, out_16, count, activation=activation)
        self.down_16 = ConvBnAct(out_16, out_16, 3, 2, activation=activation)
        self.bottom_32 = CspPanStage(out_16 + out_32, out_32, count, activation=activation)
        self.upsample = nn.Upsample(scale_factor=2.0, mode="nearest")

    def forward(self, features: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Features of strides 8, 16 and 32 -> the same, mixed."""
        at_8, at_16, at_32 = features
        top_32 = self.top_32(at_32)
        top_16 = self.top_16(torch.cat((self.upsample(self.lateral_32(top_32)), at_16), dim=1))
        out_8 = self.top_8(torch.cat((self.upsample(self.lateral_16(top_16)), at_8), dim=1))
        out_16 = self.bottom_16(torch.cat((self.down_8(out_8), top_16), dim=1))
        out_32 = self.bottom_32(torch.cat((self.down_16(out_16), top_32), dim=1))
        return out_8, out_16, out_32


class LevelHead(nn.Module):
    """ET-head of one level: attention by the level's mean, then one convolution for classes and one for boxes."""

    def __init__(self, chs: int, config: PpYoloeConfig) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.class_attention = EseAttention(chs, activation=config.activation)
        self.box_attention = EseAttention(chs, activation=config.activation)
        self.class_logits = nn.Conv2d(chs, config.num_classes, 3, padding=1)
        self.box_logits = nn.Conv2d(chs, 4 * config.bins, 3, padding=1)
        start_normal(self.class_logits, 0.01)
        nn.init.constant_(_bias_of(self.class_logits), -math.log((1 - _CLASS_PRIOR) / _CLASS_PRIOR))
        nn.init.zeros_(self.box_logits.weight)
        nn.init.ones_(_bias_of(self.box_logits))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> class logits (B, K, h, w), box logits (B, 4 x bins, h, w)."""
        mean = self.pool(x)
        return self.class_logits(self.class_attention(x, mean) + x), self.box_logits(self.box_attention(x, mean))


class Network(DetectorNetwork):
    """(B, 3, H, W) -> per level, finest first: class logits (B, K, h, w), then box logits (B, 4 x bins, h, w)."""

    config: PpYoloeConfig
    decode: DflDecode
    strides: ClassVar[tuple[int, ...]] = _STRIDES

    def __init__(self, config: PpYoloeConfig) -> None:
        super().__init__()
        if config.num_classes < 1:
            raise UsageError(
                f"{config.num_classes} classes", where=config.name, hint="A detector needs at least one class"
            )
        self.config = config
        self.decode = DflDecode(strides=_STRIDES, bins=config.bins)
        self.backbone = Backbone(config)
        self.neck = Neck(config)
        self.head_8, self.head_16, self.head_32 = (LevelHead(config.chs(base), config) for base in _NECK_CHS)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> six maps; H and W multiples of 32."""
        out_8, out_16, out_32 = self.neck(self.backbone(images))
        return [*self.head_8(out_8), *self.head_16(out_16), *self.head_32(out_32)]

    def make_input_spec(self, image_hw: tuple[int, int]) -> InputSpec:
        """As `DetectorNetwork` has it, with mean and std of the config."""
        return structs.replace(super().make_input_spec(image_hw), mean=self.config.mean, std=self.config.std)

    def make_criterion(self, *, epochs: int | None = None) -> TalCriterion:
        """Its loss.

        Args:
            epochs: of the training it is for; ATSS takes the share of them that it takes of the paper's schedule. None
                for the paper's schedule.
        """
        config = self.config
        static = config.static_assigner_epochs
        weights = TalWeights(config.class_weight, config.iou_weight, config.dfl_weight)
        if epochs is not None:
            static = round(static * epochs / config.schedule_epochs)
        return TalCriterion(self.decode, config.num_classes, weights, static_assigner_epochs=static)


def _bias_of(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


# What PaddleDetection calls the tensors; its neck and head count from the coarsest level.
_OFFICIAL_STAGES = ("stage_4", "stage_8", "stage_16", "stage_32")
_OFFICIAL_NECK = {
    "top_32": "fpn_stages.0.0",
    "top_16": "fpn_stages.1.0",
    "top_8": "fpn_stages.2.0",
    "bottom_32": "pan_stages.0.0",
    "bottom_16": "pan_stages.1.0",
}
_OFFICIAL_ROUTES = {
    "lateral_32": "fpn_routes.0",
    "lateral_16": "fpn_routes.1",
    "down_16": "pan_routes.0",
    "down_8": "pan_routes.1",
}
_OFFICIAL_HEAD = {
    "class_attention": "stem_cls",
    "box_attention": "stem_reg",
    "class_logits": "pred_cls",
    "box_logits": "pred_reg",
}
_OFFICIAL_LEAVES = {"running_mean": "_mean", "running_var": "_variance"}


def _block(here: str, there: str) -> dict[str, str]:
    """One RepResBlock."""
    rep = {"conv3x3": "conv1", "conv1x1": "conv2", "alpha": "alpha"}
    inner = {f"{here}.rep.{ours}": f"{there}.conv2.{theirs}" for ours, theirs in rep.items()}
    return {f"{here}.conv": f"{there}.conv1"} | inner


def _names(config: PpYoloeConfig, _tensors: Mapping[str, Tensor], _where: object) -> Names:
    modules = {f"backbone.stem.{i}": f"backbone.stem.conv{i + 1}" for i in range(3)}
    for number, (stage, count) in enumerate(zip(_OFFICIAL_STAGES, config.backbone_blocks, strict=True)):
        here, there = f"backbone.{stage}", f"backbone.stages.{number}"
        parts = {"down": "conv_down", "passed": "conv1", "entry": "conv2", "attention.fc": "attn.fc", "exit": "conv3"}
        modules |= {f"{here}.{ours}": f"{there}.{theirs}" for ours, theirs in parts.items()}
        for i in range(count):
            modules |= _block(f"{here}.blocks.{i}", f"{there}.blocks.{i}")
    for ours, theirs in _OFFICIAL_NECK.items():
        modules |= _neck_stage(f"neck.{ours}", f"neck.{theirs}", config.neck_blocks, pyramid=ours == "top_32")
    modules |= {f"neck.{ours}": f"neck.{theirs}" for ours, theirs in _OFFICIAL_ROUTES.items()}
    for level, head in enumerate(("head_32", "head_16", "head_8")):
        modules |= {f"{head}.{ours}": f"yolo_head.{theirs}.{level}" for ours, theirs in _OFFICIAL_HEAD.items()}
    return Names(modules=modules, leaves=_OFFICIAL_LEAVES, ignored=("yolo_head.proj_conv.weight",))


def _neck_stage(here: str, there: str, count: int, *, pyramid: bool) -> dict[str, str]:
    modules = {f"{here}.{ours}": f"{there}.{n}" for ours, n in (("passed", "conv1"), ("entry", "conv2"))}
    modules[f"{here}.exit"] = f"{there}.conv3"
    pooled = (count + 1) // 2 if pyramid else count  # position of the pooling among our blocks; there it has a name
    for i in range(count):
        modules |= _block(f"{here}.blocks.{i + (i >= pooled)}", f"{there}.convs.{i}")
    if pyramid:
        modules[f"{here}.blocks.{pooled}.conv"] = f"{there}.convs.spp.conv"
    return modules


def _count_classes(_config: PpYoloeConfig, tensors: Mapping[str, Tensor]) -> int | None:
    weight = tensors.get("yolo_head.pred_cls.0.weight")
    return None if weight is None or weight.dim() == 0 else weight.shape[0]


PUBLISHED = Published(
    source="PaddleDetection",
    licence="Apache-2.0",
    variants=tuple(f"{family}-{size}" for family in ("ppyoloe", "ppyoloe-plus") for size in "smlx"),
    outputs=".class_logits.",
    count_classes=_count_classes,
    names=_names,
)
