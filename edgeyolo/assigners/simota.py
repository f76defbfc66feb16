"""SimOTA: an object takes as many of its cheapest predictions as their overlaps add up to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgeyolo.assigners.assignment import is_inside, paired_iou

_LOG_FLOOR = -100.0  # of a logarithm in the class cost, as torch's binary cross-entropy has it


@dataclass(frozen=True)
class Picture:
    """What SimOTA must know of one picture.

    Attributes:
        points_xy: (A, 2) the middle of each cell, input pixels.
        strides: (A,) width of each cell, input pixels.
        labels: (G,) int64 class ids of the objects.
        boxes_xyxy: (G, 4) of the objects, input pixels.
    """

    points_xy: Tensor
    strides: Tensor
    labels: Tensor
    boxes_xyxy: Tensor


@dataclass(frozen=True)
class SimOtaAssigner:
    """Cost = class cost + `iou_weight` x -log IoU; an object takes its k cheapest candidates.

    Candidates of a picture are the points within `centre_radius` cells of any object's centre and, with `in_box`, also
    those inside of any object's box. For an object that a candidate is not near in every one of these senses it costs
    `far_cost` more. k is the sum of the object's `iou_candidates` best IoUs with candidates, rounded down, at least 1.
    A point taken by several objects goes to the one of all objects of the picture that it is cheapest for.

    Source: YOLOX, arXiv 2107.08430, section 2.1 (SimOTA), after OTA, arXiv 2103.14259, section 3.3 (dynamic k). The
    defaults are those of the paper and of releases up to 0.3; later code has `centre_radius` 1.5, no `in_box` and
    `far_cost` 1e6.
    """

    centre_radius: float = 2.5
    in_box: bool = True
    far_cost: float = 1e5
    iou_weight: float = 3.0
    iou_candidates: int = 10

    def near(self, picture: Picture) -> tuple[Tensor, Tensor]:
        """Which points are candidates (A,) bool, and which are near to each object in every sense (G, A) bool."""
        centres_xy = (picture.boxes_xyxy[:, None, :2] + picture.boxes_xyxy[:, None, 2:]) / 2
        offsets = (picture.points_xy - centres_xy).abs().amax(dim=-1)
        in_square = offsets < self.centre_radius * picture.strides
        if not self.in_box:
            return in_square.any(dim=0), in_square
        in_box = is_inside(picture.points_xy, picture.boxes_xyxy[:, None])
        return (in_box | in_square).any(dim=0), in_box & in_square

    @torch.no_grad()
    def match(
        self, picture: Picture, near: Tensor, scores: Tensor, boxes_xyxy: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Match the C candidates of one picture with its G objects, G >= 1.

        Args:
            near: (G, C) bool.
            scores: (C, K) square roots of class score x objectness, 0-1.
            boxes_xyxy: (C, 4) predicted boxes, input pixels.

        Returns:
            Matched candidates (P,) in ascending order, the object of each (P,), and their IoU (P,).
        """
        iou = paired_iou(picture.boxes_xyxy[:, None], boxes_xyxy)  # (G, C)
        cost = _class_cost(scores, picture.labels) - self.iou_weight * (iou + 1e-8).log() + self.far_cost * ~near
        most = min(self.iou_candidates, iou.shape[1])
        dynamic_k = iou.topk(most, dim=1).values.sum(dim=1).int().clamp(min=1)  # (G,)
        cheapest = cost.topk(most, dim=1, largest=False).indices
        taken = torch.zeros_like(near)
        taken.scatter_(1, cheapest, torch.arange(most, device=near.device) < dynamic_k[:, None])
        times = taken.sum(dim=0)
        candidate = times.nonzero()[:, 0]
        owner = torch.where(times > 1, cost.argmin(dim=0), taken.int().argmax(dim=0))[candidate]
        return candidate, owner, iou[owner, candidate]


def _class_cost(scores: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of scores (C, K) against the one-hot of labels (G,), summed over classes -> (G, C)."""
    log_no = (1 - scores).log().clamp(min=_LOG_FLOOR)
    log_yes = scores.log().clamp(min=_LOG_FLOOR)
    return (log_no - log_yes).T[labels] - log_no.sum(dim=1)
