"""Adaptive training sample selection: an object takes the nearest anchors that overlap it unusually well."""

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


@dataclass(frozen=True)
class AtssAssigner:
    """Candidates are the `top_k` anchors of each level nearest to an object's centre; an object claims those candidates
    whose IoU reaches the mean plus the standard deviation over its candidates and whose centre lies inside of it.

    Anchors are one square per point. An anchor claimed by several objects goes to the object of the picture that
    overlaps it most, be it one of them or not.

    Attributes:
        top_k: candidates per level.
        anchor_cells: side of the anchor, in cells of its level.

    Source: ATSS, arXiv 1912.02424, algorithm 1 (top_k 9); anchors 5 cells wide as PP-YOLOE's grid cells, and contested
    ones as in its published code.
    """

    top_k: int = 9
    anchor_cells: float = 5.0

    @torch.no_grad()
    def assign(self, boxes_xyxy: Tensor, grid: PointGrid, objects: Objects, num_classes: int) -> Assignment:
        """Assign a batch; the quality asked of a positive is the IoU of its object and its prediction.

        Args:
            boxes_xyxy: (B, A, 4) predicted boxes, input pixels; they decide the quality, never who is positive.
        """
        half = grid.strides[:, None] * (self.anchor_cells / 2)
        anchors_xyxy = torch.cat((grid.points_xy - half, grid.points_xy + half), dim=1)
        num_points = len(grid.points_xy)
        claims = join_claims([self._claim(part, anchors_xyxy, grid) for part in object_chunks(objects, num_points)])
        claims, owner = settle_claims(claims, objects, anchors_xyxy.expand(len(boxes_xyxy), -1, -1))
        index = claims.points.flatten(1)[..., None].expand(-1, -1, 4)
        claimed_xyxy = boxes_xyxy.float().gather(1, index).view(*claims.points.shape, 4)  # (B, M, C, 4)
        quality = paired_iou(objects.boxes_xyxy[:, :, None], claimed_xyxy)
        return make_assignment(objects, claims, owner, quality, num_classes)

    def _claim(self, part: Objects, anchors_xyxy: Tensor, grid: PointGrid) -> Claims:
        points = _nearest(part.boxes_xyxy, grid, self.top_k)  # (B, chunk, C)
        boxes_xyxy = part.boxes_xyxy[:, :, None]
        iou = paired_iou(boxes_xyxy, anchors_xyxy[points])
        threshold = iou.mean(dim=-1, keepdim=True) + iou.std(dim=-1, keepdim=True)
        made = (iou >= threshold) & is_inside(grid.points_xy[points], boxes_xyxy) & part.present[..., None]
        return Claims(points, made, iou)


def _nearest(boxes_xyxy: Tensor, grid: PointGrid, top_k: int) -> Tensor:
    """Indices (B, M, C) of the nearest `top_k` points of each level to the centres of boxes (B, M, 4).

    They stand where the nearest `top_k` columns and rows cross, so that only those are looked at.
    """
    centre_x, centre_y = ((boxes_xyxy[..., :2] + boxes_xyxy[..., 2:]) / 2)[:, :, None].unbind(-1)  # (B, M, 1)
    nearest = []
    for start, columns_x, rows_y in grid.level_axes():
        squared_x, squared_y = (columns_x - centre_x).square_(), (rows_y - centre_y).square_()
        column = best_points(squared_x, top_k, largest=False).sort(dim=-1).values  # (B, M, <= top_k)
        row = best_points(squared_y, top_k, largest=False).sort(dim=-1).values
        squared = squared_x.gather(2, column)[:, :, None] + squared_y.gather(2, row)[..., None]
        crossing = (row[..., None] * len(columns_x) + column[:, :, None]).flatten(2) + start
        nearest.append(crossing.gather(2, best_points(squared.flatten(2), top_k, largest=False)))
    return torch.cat(nearest, dim=-1)
