"""Box formats, areas and overlaps, vectorised. A box reaches from edge to edge: its width is x2 - x1.

Formats, all (M, 4) in pixels: `xyxy` left top right bottom, `cxcywh` centre and size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgeyolo.spec.detections import Float32

Boxes = npt.NDArray[np.floating[Any]]


def cxcywh_from_xyxy(boxes_xyxy: Boxes) -> Boxes:
    """(M, 4) -> (M, 4) of the same type."""
    lower, upper = boxes_xyxy[:, :2], boxes_xyxy[:, 2:]
    return np.concatenate([(lower + upper) / 2, upper - lower], axis=1)


def xyxy_from_cxcywh(boxes_cxcywh: Boxes) -> Float32:
    """(M, 4) centre and size -> (M, 4) left, top, right, bottom."""
    centre_xy, half_wh = boxes_cxcywh[:, :2], 0.5 * boxes_cxcywh[:, 2:]
    return np.concatenate((centre_xy - half_wh, centre_xy + half_wh), axis=1, dtype=np.float32)


def clip_boxes(boxes_xyxy: Boxes, image_hw: tuple[int, int]) -> Float32:
    """Boxes (M, 4) cut at the picture's borders; one that lies outside becomes empty. Returns a new float32 array."""
    height, width = image_hw
    return np.clip(boxes_xyxy, 0, np.array([width, height, width, height])).astype(np.float32)


def box_area(boxes_xyxy: Boxes) -> Float32:
    """(M, 4) -> (M,) float32 in square pixels; 0 for an inverted box."""
    sides = np.maximum(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], 0)
    return (sides[:, 0] * sides[:, 1]).astype(np.float32)


def box_iou(a_xyxy: Boxes, b_xyxy: Boxes) -> Float32:
    """Intersection over union of every pair: (N, 4), (M, 4) -> (N, M) float32 in [0, 1]; 0 where both are empty."""
    lower = np.maximum(a_xyxy[:, None, :2], b_xyxy[None, :, :2])
    upper = np.minimum(a_xyxy[:, None, 2:], b_xyxy[None, :, 2:])
    sides = np.maximum(upper - lower, 0)
    intersection = sides[..., 0] * sides[..., 1]
    union = box_area(a_xyxy)[:, None] + box_area(b_xyxy)[None, :] - intersection
    iou: Float32 = np.zeros(union.shape, np.float32)
    np.divide(intersection, union, out=iou, where=union > 0)
    return iou
