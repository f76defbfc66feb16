"""YOLOv3: Darknet-53, a pyramid downwards and an anchor head on three levels; with SPP, and tiny.

Source: YOLOv3, arXiv 1804.02767; layers, anchors and numbers of the loss as in the authors' cfg files (public domain).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edgeyolo.criteria.darknet import DarknetCriterion, DarknetRules
from edgeyolo.heads import Anchors
from edgeyolo.models._planned import PlannedNetwork, publish
from edgeyolo.nn.plan import Plan

_ANCHORS: Anchors = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)
_TINY_ANCHORS: Anchors = (((10, 14), (23, 27), (37, 58)), ((81, 82), (135, 169), (344, 319)))


@dataclass(frozen=True)
class Yolov3Config:
    """One model of the family.

    Attributes:
        tiny: the small network.
        spp: pools of several sizes before the coarsest level.
        width: multiplies the channels.
        blocks: residual blocks of each stage; none where it is tiny.
        anchors_wh: per level, finest first, input pixels.
        eps, momentum: of batch norms, as darknet's.
        rules: of the loss.
    """

    name: str
    tiny: bool = False
    spp: bool = False
    num_classes: int = 80
    activation: str = "leaky_relu"
    image_size: int = 416
    width: float = 1.0
    blocks: tuple[int, ...] = (1, 2, 8, 8, 4)
    anchors_wh: Anchors = _ANCHORS
    eps: float = 1e-5
    momentum: float = 0.1
    rules: DarknetRules = field(default_factory=DarknetRules)
    learning_rate: float = 1e-3

    def make_plan(self) -> Plan:
        """All layers, as in the authors' cfg."""
        plan = Plan(self.width)
        (_tiny if self.tiny else _full)(plan, self)
        return plan


VARIANTS: dict[str, Yolov3Config] = {
    "yolov3-tiny": Yolov3Config("yolov3-tiny", tiny=True, anchors_wh=_TINY_ANCHORS, learning_rate=2e-3),
    "yolov3-spp": Yolov3Config("yolov3-spp", spp=True, image_size=608),
    "yolov3": Yolov3Config("yolov3"),
}


def _full(plan: Plan, config: Yolov3Config) -> None:
    """Darknet-53, then five convolutions and an output per level, coarsest first."""
    act = config.activation
    laterals = _darknet_53(plan, config.blocks, act)
    fork = laterals[-1]
    for level, chs in ((2, 512), (1, 256), (0, 128)):
        if level < 2:
            plan.join(fork)
            plan.conv(chs, activation=act)
            plan.join(plan.grow(), laterals[level])
        for position in range(2):
            plan.conv(chs, activation=act)
            plan.conv(2 * chs, 3, activation=act)
            if level == 2 and position == 0 and config.spp:
                plan.conv(chs, activation=act)
                plan.pyramid(5, 9, 13)
        fork = plan.conv(chs, activation=act)
        plan.conv(2 * chs, 3, activation=act)
        plan.detect(config.anchors_wh[level], config.num_classes, size="exp", reach=1.0)


def _darknet_53(plan: Plan, counts: tuple[int, ...], act: str) -> list[int]:
    """Numbers of the layers of strides 8, 16 and 32."""
    plan.conv(32, 3, activation=act)
    ends = []
    for chs, blocks in zip((64, 128, 256, 512, 1024), counts, strict=True):
        end = plan.conv(chs, 3, 2, activation=act)
        for _ in range(blocks):
            plan.conv(chs // 2, activation=act)
            plan.conv(chs, 3, activation=act)
            end = plan.residual(end)
        ends.append(end)
    plan.end_backbone()
    return ends[2:]


def _tiny(plan: Plan, config: Yolov3Config) -> None:
    act = config.activation
    for chs in (16, 32, 64, 128):
        plan.conv(chs, 3, activation=act)
        plan.pool(2, 2)
    lateral = plan.conv(256, 3, activation=act)
    plan.pool(2, 2)
    plan.conv(512, 3, activation=act)
    plan.pool(2, 1)
    plan.conv(1024, 3, activation=act)
    plan.end_backbone()
    fork = plan.conv(256, activation=act)
    plan.conv(512, 3, activation=act)
    plan.detect(config.anchors_wh[1], config.num_classes, size="exp", reach=1.0)
    plan.join(fork)
    plan.conv(128, activation=act)
    plan.join(plan.grow(), lateral)
    plan.conv(256, 3, activation=act)
    plan.detect(config.anchors_wh[0], config.num_classes, size="exp", reach=1.0)


class Network(PlannedNetwork):
    """A YOLOv3 detector."""

    config: Yolov3Config

    def make_criterion(self, *, epochs: int | None = None) -> DarknetCriterion:
        """Its loss; the same in every epoch, however many there are."""
        return DarknetCriterion(self.decode, self.config.num_classes, self.config.rules)


PUBLISHED = publish("darknet", "LicenseRef-public-domain", tuple(VARIANTS))
