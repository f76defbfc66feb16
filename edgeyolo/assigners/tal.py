"""Task alignment: an object takes the predictions that are good at class and box together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeyolo.assigners.assignment import (
    Assignment,
    Claims,
    Contest,
    Objects,
    PointGrid,
    is_inside,
    make_assignment,
    paired_iou,
    rank_in_row,
    settle_claims,
    won_claims,
)

ScoreAt = Callable[[Tensor, Tensor, Tensor], Tensor]
Overlap = Callable[[Tensor, Tensor], Tensor]  # of two (..., 4) tensors of boxes, broadcast -> (...)

_CHUNK_PAIRS = 1 << 22  # of object and point at most at once: 16 MiB in float32


@dataclass(frozen=True)
class TaskAlignedAssigner:
    """Alignment t = score^alpha x IoU^beta; each object claims its `top_k` best points that lie inside of it.

    A point claimed by several objects goes to the one that has the highest IoU with it: of all objects of the picture,
    or of those that it lies inside of, as `contested` says. The quality asked of a positive is
    t / (max t + `epsilon`) x max IoU, the maxima over the points that its object has: while all t are tiny, as they are
    in a network that has learnt nothing, hardly anything is asked.

    Only the pairs of an object and a point inside of it are computed, which are few of all pairs.

    Attributes:
        top_k: points an object may claim.
        alpha, beta: exponents of the class score and of the IoU.
        epsilon: beside the largest t.
        overlap: what stands for the IoU, never negative.
        contested: which objects may win a contested point.

    Source: TOOD, arXiv 2108.07755, section 3.2, eq. 8 and the normalised t below it; PP-YOLOE, arXiv 2203.16250, and
    its published code (top_k 13, alpha 1, beta 6, epsilon 1e-9).
    Differs: a prediction of zero alignment is not claimed (its box would carry no weight).
    """

    top_k: int = 13
    alpha: float = 1.0
    beta: float = 6.0
    epsilon: float = 1e-9
    overlap: Overlap = paired_iou
    contested: Literal["all", "inside"] = "all"

    @torch.no_grad()
    def assign(
        self, score_at: ScoreAt, boxes_xyxy: Tensor, grid: PointGrid, objects: Objects, num_classes: int
    ) -> Assignment:
        """Assign a batch.

        Args:
            score_at: (N,) pictures, points and classes -> (N,) predicted class scores, 0-1. Few of all are asked for.
            boxes_xyxy: (B, A, 4) predicted boxes, input pixels.
        """
        boxes_xyxy = boxes_xyxy.float()
        claims, alignment = self._claim(score_at, boxes_xyxy, grid, objects)
        claims, owner = settle_claims(claims, objects, boxes_xyxy, self._contest(grid))
        alignment = F.pad(alignment, (0, claims.points.shape[2] - self.top_k))
        picture, row, column = claims.made[..., self.top_k :].nonzero().unbind(dim=1)
        added = (picture, row, column + self.top_k)
        score = score_at(picture, claims.points[added], objects.labels[picture, row])
        alignment[added] = self._alignment(score, claims.iou[added])
        quality = self._normalise(alignment, claims.iou, won_claims(claims, owner))
        return make_assignment(objects, claims, owner, quality, num_classes)

    def _contest(self, grid: PointGrid) -> Contest:
        """What decides a contested point: the overlap, none of it where an object may not win."""

        def overlap_of(wanted_xyxy: Tensor, found_xyxy: Tensor, point: Tensor) -> Tensor:
            overlap = self.overlap(wanted_xyxy, found_xyxy)
            if self.contested == "inside":
                overlap = overlap * is_inside(grid.points_xy[point][:, None], wanted_xyxy)
            return overlap

        return overlap_of

    def _alignment(self, score: Tensor, iou: Tensor) -> Tensor:
        t: Tensor = score.float() ** self.alpha * iou**self.beta
        return t

    def _normalise(self, alignment: Tensor, iou: Tensor, won: Tensor) -> Tensor:
        """The quality of claims, the maxima over the points each object won; all (B, M, C)."""
        alignment, iou = alignment * won, iou * won
        best_alignment = alignment.amax(dim=-1, keepdim=True)
        return alignment / (best_alignment + self.epsilon) * iou.amax(dim=-1, keepdim=True)

    def _claim(self, score_at: ScoreAt, boxes_xyxy: Tensor, grid: PointGrid, objects: Objects) -> tuple[Claims, Tensor]:
        """Claims and their alignments (B, M, C)."""
        shape = (*objects.labels.shape, self.top_k)
        points = torch.zeros(shape, dtype=torch.int64, device=boxes_xyxy.device)
        alignment, iou = torch.zeros(shape, device=boxes_xyxy.device), torch.zeros(shape, device=boxes_xyxy.device)
        wanted_xyxy, labels = objects.boxes_xyxy.flatten(0, 1), objects.labels.flatten()
        size = max(1, _CHUNK_PAIRS // len(grid.points_xy))
        for first in range(0, len(labels), size):
            row, point = _points_inside(wanted_xyxy[first : first + size], grid)
            row = row + first
            picture = row // shape[1]
            overlap = self.overlap(wanted_xyxy[row], boxes_xyxy[picture, point])
            aligned = self._alignment(score_at(picture, point, labels[row]), overlap)
            pair, rank = _best_of_rows(row, aligned, self.top_k)
            place = row[pair] * self.top_k + rank
            points.view(-1)[place] = point[pair]
            alignment.view(-1)[place] = aligned[pair]
            iou.view(-1)[place] = overlap[pair]
        return Claims(points, alignment > 0, iou), alignment


def _points_inside(boxes_xyxy: Tensor, grid: PointGrid) -> tuple[Tensor, Tensor]:
    """Pairs (P,) of box and point strictly inside of it; the points of each box in order, without a look at others."""
    boxes, points = [], []
    x1, y1, x2, y2 = boxes_xyxy[..., None].unbind(1)  # (R, 1)
    for start, columns_x, rows_y in grid.level_axes():
        in_column, in_row = (columns_x > x1) & (columns_x < x2), (rows_y > y1) & (rows_y < y2)
        width, height = in_column.sum(dim=1), in_row.sum(dim=1)
        # Both are runs without a gap, so that a first cell and two lengths say all.
        first = in_row.int().argmax(dim=1) * len(columns_x) + in_column.int().argmax(dim=1) + start
        count = width * height
        box = torch.arange(len(count), device=count.device).repeat_interleave(count)
        step = torch.arange(len(box), device=count.device) - (count.cumsum(0) - count)[box]
        boxes.append(box)
        points.append(first[box] + step // width[box] * len(columns_x) + step % width[box])
    return torch.cat(boxes), torch.cat(points)


def _best_of_rows(row: Tensor, values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Which pairs (P,) are of the `count` largest values > 0 of their row, the first of equal ones; their ranks."""
    pair = (values > 0).nonzero()[:, 0]
    bits = values[pair].view(torch.int32).long()
    order = ((row[pair] << 32) - bits).argsort(stable=True)
    pair = pair[order]
    rank = rank_in_row(row[pair])
    best = rank < count
    return pair[best], rank[best]
