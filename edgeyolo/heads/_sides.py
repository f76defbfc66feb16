"""Boxes by the distances of their sides from a point."""

from __future__ import annotations

from edgeyolo.heads._head import Array, Maths


def distance_boxes(distances: Array, cells_xy: Array, strides: Array, maths: Maths, *, offset: float = 0.5) -> Array:
    """Boxes (..., 4) xyxy in input pixels.

    Args:
        distances: (..., 4) left, top, right, bottom from the cell's point, in strides.
        cells_xy: (..., 2) column and row.
        strides: (..., 1) input pixels.
        maths: the module numpy or torch.
        offset: of the point from the cell's top left corner, in strides.
    """
    points = cells_xy + offset
    return maths.concatenate((points - distances[..., :2], points + distances[..., 2:]), axis=-1) * strides
