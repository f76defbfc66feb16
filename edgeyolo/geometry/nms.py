"""Non-maximum suppression, class by class: one box for one object."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeyolo.geometry._pairs import areas, centre_penalties, shared_areas
from edgeyolo.geometry.matrix_nms import matrix_nms
from edgeyolo.spec.detecting import Thresholds
from edgeyolo.spec.detections import Float32, Int64

Bools = npt.NDArray[np.bool_]

_BLOCK = 128  # boxes whose pairs are compared at once: few calls of numpy for a picture, little memory for thousands


def suppress(boxes_xyxy: Float32, scores: Float32, class_ids: Int64, thresholds: Thresholds) -> tuple[Int64, Float32]:
    """Indices of the boxes (M, 4) to keep, best first, and their scores, in the way that the thresholds name."""
    if thresholds.nms == "matrix":
        return matrix_nms(
            boxes_xyxy,
            scores,
            class_ids,
            score_threshold=thresholds.least_score,
            max_detections=thresholds.max_detections,
        )
    kept = class_wise_nms(
        boxes_xyxy,
        scores,
        class_ids,
        iou_threshold=thresholds.iou_threshold,
        max_detections=thresholds.max_detections,
        by_distance=thresholds.nms == "diou",
    )
    return kept, scores[kept]


def class_wise_nms(
    boxes_xyxy: Float32,
    scores: Float32,
    class_ids: Int64,
    *,
    iou_threshold: float,
    max_detections: int,
    by_distance: bool = False,
) -> Int64:
    """Indices of the boxes to keep, best score first; equal scores keep their order.

    A box goes when a better one of its own class overlaps it by more than `iou_threshold`.

    Args:
        boxes_xyxy: (M, 4).
        scores: (M,).
        class_ids: (M,).
        iou_threshold: in [0, 1].
        max_detections: at most so many are kept, over all classes.
        by_distance: a box overlaps less the farther apart the centres are, by DIoU instead of IoU.

    Returns:
        (kept,) int64.

    Source: of `by_distance`, arXiv 1911.08287, equation 13.
    """
    order = np.argsort(-scores, kind="stable")
    boxes, classes = np.ascontiguousarray(boxes_xyxy[order].T), class_ids[order]  # (4, M), (M,)
    kept: list[Int64] = []
    missing = max_detections
    while len(order) and missing > 0:
        first = _keep_best(boxes[:, :_BLOCK], classes[:_BLOCK], iou_threshold, by_distance)[:missing]
        kept.append(order[first])
        missing -= len(first)
        order = order[_BLOCK:]
        if len(order) and missing > 0:
            pairs = classes[first][:, None] == classes[_BLOCK:]
            gone = _suppresses(boxes[:, first], boxes[:, _BLOCK:], pairs, iou_threshold, by_distance)
            stays = np.flatnonzero(~gone.any(axis=0))
            order, boxes, classes = order[stays], boxes[:, _BLOCK:][:, stays], classes[_BLOCK:][stays]
    return np.concatenate(kept) if kept else np.zeros(0, np.int64)


def _keep_best(boxes: Float32, classes: Int64, iou_threshold: float, by_distance: bool) -> Int64:
    """Positions to keep of (4, N) sides and (N,) classes, best first, by one matrix of all pairs."""
    stays = ~_suppresses(boxes, boxes, classes[:, None] == classes, iou_threshold, by_distance)
    alive = np.ones(len(classes), np.bool_)
    kept = []
    for i in range(len(classes)):
        if alive[i]:
            kept.append(i)
            alive &= stays[i]
    return np.array(kept, np.int64)


def _suppresses(better: Float32, boxes: Float32, pairs: Bools, iou_threshold: float, by_distance: bool) -> Bools:
    """Whether a box of the (4, P) better ones is the end of one of the (4, N), among the `pairs` (P, N): (P, N)."""
    overlap = shared_areas(better, boxes)
    union = areas(boxes) + areas(better)[:, None]
    union -= overlap
    # iou > t, written without the division so that empty boxes need no special case
    gone: Bools = (overlap > union * np.float32(iou_threshold)) & pairs
    if by_distance:
        of_better, of_box = np.nonzero(gone)  # few pairs, and no other overlaps more for being far apart
        limits = iou_threshold + centre_penalties(better[:, of_better], boxes[:, of_box])
        gone[of_better, of_box] = overlap[of_better, of_box] > limits * union[of_better, of_box]
    return gone
