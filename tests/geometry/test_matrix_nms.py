"""Matrix NMS against its definition, one pair at a time in double precision."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeyolo.geometry.boxes import box_iou
from edgeyolo.geometry.matrix_nms import matrix_nms


def fallen_scores(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray) -> list[float]:
    iou = box_iou(boxes, boxes).astype(np.float64)

    def better(j: int) -> list[int]:
        ahead = [i for i in range(len(scores)) if classes[i] == classes[j] and i != j]
        return [i for i in ahead if (-scores[i], i) < (-scores[j], j)]

    def kernel(overlap: float) -> float:
        return math.exp(-(overlap**2) / 0.5)

    largest = [max((iou[k, i] for k in better(i)), default=0.0) for i in range(len(scores))]
    return [
        scores[j] * min((kernel(iou[i, j]) / kernel(largest[i]) for i in better(j)), default=1.0)
        for j in range(len(scores))
    ]


def crowd(rng: np.random.Generator, count: int) -> np.ndarray:
    lower = rng.uniform(0, 60, (count, 2))
    return np.concatenate([lower, lower + rng.uniform(0, 60, (count, 2))], 1).astype(np.float32)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 300), st.integers(1, 4), st.sampled_from([0.001, 0.25]), st.integers(0, 2**32 - 1))
def test_same_as_the_definition(count: int, classes: int, threshold: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = crowd(rng, count)
    scores = np.round(rng.uniform(threshold, 1, count), 2).astype(np.float32)  # some equal ones
    class_ids = rng.integers(0, classes, count)
    wanted = np.array(fallen_scores(boxes, scores, class_ids))
    for most in (1000, 5):
        kept, found = matrix_nms(boxes, scores, class_ids, score_threshold=threshold, max_detections=most)
        assert kept.dtype == np.int64 and found.dtype == np.float32
        assert len(set(kept.tolist())) == len(kept) <= most
        np.testing.assert_allclose(found, wanted[kept], rtol=1e-5, atol=1e-7)
        assert (np.diff(found) <= 0).all() and (found >= threshold).all()
        others = np.delete(wanted, kept)
        least = found[-1] if len(kept) == most else threshold
        assert (others <= least * (1 + 1e-5) + 1e-7).all()


def test_a_crowd_of_neighbours_keeps_more_than_one() -> None:
    """Two objects side by side: the second keeps most of its score, a double of the first hardly any."""
    boxes = np.array([[0, 0, 40, 100], [2, 0, 42, 100], [25, 0, 65, 100]], np.float32)
    scores = np.array([0.9, 0.8, 0.7], np.float32)
    kept, found = matrix_nms(boxes, scores, np.zeros(3, np.int64), score_threshold=0.25, max_detections=9)
    assert kept.tolist() == [0, 2]
    assert found[1] > 0.5


def test_empty_boxes_and_nothing() -> None:
    none, scores = matrix_nms(
        np.zeros((0, 4), np.float32),
        np.zeros(0, np.float32),
        np.zeros(0, np.int64),
        score_threshold=0.5,
        max_detections=9,
    )
    assert none.shape == scores.shape == (0,)
    points = np.array([[5, 5, 5, 5], [5, 5, 5, 5]], np.float32)
    kept, scores = matrix_nms(
        points, np.array([0.2, 0.9], np.float32), np.zeros(2, np.int64), score_threshold=0.1, max_detections=9
    )
    assert kept.tolist() == [1, 0] and scores.tolist() == [np.float32(0.9), np.float32(0.2)]
