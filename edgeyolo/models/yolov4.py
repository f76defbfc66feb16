"""YOLOv4: CSPDarknet-53 with Mish, SPP, a path aggregation neck; and tiny, whose stages route half of the channels on.

Source: YOLOv4, arXiv 2004.10934, section 3; of tiny, Scaled-YOLOv4, arXiv 2011.08036, section 3.3; layers, anchors and
numbers of the loss as in the authors' cfg files (public domain).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from edgeyolo.criteria.darknet import DarknetCriterion, DarknetRules
from edgeyolo.heads import Anchors
from edgeyolo.models._planned import PlannedNetwork, publish
from edgeyolo.nn.plan import Join, Plan

_ANCHORS: Anchors = (
    ((12, 16), (19, 36), (40, 28)),
    ((36, 75), (76, 55), (72, 146)),
    ((142, 110), (192, 243), (459, 401)),
)
_TINY_ANCHORS: Anchors = (((23, 27), (37, 58), (81, 82)), ((81, 82), (135, 169), (344, 319)))  # 81x82 is on both


@dataclass(frozen=True)
class Yolov4Config:
    """One model of the family.

    Attributes:
        shape: which of its networks.
        activation: of the backbone.
        neck_activation: of the neck and the head.
        width: multiplies the channels.
        blocks: residual blocks of each stage; none where it is tiny.
        anchors_wh: per level, finest first, input pixels.
        reach: of each level, as in `AnchorDecode`.
        eps, momentum: of batch norms, as darknet's.
        rules: of the loss.
    """

    name: str
    shape: Literal["full", "tiny"]
    num_classes: int = 80
    activation: str = "mish"
    neck_activation: str = "leaky_relu"
    image_size: int = 608
    width: float = 1.0
    blocks: tuple[int, ...] = (1, 2, 8, 8, 4)
    anchors_wh: Anchors = _ANCHORS
    reach: tuple[float, ...] = (1.2, 1.1, 1.05)
    eps: float = 1e-5
    momentum: float = 0.1
    rules: DarknetRules = field(default_factory=lambda: DarknetRules(threshold=0.213, box=0.07))
    learning_rate: float = 1e-3

    def make_plan(self) -> Plan:
        """All layers, as in the authors' cfg."""
        plan = Plan(self.width)
        (_tiny if self.shape == "tiny" else _full)(plan, self)
        return plan


VARIANTS: dict[str, Yolov4Config] = {
    "yolov4-tiny": Yolov4Config(
        "yolov4-tiny",
        "tiny",
        activation="leaky_relu",
        image_size=416,
        anchors_wh=_TINY_ANCHORS,
        reach=(1.05, 1.05),
        rules=DarknetRules(box=0.07),
        learning_rate=2e-3,
    ),
    "yolov4": Yolov4Config("yolov4", "full"),
}


def _full(plan: Plan, config: Yolov4Config) -> None:
    fine, middle, _ = _csp_darknet_53(plan, config.blocks, config.activation)
    act = config.neck_activation
    for chs, size in ((512, 1), (1024, 3), (512, 1)):
        plan.conv(chs, size, activation=act)
    plan.pyramid(5, 9, 13)
    for chs, size in ((512, 1), (1024, 3)):
        plan.conv(chs, size, activation=act)
    coarse = plan.conv(512, activation=act)
    middle = _rise(plan, middle, 256, act)
    ends = [_rise(plan, fine, 128, act)]
    for level, chs, beside in ((0, 128, middle), (1, 256, coarse), (2, 512, 0)):
        plan.conv(2 * chs, 3, activation=act)
        plan.detect(config.anchors_wh[level], config.num_classes, size="exp", reach=config.reach[level])
        if level < 2:
            plan.join(ends[-1])
            plan.join(plan.conv(2 * chs, 3, 2, activation=act), beside)
            ends.append(_five(plan, 2 * chs, act))


def _csp_darknet_53(plan: Plan, counts: tuple[int, ...], act: str) -> list[int]:
    """Numbers of the layers of strides 8, 16 and 32; the first stage keeps all channels in both of its ways."""
    plan.conv(32, 3, activation=act)
    ends = []
    for chs, blocks in zip((64, 128, 256, 512, 1024), counts, strict=True):
        way = chs if chs == 64 else chs // 2
        down = plan.conv(chs, 3, 2, activation=act)
        skip = plan.conv(way, activation=act)
        plan.join(down)
        end = plan.conv(way, activation=act)
        for _ in range(blocks):
            plan.conv(chs // 2, activation=act)
            plan.conv(way, 3, activation=act)
            end = plan.residual(end)
        plan.join(plan.conv(way, activation=act), skip)
        ends.append(plan.conv(chs, activation=act))
    plan.end_backbone()
    return ends[2:]


def _rise(plan: Plan, lateral: int, chs: int, act: str) -> int:
    """The latest map, up-sampled, beside one of the backbone."""
    plan.conv(chs, activation=act)
    up = plan.grow()
    plan.join(lateral)
    plan.join(plan.conv(chs, activation=act), up)
    return _five(plan, chs, act)


def _five(plan: Plan, chs: int, act: str) -> int:
    for _ in range(2):
        plan.conv(chs, activation=act)
        plan.conv(2 * chs, 3, activation=act)
    return plan.conv(chs, activation=act)


def _tiny(plan: Plan, config: Yolov4Config) -> None:
    act = config.activation
    plan.conv(32, 3, 2, activation=act)
    plan.conv(64, 3, 2, activation=act)
    for chs in (64, 128, 256):
        lateral = _tiny_stage(plan, chs, act)
    plan.conv(512, 3, activation=act)
    plan.end_backbone()
    fork = plan.conv(256, activation=config.neck_activation)
    plan.conv(512, 3, activation=config.neck_activation)
    plan.detect(config.anchors_wh[1], config.num_classes, size="exp", reach=config.reach[1])
    plan.join(fork)
    plan.conv(128, activation=config.neck_activation)
    plan.join(plan.grow(), lateral)
    plan.conv(256, 3, activation=config.neck_activation)
    plan.detect(config.anchors_wh[0], config.num_classes, size="exp", reach=config.reach[0])


def _tiny_stage(plan: Plan, chs: int, act: str) -> int:
    """The second half of the channels goes on, all of them join at the end; the number of the last convolution."""
    start = plan.conv(chs, 3, activation=act)
    plan.add(Join((start,), parts=2, part=1))
    first = plan.conv(chs // 2, 3, activation=act)
    second = plan.conv(chs // 2, 3, activation=act)
    plan.join(second, first)
    mixed = plan.conv(chs, activation=act)
    plan.join(start, mixed)
    plan.pool(2, 2)
    return mixed


class Network(PlannedNetwork):
    """A YOLOv4 detector."""

    config: Yolov4Config

    def make_criterion(self, *, epochs: int | None = None) -> DarknetCriterion:
        """Its loss; the same in every epoch, however many there are."""
        return DarknetCriterion(self.decode, self.config.num_classes, self.config.rules)


PUBLISHED = publish("darknet", "LicenseRef-public-domain", tuple(VARIANTS))
