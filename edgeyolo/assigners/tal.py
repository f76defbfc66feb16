"""Task alignment: an object takes the predictions that are good at class and box together."""

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
    won_claims,
)


@dataclass(frozen=True)
class TaskAlignedAssigner:
    """Alignment t = score^alpha x IoU^beta; each object claims its `top_k` best points that lie inside of it.

    A point claimed by several objects goes to the one of highest IoU. The quality asked of a positive is its t, scaled
    so that the best of each object equals that object's best IoU.

    Attributes:
        top_k: points an object may claim.
        alpha, beta: exponents of the class score and of the IoU.

    Source: TOOD, arXiv 2108.07755, section 3.2, eq. 8 and the normalised t below it; PP-YOLOE, arXiv 2203.16250
    (top_k 13, alpha 1, beta 6).
    Differs: a prediction of zero alignment is never positive (it would carry zero weight).
    """

    top_k: int = 13
    alpha: float = 1.0
    beta: float = 6.0

    @torch.no_grad()
    def assign(self, scores: Tensor, boxes_xyxy: Tensor, grid: PointGrid, objects: Objects) -> Assignment:
        """Assign a batch.

        Args:
            scores: (B, A, K) predicted class scores, 0-1.
            boxes_xyxy: (B, A, 4) predicted boxes, input pixels.
        """
        scores, boxes_xyxy = scores.float(), boxes_xyxy.float()
        num_points, num_classes = scores.shape[1:]
        parts = [self._claim(part, scores, boxes_xyxy, grid) for part in object_chunks(objects, num_points)]
        claims = join_claims([claims for claims, _ in parts])
        alignment = torch.cat([alignment for _, alignment in parts], dim=1)
        owner = settle_claims(claims, num_points, claims.iou, largest=True)
        quality = _normalise(alignment, claims.iou, won_claims(claims, owner))
        return make_assignment(objects, claims, owner, quality, num_classes)

    def _claim(self, part: Objects, scores: Tensor, boxes_xyxy: Tensor, grid: PointGrid) -> tuple[Claims, Tensor]:
        """Claims of some objects and their alignments (B, chunk, C)."""
        iou = paired_iou(part.boxes_xyxy[:, :, None], boxes_xyxy[:, None])  # (B, chunk, A)
        labels = part.labels[:, None, :].expand(-1, scores.shape[1], -1)
        class_scores = scores.gather(2, labels).transpose(1, 2)  # (B, chunk, A)
        eligible = is_inside(grid.points_xy, part.boxes_xyxy[:, :, None]) & part.present[..., None]
        alignment = class_scores**self.alpha * iou**self.beta * eligible
        points = best_points(alignment, self.top_k, largest=True)
        best = alignment.gather(2, points)
        return Claims(points, best > 0, iou.gather(2, points)), best


def _normalise(alignment: Tensor, iou: Tensor, won: Tensor) -> Tensor:
    """t / max t x max IoU, the maxima over the points each object won; all (B, M, C)."""
    alignment, iou = alignment * won, iou * won
    best_alignment = alignment.amax(dim=-1, keepdim=True).clamp(min=torch.finfo(alignment.dtype).tiny)
    return alignment / best_alignment * iou.amax(dim=-1, keepdim=True)
