"""The loss of anchor-aided training: boxes relative to anchors, assigned and trained as those of the head beside."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from edgeyolo.assigners.tal import TaskAlignedAssigner
from edgeyolo.criteria.criterion import Loss
from edgeyolo.criteria.tal import TalCriterion, TalWeights
from edgeyolo.heads import Anchors
from edgeyolo.spec.model import PointDecode

_ASSIGNER = TaskAlignedAssigner(top_k=26)


class AuxiliaryAnchorCriterion(TalCriterion):
    """Task alignment where each anchor of a level is a level of its own, with the points of all of them.

    A map of class logits has K channels for each anchor, one of boxes four: x and y of the centre from the point in
    strides, then t of the width and of the height, which are the anchor's times (2 sigmoid(t))^2. All is divided by the
    sum of the scores asked for, however small.

    Args:
        strides: of the levels, input pixels.
        anchors_wh: of each level, input pixels.
        box_overlap: as `TalCriterion` takes it.

    Source: YOLOv6 v3.0, arXiv 2301.05586, section 2.2 (anchor-aided training), and facts of its published code.
    """

    def __init__(
        self,
        strides: Sequence[int],
        anchors_wh: Anchors,
        num_classes: int,
        *,
        box_overlap: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        repeated = tuple(stride for stride, level in zip(strides, anchors_wh, strict=True) for _ in level)
        super().__init__(
            PointDecode(strides=repeated, box="sides", objectness=False),
            num_classes,
            TalWeights(least_score=0.0),
            assigner=_ASSIGNER,
            box_overlap=box_overlap,
        )
        self.anchors = [
            [(width / stride, height / stride) for width, height in level]
            for stride, level in zip(strides, anchors_wh, strict=True)
        ]

    def forward(self, maps: list[Tensor], targets: Tensor, image_hw: tuple[int, int]) -> Loss:
        """The loss of one batch; maps of class logits and boxes, alternating, finest level first."""
        levels: list[Tensor] = []
        for anchors, classes, boxes in zip(self.anchors, maps[0::2], maps[1::2], strict=True):
            for wh, logits, values in zip(
                anchors, classes.chunk(len(anchors), 1), boxes.chunk(len(anchors), 1), strict=True
            ):
                levels += [logits, sides_of_anchor(values, wh)]
        return super().forward(levels, targets, image_hw)


def sides_of_anchor(values: Tensor, anchor_wh: tuple[float, float]) -> Tensor:
    """(B, 4, h, w) relative to an anchor, strides -> left, top, right, bottom from the point (B, 4, h, w), strides."""
    offset_xy = values[:, :2]
    half_wh = 2 * values[:, 2:].sigmoid().square() * values.new_tensor(anchor_wh)[:, None, None]
    return torch.cat((half_wh - offset_xy, half_wh + offset_xy), dim=1)
