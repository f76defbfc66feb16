"""The batched ATSS assigner against a plain loop written from algorithm 1 of the paper."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
import torch

from edgeyolo.assigners import assignment as assignment_module
from edgeyolo.assigners.assignment import make_point_grid, pad_objects
from edgeyolo.assigners.atss import AtssAssigner

TOP_K, CELLS, CLASSES = 9, 5.0, 5


def iou_of(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union


def reference(scene: Any, picture: int) -> dict[int, tuple[int, list[float], float]]:
    """Point -> (class, box, IoU with the prediction) of the positives of one picture."""
    points, strides = scene.grid.points_xy.tolist(), scene.grid.strides.tolist()
    anchors = [
        [x - s * CELLS / 2, y - s * CELLS / 2, x + s * CELLS / 2, y + s * CELLS / 2]
        for (x, y), s in zip(points, strides, strict=True)
    ]
    claims: dict[int, list[int]] = {}
    objects = scene.objects_of(picture)
    for m, (_, box) in enumerate(objects):
        centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        candidates: list[int] = []
        start = 0
        for height, width in scene.grid.level_hw:
            size = height * width
            level = range(start, start + size)
            ranked = sorted(((points[a][0] - centre[0]) ** 2 + (points[a][1] - centre[1]) ** 2, a) for a in level)
            candidates += [a for _, a in ranked[:TOP_K]]
            start += size
        ious = [iou_of(box, anchors[a]) for a in candidates]
        threshold = statistics.mean(ious) + statistics.stdev(ious)
        for a, iou in zip(candidates, ious, strict=True):
            x, y = points[a]
            if iou >= threshold and box[0] < x < box[2] and box[1] < y < box[3]:
                claims.setdefault(a, []).append(m)
    predicted = scene.boxes_xyxy[picture].double().tolist()
    result = {}
    for a, claimants in claims.items():
        most = max(range(len(objects)), key=lambda m, a=a: iou_of(objects[m][1], anchors[a]))
        label, box = objects[most if len(claimants) > 1 else claimants[0]]
        result[a] = (label, box, iou_of(box, predicted[a]))
    return result


def assert_matches(scene: Any) -> None:
    found = AtssAssigner(TOP_K, CELLS).assign(
        scene.boxes_xyxy, scene.grid, pad_objects(scene.targets, len(scene.scores)), CLASSES
    )
    for picture in range(len(scene.scores)):
        wanted = reference(scene, picture)
        assert found.positive[picture].nonzero().flatten().tolist() == sorted(wanted)
        scores = torch.zeros(scene.scores.shape[1:])
        for a, (label, box, quality) in wanted.items():
            assert found.labels[picture, a] == label
            assert found.boxes_xyxy[picture, a].tolist() == pytest.approx(box, abs=1e-5)
            scores[a, label] = quality
        torch.testing.assert_close(found.scores[picture], scores, atol=1e-5, rtol=1e-4)
        assert (found.labels[picture][~found.positive[picture]] == CLASSES).all()


def test_matches_the_plain_loop(scene: Any) -> None:
    assert_matches(scene)


def test_chunks_of_objects_change_nothing(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assignment_module, "_CHUNK_ELEMENTS", 2000)
    assert_matches(scene)


def test_a_contested_anchor_goes_to_the_object_that_overlaps_it_most_of_all() -> None:
    """Two small objects claim the anchor of the first point; a third one, which the point is not in, is nearly it."""
    grid = make_point_grid([(2, 2)], [8], torch.device("cpu"))  # the first anchor is -16, -16, 24, 24
    small, shifted, outside = [2.0, 2, 6, 6], [3.0, 3, 7, 7], [-16.0, -16, 24, 3.5]

    def owner(*objects: list[float]) -> tuple[list[float], float]:
        targets = torch.tensor([[0.0, 0, *box] for box in objects])
        boxes = torch.tensor(outside).expand(1, 4, 4)
        found = AtssAssigner(top_k=4).assign(boxes, grid, pad_objects(targets, 1), 1)
        assert found.positive.tolist() == [[True, False, False, False]]
        return found.boxes_xyxy[0, 0].tolist(), found.quality[0, 0].item()

    assert owner(small, shifted, outside) == (outside, 1.0)
    assert owner(small, outside)[0] == small


def test_large_objects_go_to_coarse_levels_and_small_ones_to_fine_levels() -> None:
    grid = make_point_grid([(20, 20), (10, 10), (5, 5)], (8, 16, 32), torch.device("cpu"))
    targets = torch.tensor([[0.0, 0, 60, 60, 100, 100], [1.0, 0, 0, 0, 160, 160]])  # 5 cells of stride 8, and of 32
    found = AtssAssigner().assign(torch.zeros(2, 525, 4), grid, pad_objects(targets, 2), 1)
    assert set(grid.strides[found.positive[0]].tolist()) == {8.0}
    assert set(grid.strides[found.positive[1]].tolist()) == {32.0}


def test_padding_keeps_the_order_of_objects_and_pictures() -> None:
    targets = torch.tensor([[2.0, 7, 1, 2, 3, 4], [0.0, 5, 5, 6, 7, 8], [2.0, 6, 9, 10, 11, 12]])
    objects = pad_objects(targets, 4)
    assert objects.present.tolist() == [[True, False], [False, False], [True, True], [False, False]]
    assert objects.labels.tolist() == [[5, 0], [0, 0], [7, 6], [0, 0]]
    assert objects.boxes_xyxy[2].tolist() == [[1, 2, 3, 4], [9, 10, 11, 12]]
