"""What the YOLOv6 repository calls the tensors of each variant: modules by name, levels by the log2 of their stride.

Source: facts of release 0.4.1. Files may have more than a network needs: an anchor branch or distributions that helped
in training, and a projection that is not trained.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from edgeyolo.models.yolov6.network import NECK_BLOCKS, Yolov6Config
from edgeyolo.weights.pretrained import Names, Published

_FINEST = 3
_REP = {"conv3x3": "rbr_dense", "conv1x1": "rbr_1x1", "identity": "rbr_identity"}
_CSP_SPPF = ("before.0", "skip", "before.1", "before.2", "after.0", "after.1", "join")  # 1, 2 ... there
_OF_TRAINING = ("cls_preds_ab", "reg_preds_ab", "reg_preds_dist")


def _conv(config: Yolov6Config, here: str, there: str) -> dict[str, str]:
    if not config.rep:
        return {here: f"{there}.block"}
    return {f"{here}.{part}": f"{there}.{name}" for part, name in _REP.items()}


def _numbered(here: str, there: str, parts: tuple[str, ...]) -> dict[str, str]:
    return {f"{here}.{part}": f"{there}.cv{number}.block" for number, part in enumerate(parts, start=1)}


def _stage(config: Yolov6Config, here: str, there: str, count: int) -> dict[str, str]:
    """A row of convolutions, or a cross-stage-partial stage; the first block of either has a name of its own."""
    if not config.share:
        rows = [f"{there}.conv1", *(f"{there}.block.{i}" for i in range(count - 1))]
        return {k: v for i, row in enumerate(rows) for k, v in _conv(config, f"{here}.{i}", row).items()}
    modules = _numbered(here, there, ("entry", "skip", "join"))
    rows = [f"{there}.m.conv1", *(f"{there}.m.block.{i}" for i in range(max(1, count // 2) - 1))]
    for i, row in enumerate(rows):
        modules[f"{here}.blocks.{i}"] = row
        for part, name in (("first", "conv1"), ("second", "conv2")):
            modules |= _conv(config, f"{here}.blocks.{i}.{part}", f"{row}.{name}")
    return modules


def _names(config: Yolov6Config, _tensors: Mapping[str, Tensor], _where: object) -> Names:
    modules = _conv(config, "backbone.stem", "backbone.stem")
    for position, count in enumerate(config.stage_blocks):
        here, there = f"backbone.stages.{position}", f"backbone.ERBlock_{position + 2}"
        modules |= _conv(config, f"{here}.0", f"{there}.0")
        modules |= _stage(config, f"{here}.1", f"{there}.1", config.blocks(count))
    pool, parts = ("sppf", ("entry", "join")) if config.share else ("cspsppf", _CSP_SPPF)
    modules |= _numbered("backbone.pool", f"backbone.ERBlock_{len(config.stage_blocks) + 1}.2.{pool}", parts)
    steps, blocks = len(config.neck_chs) - 1, config.blocks(NECK_BLOCKS)
    for step in range(steps):
        modules[f"neck.reduces.{step}"] = f"neck.reduce_layer{step}.block"
        modules |= _fusion(f"neck.fusions.{step}", f"neck.Bifusion{step}")
        modules |= _stage(config, f"neck.tops.{step}", f"neck.Rep_p{_FINEST + steps - 1 - step}", blocks)
        modules[f"neck.downs.{step}"] = f"neck.downsample{2 - step}.block"
        modules |= _stage(config, f"neck.bottoms.{step}", f"neck.Rep_n{_FINEST + 1 + step - (steps == 2)}", blocks)
    for level in range(len(config.neck_chs)):
        for here, there in (("entry", "stems"), ("classes", "cls_convs"), ("boxes", "reg_convs")):
            modules[f"heads.{level}.{here}"] = f"detect.{there}.{level}.block"
        modules[f"heads.{level}.class_logits"] = f"detect.cls_preds.{level}"
        modules[f"heads.{level}.box_values"] = f"detect.reg_preds.{level}"
    helpers = (f".{part}.{level}.{leaf}" for part in _OF_TRAINING for level in range(4) for leaf in ("weight", "bias"))
    return Names(modules=modules, ignored=("detect.proj", "detect.proj_conv.weight", *helpers))


def _fusion(here: str, there: str) -> dict[str, str]:
    modules = _numbered(here, there, ("lateral", "finer.0", "join"))
    return modules | {
        f"{here}.up": f"{there}.upsample.upsample_transpose",
        f"{here}.finer.1": f"{there}.downsample.block",
    }


def _count_classes(_config: Yolov6Config, tensors: Mapping[str, Tensor]) -> int | None:
    weight = tensors.get("detect.cls_preds.0.weight")
    return None if weight is None or weight.dim() == 0 else weight.shape[0]


PUBLISHED = Published(
    source="the YOLOv6 repository",
    licence="GPL-3.0",
    variants=tuple(f"yolov6{size}{ending}" for ending in ("", "6") for size in "nsml"),
    outputs=".class_logits",
    count_classes=_count_classes,
    names=_names,
)
