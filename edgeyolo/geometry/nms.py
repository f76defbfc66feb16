"""Greedy non-maximum suppression, class by class."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeyolo.spec.detections import Float32, Int64

_BLOCK = 128  # boxes whose pairs are compared at once: few calls of numpy for a picture, little memory for thousands


def class_wise_nms(
    boxes_xyxy: Float32, scores: Float32, class_ids: Int64, *, iou_threshold: float, max_detections: int
) -> Int64:
    """Indices of the boxes to keep, best score first; equal scores keep their order.

    A box goes when a better one of its own class overlaps it by more than `iou_threshold`.

    Args:
        boxes_xyxy: (M, 4).
        scores: (M,).
        class_ids: (M,).
        iou_threshold: in [0, 1].
        max_detections: at most so many are kept, over all classes.

    Returns:
        (kept,) int64.
    """
    order = np.argsort(-scores, kind="stable")
    boxes, classes = np.ascontiguousarray(boxes_xyxy[order].T), class_ids[order]  # (4, M), (M,)
    kept: list[Int64] = []
    missing = max_detections
    while len(order) and missing > 0:
        first = _keep_best(boxes[:, :_BLOCK], classes[:_BLOCK], iou_threshold)[:missing]
        kept.append(order[first])
        missing -= len(first)
        order = order[_BLOCK:]
        if len(order) and missing > 0:
            gone = _suppresses(boxes[:, first], classes[first], boxes[:, _BLOCK:], classes[_BLOCK:], iou_threshold)
            stays = np.flatnonzero(~gone.any(axis=0))
            order, boxes, classes = order[stays], boxes[:, _BLOCK:][:, stays], classes[_BLOCK:][stays]
    return np.concatenate(kept) if kept else np.zeros(0, np.int64)


def _keep_best(boxes: Float32, classes: Int64, iou_threshold: float) -> Int64:
    """Positions to keep of (4, N) sides and (N,) classes, best first, by one matrix of all pairs."""
    stays = ~_suppresses(boxes, classes, boxes, classes, iou_threshold)
    alive = np.ones(len(classes), np.bool_)
    kept = []
    for i in range(len(classes)):
        if alive[i]:
            kept.append(i)
            alive &= stays[i]
    return np.array(kept, np.int64)


def _suppresses(
    better: Float32, better_classes: Int64, boxes: Float32, classes: Int64, iou_threshold: float
) -> npt.NDArray[np.bool_]:
    """Whether a box of the (4, P) better ones is the end of one of the (4, N): (P, N)."""
    overlap = _shared_length(better, boxes, 0) * _shared_length(better, boxes, 1)
    union = _area(boxes) + _area(better)[:, None]
    union -= overlap
    union *= np.float32(iou_threshold)
    # iou > t, written without the division so that empty boxes need no special case
    gone: npt.NDArray[np.bool_] = (overlap > union) & (classes == better_classes[:, None])
    return gone


def _shared_length(better: Float32, boxes: Float32, axis: int) -> Float32:
    """Along x (0) or y (1): (P, N), 0 where two boxes do not meet."""
    length: Float32 = np.minimum(boxes[2 + axis], better[2 + axis][:, None])
    length -= np.maximum(boxes[axis], better[axis][:, None])
    np.maximum(length, np.float32(0), out=length)
    return length


def _area(boxes: Float32) -> Float32:
    """Boxes given as sides (4, N) -> areas (N,)."""
    area: Float32 = np.maximum(boxes[2] - boxes[0], 0) * np.maximum(boxes[3] - boxes[1], 0)
    return area
