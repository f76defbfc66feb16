"""Boxes from distributions: four distances, each the mean of a softmax over bins.

Source: Generalized Focal Loss, arXiv 2006.04388, section 3.2, eq. 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_CHUNK_ELEMENTS = 1 << 21  # of maps at a time: 8 MiB, which caches hold better than a whole batch


class DistanceIntegral(nn.Module):
    """Logits over `bins` values 0 ... bins - 1 -> their expected value; the values are a buffer, not trained."""

    values: Tensor

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.register_buffer("values", torch.arange(bins, dtype=torch.float32), persistent=False)

    def forward(self, logits: Tensor) -> Tensor:
        """(..., bins) -> (...), 0 to bins - 1."""
        return logits.softmax(dim=-1) @ self.values

    def over_maps(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, 4 x bins, h, w), one per level -> (B, A, 4), points in rows from the top left, level after level."""
        return torch.cat([self._over_level(level) for level in maps], dim=1)

    def _over_level(self, level: Tensor) -> Tensor:
        size = max(1, _CHUNK_ELEMENTS // level[0].numel())
        logits = level.reshape(len(level), 4, len(self.values), -1)
        parts = [self.values @ part.float().softmax(dim=2) for part in torch.split(logits, size)]
        return torch.cat(parts).transpose(1, 2)


class Distances(nn.Module):
    """The same for boxes whose values are the distances themselves."""

    def forward(self, values: Tensor) -> Tensor:
        """(..., 1) -> (...), strides."""
        return values.squeeze(-1)

    def over_maps(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, 4, h, w), one per level -> (B, A, 4), in the order of `DistanceIntegral.over_maps`."""
        return torch.cat([level.float().flatten(2).transpose(1, 2) for level in maps], dim=1)


def take_points(maps: Sequence[Tensor], picture: Tensor, point: Tensor, channel: Tensor | None = None) -> Tensor:
    """Values of some points of maps (B, C, h, w), one per level: (P, C) float32, or (P,) of one channel each.

    Args:
        picture: (P,) int64, 0 to B - 1.
        point: (P,) int64, counted in rows from the top left, level after level.
        channel: (P,) int64, or None for all.
    """
    shape = (len(point),) if channel is not None else (len(point), maps[0].shape[1])
    values = torch.zeros(shape, device=maps[0].device)
    start = 0
    for level in maps:
        height, width = level.shape[2:]
        here = ((point >= start) & (point < start + height * width)).nonzero()[:, 0]
        cell = point[here] - start
        row, column = cell // width, cell % width
        which = slice(None) if channel is None else channel[here]
        values = values.index_copy(0, here, level[picture[here], which, row, column].float())
        start += height * width
    return values


def boxes_from_distances(points_xy: Tensor, distances: Tensor) -> Tensor:
    """Points (A, 2) and left, top, right, bottom (B, A, 4), same unit -> boxes_xyxy (B, A, 4)."""
    return torch.cat((points_xy - distances[..., :2], points_xy + distances[..., 2:]), dim=-1)


def distances_from_boxes(points_xy: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """Points (..., 2) and boxes (..., 4), same unit -> left, top, right, bottom (..., 4); negative where outside."""
    return torch.cat((points_xy - boxes_xyxy[..., :2], boxes_xyxy[..., 2:] - points_xy), dim=-1)
