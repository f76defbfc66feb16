"""Greedy non-maximum suppression, class by class."""

from __future__ import annotations

import numpy as np

from edgeyolo.spec.detections import Float32, Int64


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
    left = np.argsort(-scores, kind="stable")
    x1, y1, x2, y2 = np.ascontiguousarray(boxes_xyxy[left].T)
    area = np.maximum(x2 - x1, 0) * np.maximum(y2 - y1, 0)
    columns = np.stack([x1, y1, x2, y2, area])
    classes = class_ids[left]
    kept: list[int] = []
    while len(left) and len(kept) < max_detections:
        kept.append(int(left[0]))
        x1, y1, x2, y2, area = columns
        width = np.maximum(np.minimum(x2, x2[0]) - np.maximum(x1, x1[0]), 0)
        height = np.maximum(np.minimum(y2, y2[0]) - np.maximum(y1, y1[0]), 0)
        overlap = width * height
        # iou > t, written without the division so that empty boxes need no special case
        gone = (overlap > iou_threshold * (area + area[0] - overlap)) & (classes == classes[0])
        gone[0] = True
        stays = np.flatnonzero(~gone)
        left, classes, columns = left[stays], classes[stays], columns[:, stays]
    return np.array(kept, np.int64)
