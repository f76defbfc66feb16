"""The plan that Scaled-YOLOv4 and YOLOR have in common: cross-stage partial stages everywhere, an SPP among them.

Source: Scaled-YOLOv4, arXiv 2011.08036, section 3 and figure 4; YOLOR, arXiv 2105.04206, appendix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeyolo.heads import Anchors
from edgeyolo.nn.plan import PICTURE, Apply, Conv, Detect, Plan, Reorg, Vector


@dataclass(frozen=True)
class ScaledConfig:
    """One model.

    Attributes:
        stem: of the first convolution.
        stages: channels of each stage, strides 2, 4 ...
        blocks: residual blocks of each.
        first: what the stage of stride 2 is: a plain residual one, a partial one like the others, or the picture's
            positions as channels (YOLOR's large ones, whose stem is that stage).
        transition: a convolution behind the residual blocks of a stage.
        neck: per level, finest first; heads have twice as many.
        neck_blocks: pairs of convolutions in the neck's stages.
        spp_blocks: pairs of convolutions behind the SPP's pools.
        outputs_last: all outputs are behind the whole neck; otherwise each follows its level.
        implicit: vectors before and after each output (YOLOR).
        pooled_down: half of the channels that a map is halved to come from a maximum.
        norm_blocks: the blocks of a partial stage are normalised once more before they are joined, as in the authors'
            PyTorch releases; not in their cfg files.
        anchors_wh: per level, finest first, input pixels.
        eps, momentum: of batch norms.
    """

    name: str
    stem: int
    stages: tuple[int, ...]
    blocks: tuple[int, ...]
    first: Literal["residual", "partial", "reorg"]
    neck: tuple[int, ...]
    neck_blocks: int
    anchors_wh: Anchors
    spp_blocks: int = 1
    transition: bool = True
    outputs_last: bool = True
    implicit: bool = False
    pooled_down: bool = False
    norm_blocks: bool = False
    num_classes: int = 80
    activation: str = "mish"
    image_size: int = 640
    width: float = 1.0
    eps: float = 1e-5
    momentum: float = 0.1
    learning_rate: float = 1e-3

    def make_plan(self) -> Plan:
        """All layers, as in the authors' cfg."""
        plan = Plan(self.width)
        ends = _descend(plan, self, _backbone(plan, self)[-len(self.neck) :])
        if self.outputs_last:
            for level in range(1, len(ends)):
                _ascend(plan, self, ends, level)
        vectors = _vectors(plan, self) if self.implicit else []
        for level in range(len(ends)):
            if self.outputs_last:
                plan.join(ends[level])
            elif level:
                plan.join(ends[level - 1])
                _ascend(plan, self, ends, level)
            plan.conv(2 * self.neck[level], 3, activation=self.activation)
            if vectors:
                _implicit_output(plan, self, level, *vectors[level])
            else:
                plan.detect(self.anchors_wh[level], self.num_classes, size="square", reach=2.0)
        return plan


def _backbone(plan: Plan, config: ScaledConfig) -> list[int]:
    """Numbers of the last layers of all stages, finest first."""
    act = config.activation
    if config.first == "reorg":
        plan.add(Reorg((PICTURE,)))
    plan.conv(config.stem, 3, activation=act)
    ends: list[int] = []
    widths = (config.stem, *config.stages)
    for position, (in_chs, chs, blocks) in enumerate(zip(widths, config.stages, config.blocks, strict=False)):
        down = _halve(plan, config, in_chs, chs)
        if position == 0 and config.first == "residual":
            ends.append(_residuals(plan, chs, down, blocks, act))
            continue
        skip = plan.conv(chs // 2, activation=act)
        plan.join(down)
        _residuals(plan, chs // 2, plan.conv(chs // 2, activation=act), blocks, act, narrow=chs // 2)
        if config.transition:
            plan.conv(chs // 2, activation=act)
        elif config.norm_blocks:
            plan.normalise(act)
        plan.join(plan.last, skip)
        ends.append(plan.conv(chs, activation=act))
    plan.end_backbone()
    return ends


def _residuals(plan: Plan, chs: int, start: int, blocks: int, act: str, narrow: int | None = None) -> int:
    for _ in range(blocks):
        plan.conv(narrow or chs // 2, activation=act)
        plan.conv(chs, 3, activation=act)
        start = plan.residual(start)
    return start


def _descend(plan: Plan, config: ScaledConfig, features: list[int]) -> list[int]:
    """The SPP, then from the coarsest level to the finest: numbers of the last layer of each, finest first."""
    act, chs = config.activation, config.neck
    ends = [_spp(plan, config, chs[-1])]
    for level in range(len(chs) - 2, -1, -1):
        plan.conv(chs[level], activation=act)
        up = plan.grow()
        plan.join(features[level])
        plan.join(plan.conv(chs[level], activation=act), up)
        ends.insert(0, _mix(plan, config, level))
    return ends


def _ascend(plan: Plan, config: ScaledConfig, ends: list[int], level: int) -> None:
    """The latest map, of the level before, comes to a level; `ends` has its last layer from then on."""
    plan.join(_halve(plan, config, config.neck[level - 1], config.neck[level]), ends[level])
    ends[level] = _mix(plan, config, level)


def _mix(plan: Plan, config: ScaledConfig, level: int) -> int:
    """A partial stage of the neck: plain pairs of convolutions beside a single one."""
    act, chs = config.activation, config.neck[level]
    entry = plan.conv(chs, activation=act)
    skip = plan.conv(chs, activation=act)
    plan.join(entry)
    for _ in range(config.neck_blocks):
        plan.conv(chs, activation=act)
        plan.conv(chs, 3, activation=act)
    return _close(plan, config, skip, chs)


def _close(plan: Plan, config: ScaledConfig, skip: int, chs: int) -> int:
    """The end of a partial stage of the neck."""
    if config.norm_blocks:
        plan.normalise(config.activation)
    plan.join(plan.last, skip)
    return plan.conv(chs, activation=config.activation)


def _halve(plan: Plan, config: ScaledConfig, in_chs: int, chs: int) -> int:
    """The latest map at half of its size."""
    start, act = plan.last, config.activation
    if not config.pooled_down:
        return plan.conv(chs, 3, 2, activation=act)
    plan.conv(in_chs, activation=act)
    strided = plan.conv(chs // 2, 3, 2, activation=act)
    plan.join(start)
    plan.pool(2, 2)
    return plan.join(strided, plan.conv(chs // 2, activation=act))


def _spp(plan: Plan, config: ScaledConfig, chs: int) -> int:
    act = config.activation
    start = plan.last
    skip = plan.conv(chs, activation=act)
    plan.join(start)
    for size in (1, 3, 1):
        plan.conv(chs, size, activation=act)
    plan.pyramid(5, 9, 13)
    for _ in range(config.spp_blocks):
        plan.conv(chs, activation=act)
        plan.conv(chs, 3, activation=act)
    return _close(plan, config, skip, chs)


def _implicit_output(plan: Plan, config: ScaledConfig, level: int, added: int, multiplied: int) -> None:
    anchors_wh = config.anchors_wh[level]
    plan.add(Apply((plan.last, added), "sum"))
    plan.add(Conv((plan.last,), len(anchors_wh) * (5 + config.num_classes), norm=False))
    plan.add(Apply((plan.last, multiplied), "product"))
    plan.add(Detect((plan.last,), anchors_wh, config.num_classes, "square", 2.0))


def _vectors(plan: Plan, config: ScaledConfig) -> list[tuple[int, int]]:
    """Numbers of the vectors that are added before and multiplied after the output of each level."""
    hidden = [plan.scaled(2 * chs) for chs in config.neck]
    outputs = [len(level) * (5 + config.num_classes) for level in config.anchors_wh]
    added = [plan.add(Vector(chs, 0.0)) for chs in hidden]
    return list(zip(added, [plan.add(Vector(chs, 1.0)) for chs in outputs], strict=True))
