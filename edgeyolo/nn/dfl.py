"""Boxes from distributions: four distances, each the mean of a softmax over bins.

Source: Generalized Focal Loss, arXiv 2006.04388, section 3.2, eq. 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class DistanceIntegral(nn.Module):
    """Logits over `bins` values 0 ... bins - 1 -> their expected value; the values are a buffer, not trained."""

    values: Tensor

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.register_buffer("values", torch.arange(bins, dtype=torch.float32), persistent=False)

    def forward(self, logits: Tensor) -> Tensor:
        """(..., bins) -> (...), 0 to bins - 1."""
        return logits.softmax(dim=-1) @ self.values


def flatten_levels(maps: Sequence[Tensor]) -> Tensor:
    """Maps (B, C, h, w), one per level -> (B, A, C) in float32, points in rows from the top left, level after level."""
    return torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1).float()


def boxes_from_distances(points_xy: Tensor, distances: Tensor) -> Tensor:
    """Points (A, 2) and left, top, right, bottom (B, A, 4), same unit -> boxes_xyxy (B, A, 4)."""
    return torch.cat((points_xy - distances[..., :2], points_xy + distances[..., 2:]), dim=-1)


def distances_from_boxes(points_xy: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """Points (..., 2) and boxes (..., 4), same unit -> left, top, right, bottom (..., 4); negative where outside."""
    return torch.cat((points_xy - boxes_xyxy[..., :2], boxes_xyxy[..., 2:] - points_xy), dim=-1)
