"""What PaddleDetection calls the tensors of PP-YOLOE; its neck and head count from the coarsest level.

Source: facts of the published architecture, PP-YOLOE, arXiv 2203.16250.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from edgeyolo.weights.pretrained import Names, Published

if TYPE_CHECKING:
    from edgeyolo.models.ppyoloe import PpYoloeConfig

_STAGES = ("stage_4", "stage_8", "stage_16", "stage_32")
_NECK = {
    "top_32": "fpn_stages.0.0",
    "top_16": "fpn_stages.1.0",
    "top_8": "fpn_stages.2.0",
    "bottom_32": "pan_stages.0.0",
    "bottom_16": "pan_stages.1.0",
}
_NECK_CONVS = {
    "lateral_32": "fpn_routes.0",
    "lateral_16": "fpn_routes.1",
    "down_16": "pan_routes.0",
    "down_8": "pan_routes.1",
}
_HEAD = {
    "class_attention": "stem_cls",
    "box_attention": "stem_reg",
    "class_logits": "pred_cls",
    "box_logits": "pred_reg",
}
_LEAVES = {"running_mean": "_mean", "running_var": "_variance"}


def _block(here: str, there: str) -> dict[str, str]:
    """One RepResBlock."""
    rep = {"conv3x3": "conv1", "conv1x1": "conv2", "alpha": "alpha"}
    inner = {f"{here}.rep.{ours}": f"{there}.conv2.{theirs}" for ours, theirs in rep.items()}
    return {f"{here}.conv": f"{there}.conv1"} | inner


def _names(config: PpYoloeConfig, _tensors: Mapping[str, Tensor], _where: object) -> Names:
    modules = {f"backbone.stem.{i}": f"backbone.stem.conv{i + 1}" for i in range(3)}
    for number, (stage, count) in enumerate(zip(_STAGES, config.backbone_blocks, strict=True)):
        here, there = f"backbone.{stage}", f"backbone.stages.{number}"
        parts = {"down": "conv_down", "passed": "conv1", "entry": "conv2", "attention.fc": "attn.fc", "exit": "conv3"}
        modules |= {f"{here}.{ours}": f"{there}.{theirs}" for ours, theirs in parts.items()}
        for i in range(count):
            modules |= _block(f"{here}.blocks.{i}", f"{there}.blocks.{i}")
    for ours, theirs in _NECK.items():
        modules |= _neck_stage(f"neck.{ours}", f"neck.{theirs}", config.neck_blocks, pyramid=ours == "top_32")
    modules |= {f"neck.{ours}": f"neck.{theirs}" for ours, theirs in _NECK_CONVS.items()}
    for level, head in enumerate(("head_32", "head_16", "head_8")):
        modules |= {f"{head}.{ours}": f"yolo_head.{theirs}.{level}" for ours, theirs in _HEAD.items()}
    return Names(modules=modules, leaves=_LEAVES, ignored=("yolo_head.proj_conv.weight",))


def _neck_stage(here: str, there: str, count: int, *, pyramid: bool) -> dict[str, str]:
    modules = {f"{here}.{ours}": f"{there}.{n}" for ours, n in (("passed", "conv1"), ("entry", "conv2"))}
    modules[f"{here}.exit"] = f"{there}.conv3"
    pooled = (
        (count + 1) // 2 if pyramid else count
    )  # position of the pooling among the blocks here; there it has a name
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
