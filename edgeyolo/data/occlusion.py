"""Augmentations that hide a part of a picture: behind grey, or behind a part of another picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edgeyolo.data.geometric import LEAST_SIDE_PX, crop_boxes
from edgeyolo.data.sample import Sample
from edgeyolo.geometry.boxes import box_area
from edgeyolo.spec.detections import Float32

LEAST_LEFT = 0.3  # of an object that is partly hidden, to be learnt from


def cutout(sample: Sample, rng: np.random.Generator, *, size: float, fill: int = 114) -> Sample:
    """Hide a square behind grey; its middle may be anywhere, so that parts of it may lie outside.

    Source: arXiv 1708.04552, section 3.2.

    Args:
        size: side of the square, as a part of the picture's shorter side.
    """
    height, width = sample.image.shape[:2]
    side = size * min(height, width)
    hole = _rectangle(rng, (height, width), (side, side))
    left, top, right, bottom = hole.astype(int).tolist()
    image = sample.image.copy()
    image[top:bottom, left:right] = fill
    boxes_xyxy, is_kept = uncovered_boxes(sample.boxes_xyxy, hole)
    return replace(sample, image=image, boxes_xyxy=boxes_xyxy[is_kept], class_ids=sample.class_ids[is_kept])


def cutmix(sample: Sample, other: Sample, rng: np.random.Generator) -> Sample:
    """Put a part of another picture of the same size in the place of this one's, with the objects in it.

    The part is of the picture's shape; what it covers is drawn evenly from nothing to all, but for what lies outside.
    Source: arXiv 1905.04899, section 3.1, equations 1 and 2, with boxes in the place of the mixed label.
    """
    height, width = sample.image.shape[:2]
    share = np.sqrt(rng.random())
    window = _rectangle(rng, (height, width), (share * height, share * width))
    left, top, right, bottom = window.astype(int).tolist()
    image = sample.image.copy()
    image[top:bottom, left:right] = other.image[top:bottom, left:right]
    own_xyxy, is_own = uncovered_boxes(sample.boxes_xyxy, window)
    corner = np.tile(window[:2], 2)
    cut_xyxy, is_inside = crop_boxes(other.boxes_xyxy - corner, (bottom - top, right - left))
    is_inside &= _is_enough(box_area(cut_xyxy), box_area(other.boxes_xyxy))
    return replace(
        sample,
        image=image,
        boxes_xyxy=np.concatenate([own_xyxy[is_own], (cut_xyxy + corner)[is_inside]]),
        class_ids=np.concatenate([sample.class_ids[is_own], other.class_ids[is_inside]]),
    )


def uncovered_boxes(boxes_xyxy: Float32, cover_xyxy: Float32) -> tuple[Float32, npt.NDArray[np.bool_]]:
    """Boxes (M, 4) around what is left of each under a cover (4,), and which are still worth learning from, (M,).

    Kept are those of which enough is left, with sides of 2 px and more.
    """
    shared = np.minimum(boxes_xyxy[:, 2:], cover_xyxy[2:]) - np.maximum(boxes_xyxy[:, :2], cover_xyxy[:2])
    area = box_area(boxes_xyxy)
    left_over = area - shared.clip(min=0).prod(axis=1)
    boxes = boxes_xyxy.copy()
    for axis in (0, 1):
        low, high, across = boxes_xyxy[:, axis], boxes_xyxy[:, 2 + axis], 1 - axis
        start, end = cover_xyxy[axis], cover_xyxy[2 + axis]
        # a cover that reaches across the box from side to side leaves less of it than a box
        is_across = shared[:, across] >= boxes_xyxy[:, 2 + across] - boxes_xyxy[:, across]
        boxes[:, axis] = np.where(is_across & (start <= low) & (end > low), np.minimum(end, high), low)
        boxes[:, 2 + axis] = np.where(is_across & (end >= high) & (start < high), np.maximum(start, low), high)
    sides = boxes[:, 2:] - boxes[:, :2]
    return boxes, _is_enough(left_over, area) & (sides.min(axis=1, initial=np.inf) >= LEAST_SIDE_PX)


def _is_enough(left: Float32, whole: Float32) -> npt.NDArray[np.bool_]:
    """Whether `LEAST_LEFT` or more of areas is left; in float64, where 15 of 50 is 0.3 and not less."""
    return left.astype(np.float64) >= LEAST_LEFT * whole.astype(np.float64)


def _rectangle(rng: np.random.Generator, image_hw: tuple[int, int], size_hw: tuple[float, float]) -> Float32:
    """(4,) whole pixels of a rectangle around a random point, without what lies outside."""
    corners = []
    for side, size in zip(image_hw[::-1], size_hw[::-1], strict=True):
        start = round(rng.uniform(0, side) - size / 2)
        corners.append((max(0, start), min(side, start + round(size))))
    (left, right), (top, bottom) = corners
    return np.array([left, top, max(left, right), max(top, bottom)], np.float32)
