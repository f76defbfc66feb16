"""YOLOR: Scaled-YOLOv4 with implicit knowledge around its outputs, which folds away.

Source: YOLOR, arXiv 2105.04206; layers and anchors as in the authors' cfg files; E6 and D6, which have none, as in
the release of the paper.
Differs: P6, W6, E6 and D6 begin with 2x2 pixels as channels and a 3x3 convolution; folded that is one 6x6 convolution.
"""

from __future__ import annotations

from edgeyolo.criteria.neighbours import NeighbourCriterion
from edgeyolo.heads import Anchors
from edgeyolo.models._planned import PlannedNetwork, publish
from edgeyolo.models._scaled import ScaledConfig

_ANCHORS: Anchors = (
    ((12, 16), (19, 36), (40, 28)),
    ((36, 75), (76, 55), (72, 146)),
    ((142, 110), (192, 243), (459, 401)),
)
_LARGE_ANCHORS: Anchors = (
    ((19, 27), (44, 40), (38, 94)),
    ((96, 68), (86, 152), (180, 137)),
    ((140, 301), (303, 264), (238, 542)),
    ((436, 615), (739, 380), (925, 792)),
)


def _csp(
    name: str, stages: tuple[int, ...], blocks: tuple[int, ...], neck: tuple[int, ...], neck_blocks: int
) -> ScaledConfig:
    return ScaledConfig(
        name=name,
        stem=32,
        stages=stages,
        blocks=blocks,
        first="residual",
        neck=neck,
        neck_blocks=neck_blocks,
        spp_blocks=neck_blocks - 1,
        anchors_wh=_ANCHORS,
        implicit=True,
        activation="silu",
        eps=1e-3,
        momentum=0.03,
    )


def _large(
    name: str, stages: tuple[int, ...], blocks: tuple[int, ...], neck: tuple[int, ...], *, release: bool = False
) -> ScaledConfig:
    return ScaledConfig(
        name=name,
        stem=stages[0] // 2,
        stages=stages,
        blocks=blocks,
        first="reorg",
        transition=False,
        pooled_down=release,
        norm_blocks=release,
        neck=neck,
        neck_blocks=3,
        anchors_wh=_LARGE_ANCHORS,
        implicit=True,
        activation="silu",
        image_size=1280,
        eps=1e-3,
        momentum=0.03,
    )


_E6_STAGES, _E6_NECK = (160, 320, 640, 960, 1280), (160, 320, 480, 640)

VARIANTS: dict[str, ScaledConfig] = {
    config.name: config
    for config in (
        _large("yolor-p6", (128, 256, 384, 512, 640), (3, 7, 7, 3, 3), (128, 192, 256, 320)),
        _large("yolor-w6", (128, 256, 512, 768, 1024), (3, 7, 7, 3, 3), (128, 256, 384, 512)),
        _large("yolor-e6", _E6_STAGES, (3, 7, 7, 3, 3), _E6_NECK, release=True),
        _large("yolor-d6", _E6_STAGES, (3, 15, 15, 7, 7), _E6_NECK, release=True),
        _csp("yolor-csp", (64, 128, 256, 512, 1024), (1, 2, 8, 8, 4), (128, 256, 512), 2),
        _csp("yolor-csp-x", (80, 160, 320, 640, 1280), (1, 3, 10, 10, 5), (160, 320, 640), 3),
    )
}


class Network(PlannedNetwork):
    """A YOLOR detector."""

    config: ScaledConfig

    def make_criterion(self, *, epochs: int | None = None) -> NeighbourCriterion:
        """Its loss; the same in every epoch, however many there are."""
        return NeighbourCriterion(self.decode, self.config.num_classes)


PUBLISHED = publish(
    "the YOLOR repository", "GPL-3.0", tuple(name for name in VARIANTS if not VARIANTS[name].norm_blocks)
)
