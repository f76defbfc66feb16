"""Curves and confusion against plain counts; AP50 against the score of the same detections."""

from __future__ import annotations

import numpy as np
import pytest
from random_detections import NAMES, iou, make_case

from edgeyolo.data.dataset import Dataset, Record
from edgeyolo.evaluation.coco_map import score_detections
from edgeyolo.evaluation.confusion import count_confusion, pair_up
from edgeyolo.evaluation.curves import STEPS, measure_curves
from edgeyolo.spec.detections import Detections


def plain_f1(data: Dataset, found: dict[int, Detections], class_id: int, score: float) -> float:
    """Each detection, best first, takes the free object of its class that it overlaps most."""
    hits = detections = objects = 0
    for i, record in enumerate(data.records):
        mine = [box for box, c in zip(record.boxes_xyxy, record.class_ids, strict=True) if c == class_id]
        objects += len(mine)
        seen = found[i]
        for box, s, c in zip(seen.boxes_xyxy, seen.scores, seen.class_ids, strict=True):
            if c != class_id or s < np.float32(score):
                continue
            detections += 1
            overlaps = [iou(box, other) for other in mine]
            if overlaps and max(overlaps) >= 0.5:
                mine.pop(int(np.argmax(overlaps)))
                hits += 1
    return 2 * hits / (detections + objects)


def test_f1_is_what_a_plain_count_gives() -> None:
    data, found = make_case(0, crowds=False)
    curves = measure_curves(found, data)
    for class_id in (0, 1):
        for step in (0, 10, 33, 50, 80, 100):
            assert curves.f1[class_id, step] == pytest.approx(plain_f1(data, found, class_id, STEPS[step] - 1e-9))
    assert np.isnan(curves.f1[2]).all() and np.isnan(curves.precision[2]).all()
    best = curves.mean_f1.max()
    assert best == pytest.approx(np.mean([plain_f1(data, found, c, curves.best_score - 1e-9) for c in (0, 1)]))


@pytest.mark.parametrize("seed", range(3))
def test_the_mean_precision_of_a_class_is_its_ap50(seed: int) -> None:
    data, found = make_case(seed)
    curves, score = measure_curves(found, data), score_detections(found, data, artefact="x")
    assert 100 * np.nanmean(curves.precision) == pytest.approx(score.ap50, abs=1e-3)
    assert (np.diff(curves.precision[:2], axis=1) <= 1e-12).all()


def test_with_nothing_to_find_there_is_no_best_score() -> None:
    data, found = make_case(0)
    empty = [Record(r.image_path, r.image_id, r.image_hw, r.boxes_xyxy[:0], r.class_ids[:0]) for r in data.records]
    curves = measure_curves(found, Dataset("d", "val", NAMES, empty, data.report))
    assert np.isnan(curves.f1).all() and curves.best_score == 0.0


def plain_confusion(data: Dataset, found: dict[int, Detections]) -> np.ndarray:
    """Take the largest overlap of all, cross out its row and column, and so on."""
    matrix = np.zeros((4, 4), int)
    for i, record in enumerate(data.records):
        seen = found[i]
        left, objects = set(range(len(seen))), set(range(len(record.class_ids)))
        while True:
            options = [(iou(seen.boxes_xyxy[d], record.boxes_xyxy[t]), d, t) for d in left for t in objects]
            overlap, d, t = max(options, default=(0.0, 0, 0))
            if overlap < 0.5:
                break
            left.remove(d)
            objects.remove(t)
            matrix[record.class_ids[t], seen.class_ids[d]] += 1
        for d in left:
            if all(iou(seen.boxes_xyxy[d], crowd) < 0.5 for crowd in record.ignored_boxes_xyxy):
                matrix[3, seen.class_ids[d]] += 1
        for t in objects:
            matrix[record.class_ids[t], 3] += 1
    return matrix


@pytest.mark.parametrize("seed", range(4))
def test_confusion_is_what_a_plain_count_gives(seed: int) -> None:
    data, found = make_case(seed)
    matrix = sum(count_confusion(found[i], record, 3) for i, record in enumerate(data.records))
    np.testing.assert_array_equal(matrix, plain_confusion(data, found))
    assert matrix[:3].sum() == sum(len(r.class_ids) for r in data.records)
    assert matrix[:2, :2].sum() > 10 and matrix[3].sum() > 3 and matrix[:, 3].sum() > 3


def test_a_picture_with_nothing_has_no_pairs() -> None:
    data, found = make_case(1)
    record = data.records[0]
    nothing = Record(record.image_path, "x", (9, 9), record.boxes_xyxy[:0], record.class_ids[:0])
    assert len(pair_up(Detections.empty(), record).missed) == 6
    assert len(pair_up(found[0], nothing).extra) == len(found[0])
    assert count_confusion(Detections.empty(), nothing, 2).sum() == 0
