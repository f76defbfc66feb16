"""Drift between lists of detections whose difference is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgeyolo.evaluation import measure_drift
from edgeyolo.evaluation.drift import compare_detections
from edgeyolo.spec.detections import Detections
from edgeyolo.spec.errors import DataError

BLANK = np.zeros((8, 8, 3), np.uint8)


def detections(*rows: tuple[list[float], int, float]) -> Detections:
    return Detections(
        np.array([box for box, _, _ in rows], np.float32).reshape(-1, 4),
        np.array([score for *_, score in rows], np.float32),
        np.array([class_id for _, class_id, _ in rows], np.int64),
    )


def test_a_known_difference_is_counted() -> None:
    reference = detections(([0, 0, 10, 10], 0, 0.9), ([50, 50, 60, 60], 1, 0.8), ([90, 0, 99, 9], 0, 0.4))
    candidate = detections(([0, 0, 10, 8], 0, 0.7), ([50, 50, 60, 60], 0, 0.8), ([90, 0, 99, 9], 0, 0.5))
    row = compare_detections("p", reference, candidate)
    assert (row.matched, row.only_reference, row.only_candidate) == (2, 1, 1)  # the second changed its class
    assert row.mean_iou == pytest.approx((0.8 + 1.0) / 2)
    assert row.mean_score_difference == pytest.approx((0.2 + 0.1) / 2, abs=1e-6)


def test_matching_takes_the_best_overlap_and_each_object_once() -> None:
    reference = detections(([0, 0, 10, 10], 0, 0.9))
    candidate = detections(([0, 0, 10, 7], 0, 0.9), ([0, 0, 10, 9], 0, 0.3))
    row = compare_detections("p", reference, candidate)
    assert (row.matched, row.only_reference, row.only_candidate) == (1, 0, 1)
    assert row.mean_iou == pytest.approx(0.9)
    assert compare_detections("p", reference, candidate, match_iou=0.95).matched == 0


def test_identical_detectors_do_not_drift() -> None:
    found = detections(([0, 0, 4, 4], 0, 0.9), ([2, 2, 8, 8], 1, 0.5))
    drift = measure_drift(lambda _: found, lambda _: found, [("a", BLANK), ("b", BLANK)])
    assert (drift.pictures, drift.matched, drift.only_reference, drift.only_candidate) == (2, 4, 0, 0)
    assert drift.mean_iou == pytest.approx(1.0) and drift.mean_score_difference == 0.0


def test_means_are_over_objects_and_the_worst_pictures_come_first() -> None:
    one = detections(([0, 0, 10, 10], 0, 0.9))
    shifted = detections(([0, 0, 10, 6], 0, 0.8))
    two = detections(([0, 0, 10, 10], 0, 0.9), ([20, 0, 30, 10], 0, 0.6))
    # same, shifted, lost both, and lost one
    references, candidates = (
        itertools.cycle([one, one, two, two]),
        itertools.cycle([one, shifted, Detections.empty(), one]),
    )
    pictures = [(name, BLANK) for name in ("same", "shifted", "lost-both", "lost-one")]
    drift = measure_drift(lambda _: next(references), lambda _: next(candidates), pictures, worst_count=3)
    assert (drift.matched, drift.only_reference, drift.only_candidate) == (3, 3, 0)
    assert drift.mean_iou == pytest.approx((1.0 + 0.6 + 1.0) / 3)
    assert drift.mean_score_difference == pytest.approx(0.1 / 3, abs=1e-6)
    assert [row.name for row in drift.worst] == ["lost-both", "lost-one", "shifted"]
    assert drift.worst[0].mean_iou == -1.0


def test_nothing_found_and_nothing_given() -> None:
    drift = measure_drift(lambda _: Detections.empty(), lambda _: Detections.empty(), [("a", BLANK)])
    assert (drift.matched, drift.mean_iou, drift.mean_score_difference) == (0, -1.0, -1.0)
    with pytest.raises(DataError, match="no pictures"):
        measure_drift(lambda _: Detections.empty(), lambda _: Detections.empty(), [])
