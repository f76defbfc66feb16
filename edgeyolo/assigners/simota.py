"""SimOTA: an object takes as many of its cheapest predictions as their overlaps add up to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgeyolo.assigners.assignment import (
    Assignment,
    Claims,
    Objects,
    PointGrid,
    best_points,
    is_inside,
    join_claims,
    make_assignment,
    object_chunks,
    paired_iou,
    settle_claims,
)

_OFF_CENTRE_COST = 1e5
_LOG_FLOOR = -100.0  # of a logarithm in the class cost, as torch's binary cross entropy has it


@dataclass(frozen=True)
class SimOtaAssigner:
    """Cost = class cost + `iou_weight` x -log IoU; an object claims its k cheapest candidates.

    Candidates of a picture are the points inside of any object's box or centre square; a point outside of an object's
    own box or square is a last resort for it. k is the sum of the object's `iou_candidates` best IoUs, at least 1.
    A point claimed by several objects goes to the one of lowest cost. The quality asked of a positive is its IoU.

    Attributes:
        centre_radius: half the side of the centre square, in cells of each level.
        iou_weight: weight of the box cost against the class cost.
        iou_candidates: how many IoUs are summed for k.

    Source: YOLOX, arXiv 2107.08430, section 2.1 (SimOTA) after OTA, arXiv 2103.14259, section 3.3 (dynamic k).
    Differs: a contested point goes to the cheapest of the objects that claim it, not of all objects.
    """

    centre_radius: float = 2.5
    iou_weight: float = 3.0
    iou_candidates: int = 10

    @torch.no_grad()
    def assign(self, scores: Tensor, boxes_xyxy: Tensor, grid: PointGrid, objects: Objects) -> Assignment:
        """Assign a batch.

        Args:
            scores: (B, A, K) predicted class scores, 0-1 (times objectness, where a head has one).
            boxes_xyxy: (B, A, 4) predicted boxes, input pixels.
        """
        scores, boxes_xyxy = scores.float(), boxes_xyxy.float()
        num_points, num_classes = scores.shape[1:]
        chunks = list(object_chunks(objects, num_points))
        candidate = torch.stack([self._near(part, grid)[0].any(dim=1) for part in chunks]).any(dim=0)  # (B, A)
        parts = [self._claim(part, scores, boxes_xyxy, grid, candidate) for part in chunks]
        claims = join_claims([claims for claims, _ in parts])
        cost = torch.cat([cost for _, cost in parts], dim=1)
        owner = settle_claims(claims, num_points, cost, largest=False)
        return make_assignment(objects, claims, owner, claims.iou, num_classes)

    def _near(self, part: Objects, grid: PointGrid) -> tuple[Tensor, Tensor]:
        """Whether points are in an object's box or centre square, and whether they are in both: (B, chunk, A) each."""
        boxes_xyxy = part.boxes_xyxy[:, :, None]  # (B, chunk, 1, 4)
        offset = grid.points_xy - (boxes_xyxy[..., :2] + boxes_xyxy[..., 2:]) / 2
        in_square = offset.abs_().amax(dim=-1) < self.centre_radius * grid.strides
        in_box = is_inside(grid.points_xy, boxes_xyxy)
        present = part.present[..., None]
        return (in_box | in_square) & present, in_box & in_square & present

    def _claim(
        self, part: Objects, scores: Tensor, boxes_xyxy: Tensor, grid: PointGrid, candidate: Tensor
    ) -> tuple[Claims, Tensor]:
        """Claims of some objects and their costs (B, chunk, C)."""
        iou = paired_iou(part.boxes_xyxy[:, :, None], boxes_xyxy[:, None])
        eligible = candidate[:, None] & part.present[..., None]  # (B, chunk, A)
        cost = _class_cost(scores, part.labels) - self.iou_weight * (iou + 1e-8).log_()
        cost = cost + _OFF_CENTRE_COST * ~self._near(part, grid)[1]
        cost = cost.clamp_(min=0).masked_fill_(~eligible, torch.inf)
        best_ious = (iou * eligible).topk(min(self.iou_candidates, iou.shape[-1]), dim=-1).values
        dynamic_k = best_ious.sum(dim=-1, keepdim=True).floor().clamp(min=1)
        points = best_points(cost, self.iou_candidates, largest=False)
        cost = cost.gather(2, points)
        rank = torch.arange(points.shape[-1], device=points.device)
        return Claims(points, (rank < dynamic_k) & cost.isfinite(), iou.gather(2, points)), cost


def _class_cost(scores: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of scores (B, A, K) against the one-hot of labels (B, M), summed over classes -> (B, M, A)."""
    log_no = torch.log1p(-scores).clamp_(min=_LOG_FLOOR)
    log_yes = scores.log().clamp_(min=_LOG_FLOOR)
    index = labels[:, None, :].expand(-1, scores.shape[1], -1)
    swapped = (log_no - log_yes).gather(2, index).transpose(1, 2)
    return swapped - log_no.sum(dim=-1)[:, None]
