"""Scaled-YOLOv4: csp, x-mish, and the large P5, P6 and P7.

Source: Scaled-YOLOv4, arXiv 2011.08036; layers and anchors as in the authors' cfg files.
Differs: trained as its authors' PyTorch release does, which is YOLOv5's loss. That release normalises the blocks of a
stage of the neck once more, which their cfg files do not: p7, which has no cfg file, is built as there.
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
_P5_ANCHORS: Anchors = (
    ((13, 17), (31, 25), (24, 51), (61, 45)),
    ((48, 102), (119, 96), (97, 189), (217, 184)),
    ((171, 384), (324, 451), (616, 618), (800, 800)),
)
_P6_ANCHORS: Anchors = (
    ((13, 17), (31, 25), (24, 51), (61, 45)),
    ((61, 45), (48, 102), (119, 96), (97, 189)),
    ((97, 189), (217, 184), (171, 384), (324, 451)),
    ((324, 451), (545, 357), (616, 618), (1024, 1024)),
)
_P7_ANCHORS: Anchors = (
    ((13, 17), (22, 25), (27, 66), (55, 41)),
    ((57, 88), (112, 69), (69, 177), (136, 138)),
    ((136, 138), (287, 114), (134, 275), (268, 248)),
    ((268, 248), (232, 504), (445, 416), (640, 640)),
    ((812, 393), (477, 808), (1070, 908), (1408, 1408)),
)
_P5_STAGES, _P5_BLOCKS = (64, 128, 256, 512, 1024), (1, 3, 15, 15, 7)

VARIANTS: dict[str, ScaledConfig] = {
    "yolov4-csp": ScaledConfig(
        name="yolov4-csp",
        stem=32,
        stages=(64, 128, 256, 512, 1024),
        blocks=(1, 2, 8, 8, 4),
        first="residual",
        neck=(128, 256, 512),
        neck_blocks=2,
        outputs_last=False,
        anchors_wh=_ANCHORS,
        image_size=512,
    ),
    "yolov4x-mish": ScaledConfig(
        name="yolov4x-mish",
        stem=32,
        stages=(80, 160, 320, 640, 1280),
        blocks=(1, 3, 10, 10, 5),
        first="residual",
        neck=(160, 320, 640),
        neck_blocks=3,
        spp_blocks=2,
        outputs_last=False,
        anchors_wh=_ANCHORS,
    ),
    "yolov4-p5": ScaledConfig(
        name="yolov4-p5",
        stem=32,
        stages=_P5_STAGES,
        blocks=_P5_BLOCKS,
        first="partial",
        neck=(128, 256, 512),
        neck_blocks=3,
        anchors_wh=_P5_ANCHORS,
        image_size=896,
    ),
    "yolov4-p6": ScaledConfig(
        name="yolov4-p6",
        stem=32,
        stages=(*_P5_STAGES, 1024),
        blocks=(*_P5_BLOCKS, 7),
        first="partial",
        neck=(128, 256, 512, 512),
        neck_blocks=3,
        anchors_wh=_P6_ANCHORS,
        image_size=1280,
    ),
    "yolov4-p7": ScaledConfig(
        name="yolov4-p7",
        stem=40,
        stages=(80, 160, 320, 640, 1280, 1280, 1280),
        blocks=(1, 3, 15, 15, 7, 7, 7),
        first="partial",
        neck=(160, 320, 640, 640, 640),
        neck_blocks=3,
        norm_blocks=True,
        eps=1e-3,
        momentum=0.03,
        anchors_wh=_P7_ANCHORS,
        image_size=1536,
    ),
}


class Network(PlannedNetwork):
    """A Scaled-YOLOv4 detector."""

    config: ScaledConfig

    def make_criterion(self, *, epochs: int | None = None) -> NeighbourCriterion:
        """Its loss; the same in every epoch, however many there are."""
        return NeighbourCriterion(self.decode, self.config.num_classes)


PUBLISHED = publish(
    "darknet", "LicenseRef-public-domain", tuple(name for name in VARIANTS if not VARIANTS[name].norm_blocks)
)
