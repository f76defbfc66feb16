"""Suppression against the definition, one pair at a time."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeyolo.geometry.boxes import box_iou
from edgeyolo.geometry.nms import class_wise_nms


def reference(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, threshold: float, most: int) -> list[int]:
    kept: list[int] = []
    iou = box_iou(boxes, boxes)
    for i in sorted(range(len(scores)), key=lambda k: (-scores[k], k)):
        if all(classes[i] != classes[j] or iou[i, j] <= threshold for j in kept):
            kept.append(i)
    return kept[:most]


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(1, 4), st.sampled_from([0.3, 0.45, 0.65]), st.integers(0, 2**32 - 1))
def test_same_as_the_definition(count: int, classes: int, threshold: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lower = rng.uniform(0, 100, (count, 2))
    boxes = np.concatenate([lower, lower + rng.uniform(0, 60, (count, 2))], 1).astype(np.float32)
    scores = np.round(rng.uniform(0, 1, count), 1).astype(np.float32)  # many equal scores
    class_ids = rng.integers(0, classes, count)
    for most in (300, 5):
        kept = class_wise_nms(boxes, scores, class_ids, iou_threshold=threshold, max_detections=most)
        assert kept.dtype == np.int64
        assert kept.tolist() == reference(boxes, scores, class_ids, threshold, most)


def test_empty_boxes_and_nothing() -> None:
    none = class_wise_nms(
        np.zeros((0, 4), np.float32),
        np.zeros(0, np.float32),
        np.zeros(0, np.int64),
        iou_threshold=0.5,
        max_detections=9,
    )
    assert none.shape == (0,)
    boxes = np.array([[5, 5, 5, 5], [5, 5, 5, 5]], np.float32)
    kept = class_wise_nms(
        boxes, np.array([0.2, 0.9], np.float32), np.zeros(2, np.int64), iou_threshold=0.5, max_detections=9
    )
    assert kept.tolist() == [1, 0]
