"""What the DAMO-YOLO repository calls the tensors of each variant: blocks by number, convolutions in three manners.

Source: facts of release 0.3.1. Files of T, S and M have an 81st class that nothing was trained for.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from edgeyolo.models.damoyolo.config import VARIANTS, DamoYoloConfig
from edgeyolo.weights.pretrained import Names, Published

# Stage here -> the authors' stages, whose blocks are counted on in ours.
_ROWS = {"stage_4": (1,), "stage_8": (2,), "stage_16": (3, 4), "stage_32": (5,)}
_NECK = {"middle_32": "merge_3", "middle_16": "merge_4", "mix_8": "merge_5", "mix_16": "merge_7", "mix_32": "merge_6"}
_DOWN = {
    "down_16": "bu_conv13",
    "down_8": "bu_conv24",
    "out_down_8": "bu_conv57",
    "middle_down_16": "bu_conv46",
    "out_down_16": "bu_conv76",
}
_PADDED = {81: 80}
_SPPF = {"entry": "conv1", "join": "conv2"}
_FUSION = {"skip": "conv1", "entry": "conv2", "join": "conv3"}
_DEPTHWISE = {"depth.conv": "depthwise", "depth.bn": "dwnorm", "point.conv": "pointwise", "point.bn": "pwnorm"}
_REP = {"conv3x3": "rbr_dense", "conv1x1": "rbr_1x1"}
_INVERTED = ("entry.conv", "entry.bn", "depth.conv", "depth.bn", "exit.conv", "exit.bn")


def _parts(here: str, there: str, names: Mapping[str, str]) -> dict[str, str]:
    return {f"{here}.{ours}": f"{there}.{theirs}" for ours, theirs in names.items()}


def _inverted(here: str, there: str, numbers: tuple[int, ...]) -> dict[str, str]:
    return {f"{here}.{part}": f"{there}.conv.{number}" for part, number in zip(_INVERTED, numbers, strict=True)}


def _plain(here: str, there: str) -> dict[str, str]:
    """A convolution of a backbone, whose two parts are numbered."""
    return {f"{here}.conv": f"{there}.conv1", f"{here}.bn": f"{there}.bn1"}


def _residual(here: str, there: str) -> dict[str, str]:
    return _plain(f"{here}.entry", f"{there}.conv1") | _parts(f"{here}.exit", f"{there}.conv2", _REP)


def _rows(config: DamoYoloConfig) -> dict[str, str]:
    modules: dict[str, str] = {}
    for name, rows in _ROWS.items():
        # The pyramid of pools has a number in the last row, here and there.
        counts = [(row, config.stages[row - 1].count + (row == len(config.stages))) for row in rows]
        blocks = [f"backbone.block_list.{row}.block_list.{i}" for row, count in counts for i in range(count)]
        for position, there in enumerate(blocks):
            here = f"backbone.{name}.{position}"
            if name == "stage_32" and position == 1:
                modules |= _parts(here, there, _SPPF)
            elif config.backbone == "inverted":
                modules |= _inverted(here, there, (0, 1, 3, 4, 7, 8))
            else:
                modules |= _residual(here, there)
    return modules


def _csp(config: DamoYoloConfig) -> dict[str, str]:
    modules: dict[str, str] = {}
    for number, (name, rows) in enumerate(_ROWS.items(), start=1):
        here, there = f"backbone.{name}", f"backbone.csp_stage.{number}"
        for ours, theirs in (
            ("down", "downsampler"),
            ("entry", "conv_start"),
            ("skip", "conv_shortcut"),
            ("join", "conv_fuse"),
        ):
            modules |= _plain(f"{here}.{ours}", f"{there}.{theirs}.conv")
        modules |= _parts(f"{here}.pool", f"{there}.spp", _SPPF)
        for i in range(sum(config.stages[row - 1].count for row in rows)):
            modules |= _residual(f"{here}.blocks.{i}", f"{there}.convstem.{i}")
    return modules


def _backbone(config: DamoYoloConfig) -> dict[str, str]:
    if config.backbone == "csp":
        return {"backbone.stem": "backbone.csp_stage.0"} | _csp(config)
    if config.backbone == "residual":
        return {"backbone.stem": "backbone.block_list.0"} | _rows(config)
    return _plain("backbone.stem", "backbone.block_list.0.conv") | _rows(config)


def _neck(config: DamoYoloConfig) -> dict[str, str]:
    modules: dict[str, str] = {}
    is_depthwise = config.backbone == "inverted"
    for ours, theirs in _DOWN.items():
        here, there = f"neck.{ours}", f"neck.{theirs}"
        modules |= _parts(here, there, _DEPTHWISE) if is_depthwise else {here: there}
    for ours, theirs in _NECK.items():
        here, there = f"neck.{ours}", f"neck.{theirs}"
        modules |= _parts(here, there, _FUSION)
        for i in range(config.neck_count):
            mine, other = f"{here}.blocks.{i}", f"{there}.convs.{i}"
            if is_depthwise:
                modules |= _inverted(mine, f"{other}.conv", (0, 1, 3, 4, 6, 7))
            else:
                modules |= _parts(f"{mine}.entry", f"{other}.conv2", _REP) | {f"{mine}.exit": f"{other}.conv1"}
    return modules


def _names(config: DamoYoloConfig, _tensors: Mapping[str, Tensor], _where: object) -> Names:
    modules = _backbone(config) | _neck(config)
    for level, stride in enumerate((8, 16, 32)):
        here = f"head_{stride}"
        modules |= {
            f"{here}.class_logits": f"head.gfl_cls.{level}",
            f"{here}.box_logits.conv": f"head.gfl_reg.{level}",
            f"{here}.box_logits.scale": f"head.scales.{level}.scale",
        }
    return Names(modules=modules, ignored=("head.integral.project",))


def _count_classes(_config: DamoYoloConfig, tensors: Mapping[str, Tensor]) -> int | None:
    weight = tensors.get("head.gfl_cls.0.weight")
    return None if weight is None or weight.dim() == 0 else _PADDED.get(weight.shape[0], weight.shape[0])


PUBLISHED = Published(
    source="the DAMO-YOLO repository",
    licence="Apache-2.0",
    variants=tuple(VARIANTS),
    outputs=".class_logits.",
    count_classes=_count_classes,
    names=_names,
    padded=_PADDED,
)
