"""Suppression against the definition, one pair at a time."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeyolo.geometry.boxes import box_iou
from edgeyolo.geometry.nms import class_wise_nms, suppress
from edgeyolo.spec.detecting import Nms, Thresholds


def distance_iou(boxes: np.ndarray) -> np.ndarray:
    values = box_iou(boxes, boxes).astype(np.float64)
    for i, a in enumerate(boxes.astype(np.float64)):
        for j, b in enumerate(boxes.astype(np.float64)):
            around = np.maximum(a[2:], b[2:]) - np.minimum(a[:2], b[:2])
            offset = (a[:2] + a[2:] - b[:2] - b[2:]) / 2
            values[i, j] -= (offset**2).sum() / max((around**2).sum(), 1e-12)
    return values


def reference(iou: np.ndarray, scores: np.ndarray, classes: np.ndarray, threshold: float, most: int) -> list[int]:
    kept: list[int] = []
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
        assert kept.tolist() == reference(box_iou(boxes, boxes), scores, class_ids, threshold, most)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 40), st.integers(1, 3), st.sampled_from([0.2, 0.45]), st.integers(0, 2**32 - 1))
def test_by_distance_is_diou_nms(count: int, classes: int, threshold: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lower = rng.uniform(0, 60, (count, 2))
    boxes = np.concatenate([lower, lower + rng.uniform(1, 60, (count, 2))], 1).astype(np.float32)
    scores = np.round(rng.uniform(0, 1, count), 1).astype(np.float32)
    class_ids = rng.integers(0, classes, count)
    for most in (300, 5):
        kept = class_wise_nms(boxes, scores, class_ids, iou_threshold=threshold, max_detections=most, by_distance=True)
        assert kept.tolist() == reference(distance_iou(boxes), scores, class_ids, threshold, most)


def test_neighbours_that_touch_are_kept_by_distance_alone() -> None:
    boxes = np.array([[0, 0, 40, 100], [15, 0, 55, 100], [0, 0, 150, 150]], np.float32)
    scores, class_ids = np.array([0.9, 0.8, 0.7], np.float32), np.zeros(3, np.int64)

    def kept_by(nms: Nms) -> list[int]:
        return suppress(boxes, scores, class_ids, Thresholds(iou_threshold=0.45, nms=nms))[0].tolist()

    assert (kept_by("greedy"), kept_by("diou"), kept_by("matrix")) == ([0, 2], [0, 1, 2], [0, 2, 1])


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
