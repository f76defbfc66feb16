"""mAP through pycocotools against a small count of our own, written from the definition."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeyolo.data.dataset import Dataset, Record
from edgeyolo.data.report import Report
from edgeyolo.evaluation import evaluate
from edgeyolo.spec.detections import Detections, Image
from edgeyolo.spec.errors import DataError

NAMES = ("cat", "dog", "never there")
Boxes = list[tuple[list[float], int]]  # box_xyxy and class id


@pytest.fixture(scope="module")
def image_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "grey.png"
    assert cv2.imwrite(str(path), np.full((300, 400, 3), 90, np.uint8))
    return path


def arrays(boxes: Boxes) -> tuple[np.ndarray, np.ndarray]:
    return (
        np.array([box for box, _ in boxes], np.float32).reshape(-1, 4),
        np.array([class_id for _, class_id in boxes], np.int64),
    )


def make_dataset(image_path: Path, truth: list[Boxes], ignored: list[Boxes] | None = None) -> Dataset:
    ignored = ignored or [[] for _ in truth]
    records = [
        Record(image_path, f"p{i}", (300, 400), *arrays(boxes), *arrays(ignored[i])) for i, boxes in enumerate(truth)
    ]
    report = Report(
        data="cells",
        split="val",
        pictures=len(truth),
        backgrounds=0,
        boxes=0,
        ignored_boxes=0,
        classes={},
        problems={},
        examples=(),
    )
    return Dataset("cells", "val", NAMES, records, report)


def player(found: list[Detections]) -> Callable[[Image], Detections]:
    """A detector that plays recorded detections."""
    pending: Iterator[Detections] = iter(found)

    def detect(image: Image) -> Detections:
        assert image.shape == (300, 400, 3)
        return next(pending)

    return detect


def make_detections(rows: list[tuple[list[float], int, float]]) -> Detections:
    rows = sorted(rows, key=lambda row: -row[2])
    boxes, class_ids = arrays([(box, c) for box, c, _ in rows])
    return Detections(boxes, np.array([s for *_, s in rows], np.float32), class_ids)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(w, 0.0) * max(h, 0.0)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def brute_force_ap(truth: list[Boxes], found: list[Detections], class_id: int, threshold: float) -> float:
    """Average precision of one class over 101 recalls; every detection in order of score takes the best free object."""
    rows = []
    for i, detections in enumerate(found):
        objects = [np.array(box, np.float64) for box, c in truth[i] if c == class_id]
        free = set(range(len(objects)))
        for box, score, c in zip(detections.boxes_xyxy, detections.scores, detections.class_ids, strict=True):
            if c == class_id:
                best = max(free, key=lambda j: overlap(box.astype(float), objects[j]), default=None)
                right = best is not None and overlap(box.astype(float), objects[best]) >= threshold
                if right:
                    free.discard(best)
                rows.append((-float(score), right))
    total = sum(c == class_id for boxes in truth for _, c in boxes)
    hits = np.cumsum([right for _, right in sorted(rows)]) if rows else np.zeros(0)
    recall = hits / total
    precision = hits / np.arange(1, len(hits) + 1)
    return float(np.mean([max(precision[recall >= r], default=0.0) for r in np.linspace(0, 1, 101)]))


def random_scene(seed: int) -> tuple[list[Boxes], list[Detections]]:
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for _ in range(8):
        objects: Boxes = []
        for _ in range(int(rng.integers(0, 7))):
            x, y = rng.uniform(0, 300), rng.uniform(0, 200)
            w, h = rng.uniform(8, 90, 2)
            objects.append(([x, y, x + w, y + h], int(rng.integers(2))))
        rows = []
        for box, class_id in objects:
            for _ in range(int(rng.integers(0, 3))):
                moved = (np.array(box) + rng.normal(0, 2.5, 4)).tolist()
                rows.append((moved, class_id if rng.random() < 0.9 else 1 - class_id, float(rng.uniform(0.05, 1))))
        for _ in range(int(rng.integers(0, 4))):
            x, y = rng.uniform(0, 300, 2)
            rows.append(([x, y, x + 30, y + 40], int(rng.integers(2)), float(rng.uniform(0.05, 0.8))))
        truth.append(arrays_as_stored(objects))
        found.append(make_detections(rows))
    return truth, found


def arrays_as_stored(objects: Boxes) -> Boxes:
    """Boxes as float32 keeps them, so that both counts see the same numbers."""
    return [(np.array(box, np.float32).astype(float).tolist(), c) for box, c in objects]


@pytest.mark.parametrize("seed", range(6))
def test_ap_is_what_the_definition_says(image_path: Path, seed: int) -> None:
    truth, found = random_scene(seed)
    score = evaluate(player(found), make_dataset(image_path, truth), artefact="test")
    thresholds = np.linspace(0.5, 0.95, 10)
    ap = np.array([[100 * brute_force_ap(truth, found, c, t) for t in thresholds] for c in (0, 1)])
    assert 5 < ap.mean() < 95, "the scene must be neither trivial nor hopeless"
    assert score.ap == pytest.approx(ap.mean(), abs=0.01)
    assert score.ap50 == pytest.approx(ap[:, 0].mean(), abs=0.01)
    assert score.ap75 == pytest.approx(ap[:, 5].mean(), abs=0.01)
    assert score.per_class == pytest.approx({"cat": ap[0].mean(), "dog": ap[1].mean(), "never there": -1.0}, abs=0.01)
    assert (score.images, score.boxes) == (8, sum(map(len, truth)))
    assert (score.artefact, score.data, score.split) == ("test", "cells", "val")


def test_areas_are_those_of_the_boxes(image_path: Path) -> None:
    truth: list[Boxes] = [[([0, 0, 31, 31], 0), ([100, 0, 150, 50], 0), ([200, 0, 300, 100], 0)]]
    found = [make_detections([([0, 0, 31, 31], 0, 0.9), ([200, 0, 300, 100], 0, 0.8)])]
    score = evaluate(player(found), make_dataset(image_path, truth), artefact="test")
    assert (score.ap_small, score.ap_medium, score.ap_large) == (100.0, 0.0, 100.0)


def test_ignored_objects_are_neither_right_nor_wrong(image_path: Path) -> None:
    truth: list[Boxes] = [[([0, 0, 50, 50], 0)]]
    found = [make_detections([([100, 100, 150, 150], 0, 0.9), ([0, 0, 50, 50], 0, 0.8)])]
    strict = evaluate(player(found), make_dataset(image_path, truth), artefact="test")
    lenient = evaluate(player(found), make_dataset(image_path, truth, [[([90, 90, 160, 160], 0)]]), artefact="test")
    assert strict.ap == pytest.approx(50.0) and lenient.ap == 100.0
    assert lenient.boxes == 1


def test_no_detections_no_objects_and_neither(image_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    objects: list[Boxes] = [[([0, 0, 50, 50], 0)], []]
    none = [Detections.empty(), Detections.empty()]
    some = [make_detections([([0, 0, 9, 9], 1, 0.5)]), Detections.empty()]
    missed = evaluate(player(none), make_dataset(image_path, objects), artefact="test")
    assert (missed.ap, missed.ap50, missed.ap_small, missed.ap_medium) == (0.0, 0.0, -1.0, 0.0)
    assert missed.per_class == {"cat": 0.0, "dog": -1.0, "never there": -1.0}
    for found in (none, some):
        empty = evaluate(player(found), make_dataset(image_path, [[], []]), artefact="test")
        assert (empty.ap, empty.ap50, empty.ap_large, empty.boxes) == (-1.0, -1.0, -1.0, 0)
    assert capsys.readouterr().out == ""


def test_what_cannot_be_evaluated_says_so(image_path: Path) -> None:
    with pytest.raises(DataError, match="no pictures"):
        evaluate(player([]), make_dataset(image_path, []), artefact="test")
    found = [make_detections([([0, 0, 9, 9], 3, 0.5)])]
    with pytest.raises(DataError, match="class 3"):
        evaluate(player(found), make_dataset(image_path, [[]]), artefact="test")


def test_progress_is_told(image_path: Path) -> None:
    class Steps:
        def __init__(self) -> None:
            self.seen: list[tuple[str, int, int]] = []

        def step(self, stage: str, done: int, total: int, text: str = "") -> None:
            self.seen.append((stage, done, total))

    steps = Steps()
    evaluate(player([Detections.empty()] * 2), make_dataset(image_path, [[], []]), artefact="test", progress=steps)
    assert steps.seen == [("evaluate", 1, 2), ("evaluate", 2, 2)]


def test_an_unreadable_picture_counts_neither_way(
    image_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    truth = [[([10, 10, 60, 60], 0)], [([20, 20, 90, 90], 1)], [([30, 30, 70, 70], 0)]]
    dataset = make_dataset(image_path, truth)
    cut = tmp_path / "cut.png"
    cut.write_bytes(image_path.read_bytes()[:60])
    first, second, third = dataset.records
    dataset = replace(dataset, records=[first, replace(second, image_path=cut), third])
    found = Detections(*arrays(truth[0])[:1], np.ones(1, np.float32), np.zeros(1, np.int64))
    with caplog.at_level(logging.WARNING):
        score = evaluate(lambda _: found, dataset, artefact="x")
    rest = replace(dataset, records=[dataset.records[0], dataset.records[2]])
    assert score == evaluate(lambda _: found, rest, artefact="x")
    assert (score.images, score.boxes) == (2, 2) and "cut.png" in caplog.text
    alone = replace(dataset, records=dataset.records[1:2])
    with pytest.raises(DataError, match="no picture can be read"):
        evaluate(lambda _: found, alone, artefact="x")
