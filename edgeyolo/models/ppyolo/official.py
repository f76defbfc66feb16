"""What PaddleDetection calls the tensors of each variant: levels count from the coarsest.

Source: facts of its release 2.6. Files of the deformable variants are published, none of the others.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from edgeyolo.models.ppyolo.config import VARIANTS, PpYoloConfig
from edgeyolo.nn.mobilenet import BLOCKS
from edgeyolo.weights.pretrained import Names, Published

_LEAVES = {"running_mean": "_mean", "running_var": "_variance"}
_MANY = 10  # blocks of a stage that are counted by numbers
_CSP = ("0.0", "0.1", "1.0", "1.1", "", "2.0", "2.1")  # the gap is what only training has


def _conv(here: str, there: str, norm: str) -> dict[str, str]:
    return {f"{here}.conv": f"{there}.conv", f"{here}.bn": f"{there}.{norm}"}


def _mobilenet(config: PpYoloConfig) -> dict[str, str]:
    modules = _conv("backbone.stem", "backbone.conv1", "bn")
    for i in range(len(BLOCKS[config.backbone.removeprefix("mobilenet-")])):
        here, there = f"backbone.blocks.{i}", f"backbone.conv{i + 2}"
        for ours, theirs in (("entry", "expand_conv"), ("depth", "bottleneck_conv"), ("exit", "linear_conv")):
            modules |= _conv(f"{here}.{ours}", f"{there}.{theirs}", "bn")
        modules |= {
            f"{here}.squeeze.squeeze": f"{there}.mid_se.conv1",
            f"{here}.squeeze.excite": f"{there}.mid_se.conv2",
        }
    return modules


def _resnet(config: PpYoloConfig) -> dict[str, str]:
    modules: dict[str, str] = {}
    for i in range(3):
        modules |= _conv(f"backbone.stem.{i}", f"backbone.conv1.conv1_{i + 1}", "norm")
    for stage, count in enumerate(config.stage_blocks):
        for i in range(count):
            letter = chr(ord("a") + i) if count <= _MANY else "a" if i == 0 else f"b{i}"
            here, there = f"backbone.stages.{stage}.{i}", f"backbone.res{stage + 2}.res{stage + 2}{letter}"
            for number, branch in enumerate(("branch2a", "branch2b", "branch2c")):
                modules |= _conv(f"{here}.convs.{number}", f"{there}.{branch}", "norm")
            modules[f"{here}.convs.1.conv.guide"] = f"{there}.branch2b.conv_offset"
            short = f"{there}.short" if stage == 0 else f"{there}.short.conv"
            modules |= _conv(f"{here}.shortcut.conv", short, "norm")
    return modules


def _tiny(config: PpYoloConfig) -> dict[str, str]:
    modules: dict[str, str] = {}
    for i in range(len(config.neck_chs)):
        here, there, first = f"neck.blocks.{i}", f"neck.yolo_block.{i}", 2 if i == 0 else 1
        for number, name in enumerate((".0", ".1", ".2", ".route")):
            modules |= _neck_conv(f"{here}.{first + number}", f"{there}.conv_module.yolo_block.{i}{name}")
        modules |= _flows(i)
    return modules | _neck_conv("neck.blocks.0.0.conv", "neck.spp.conv")


def _fpn(config: PpYoloConfig) -> dict[str, str]:
    modules: dict[str, str] = {}
    for i in range(len(config.neck_chs)):
        names = [f"conv{number}" for number in range(2 * config.pairs)] + ["route"]
        if i == 0 and config.pyramid:
            names.insert(2 * config.pairs - 1 if config.pairs else 0, "spp")
        names.insert(len(names) - 1 if i == 0 or not config.pairs else 2, "")
        for number, name in enumerate(names):
            here, there = f"neck.blocks.{i}.{number}", f"neck.yolo_block.{i}.conv_module.{name}"
            is_inside = name == "spp" or (config.coordinates and name in ("conv0", "conv2", "route"))
            modules |= _neck_conv(f"{here}.conv", f"{there}.conv") if is_inside else _neck_conv(here, there)
        modules |= _flows(i, inside=config.coordinates)
    return modules


def _pan(config: PpYoloConfig) -> dict[str, str]:
    modules: dict[str, str] = {}
    last = len(config.neck_chs) - 1
    for i in range(last + 1):
        modules |= _csp(f"neck.down.blocks.{i}", f"neck.fpn.{i}", pyramid=i == 0)
        modules |= _neck_conv(f"neck.down.laterals.{i}", f"neck.fpn_transition.{i}")
    for i in range(last):
        modules |= _csp(f"neck.blocks.{i}", f"neck.pan.{last - 1 - i}", pyramid=False)
        modules |= _neck_conv(f"neck.shrinks.{i}", f"neck.pan_transition.{last - 1 - i}")
    return modules


def _csp(here: str, there: str, *, pyramid: bool) -> dict[str, str]:
    modules: dict[str, str] = {}
    for ours, theirs in (("entry", "conv1"), ("skip", "conv2"), ("join", "conv3")):
        modules |= _neck_conv(f"{here}.{ours}", f"{there}.{theirs}")
    for number, name in enumerate(_CSP):
        if pyramid and number == 3:
            modules |= _neck_conv(f"{here}.convs.3.conv", f"{there}.conv_module.spp.conv")
        else:
            modules |= _neck_conv(f"{here}.convs.{number}", f"{there}.conv_module.{name}")
    return modules


def _flows(i: int, *, inside: bool = False) -> dict[str, str]:
    """What a level gives to its output, and to the next finer level."""
    rest = ".conv" if inside else ""
    tip = _neck_conv(f"neck.tips.{i}{rest}", f"neck.yolo_block.{i}.tip{rest}")
    return tip | _neck_conv(f"neck.laterals.{i}", f"neck.yolo_transition.{i}")


def _neck_conv(here: str, there: str) -> dict[str, str]:
    return _conv(here, there, "batch_norm")


def _names(config: PpYoloConfig, _tensors: Mapping[str, Tensor], _where: object) -> Names:
    modules = _mobilenet(config) if config.backbone.startswith("mobilenet") else _resnet(config)
    modules |= {"tiny": _tiny, "fpn": _fpn, "pan": _pan}[config.neck](config)
    levels = len(config.anchors_wh)
    modules |= {f"outputs.{i}": f"yolo_head.yolo_output.{levels - 1 - i}" for i in range(levels)}
    return Names(modules=modules, leaves=_LEAVES)


def _count_classes(config: PpYoloConfig, tensors: Mapping[str, Tensor]) -> int | None:
    weight = tensors.get("yolo_head.yolo_output.0.weight")
    if weight is None or weight.dim() == 0:
        return None
    channels, rest = divmod(weight.shape[0], len(config.anchors_wh[-1]))
    classes = channels - (6 if config.iou_power else 5)
    return classes if rest == 0 and classes > 0 else None


PUBLISHED = Published(
    source="PaddleDetection",
    licence="Apache-2.0",
    variants=tuple(
        name for name, config in VARIANTS.items() if config.deformable or config.backbone != "resnet-bottleneck"
    ),
    outputs="outputs.",
    count_classes=_count_classes,
    names=_names,
)
