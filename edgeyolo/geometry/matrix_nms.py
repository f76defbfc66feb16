"""Matrix NMS: a box is not removed by a better one of its class that it overlaps; its score falls."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from edgeyolo.geometry._pairs import areas, shared_areas
from edgeyolo.spec.detections import Float32, Int64

_SIGMA = 0.5
_BLOCK = 128  # boxes that are compared at once with all better ones


def matrix_nms(
    boxes_xyxy: Float32, scores: Float32, class_ids: Int64, *, score_threshold: float, max_detections: int
) -> tuple[Int64, Float32]:
    """Indices of the boxes to keep, best new score first, and these scores; equal scores keep their order.

    The score of box j falls by the least, over better boxes i of its class, of f(iou_ij) / f(iou_i), where f(x) is
    exp(-x^2 / 0.5) and iou_i the largest overlap of i with a box that is better still, which makes it count less.

    Args:
        boxes_xyxy: (M, 4).
        scores: (M,).
        class_ids: (M,).
        score_threshold: boxes whose score falls below it are not kept.
        max_detections: at most so many are kept, over all classes.

    Returns:
        (kept,) int64 and (kept,) float32.

    Source: SOLOv2, arXiv 2003.10152, section 3.3, equations 3 to 5, with boxes in the place of masks.
    """
    order = np.lexsort((-scores, class_ids))
    boxes, ranked = np.ascontiguousarray(boxes_xyxy[order].T), scores[order]
    fallen = np.zeros(len(order), np.float32)
    bounds = [0, *(np.flatnonzero(np.diff(class_ids[order])) + 1), len(order)]
    for first, last in pairwise(bounds):
        fallen[first:last] = _fall(boxes[:, first:last], ranked[first:last], max_detections)
    kept = np.flatnonzero(fallen >= score_threshold)
    kept = kept[np.lexsort((order[kept], -fallen[kept]))][:max_detections]
    return order[kept], fallen[kept]


def _fall(boxes: Float32, scores: Float32, most: int) -> Float32:
    """New scores (N,) of one class, of which the `most` highest are right, and others that cannot be among them 0.

    Args:
        boxes: sides (4, N), best first.
        scores: (N,).
    """
    squares = np.zeros(len(scores), np.float32)  # of the largest overlap with a better box
    fallen = np.zeros(len(scores), np.float32)
    end = 0
    # no score rises, so that once enough are as high as the next one was, the rest cannot be among the best
    while end < len(scores) and np.count_nonzero(fallen[:end] >= scores[end]) < most:
        start, end = end, min(end + _BLOCK, len(scores))
        overlap = _overlaps_with_better(boxes, start, end)
        overlap *= overlap
        squares[start:end] = overlap.max(axis=0)
        overlap -= squares[:end, None]  # never below 0 for the best one, and never above for those that are not better
        fallen[start:end] = scores[start:end] * np.exp(overlap.max(axis=0) / -_SIGMA)
    return fallen


def _overlaps_with_better(boxes: Float32, start: int, end: int) -> Float32:
    """IoU of each box up to `end` with those from `start`, (end, end - start); 0 unless it is the better one.

    Args:
        boxes: sides (4, N), best first.
    """
    overlap = shared_areas(boxes[:, :end], boxes[:, start:end])
    union = areas(boxes[:, :end])[:, None] + areas(boxes[:, start:end])
    union -= overlap
    overlap /= np.maximum(union, np.finfo(np.float32).tiny)
    overlap[start:] = np.triu(overlap[start:], 1)
    return overlap
