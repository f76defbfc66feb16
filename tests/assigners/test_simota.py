"""The batched SimOTA assigner against a plain loop written from the papers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from edgeyolo.assigners import assignment as assignment_module
from edgeyolo.assigners.assignment import make_point_grid, pad_objects
from edgeyolo.assigners.simota import SimOtaAssigner

RADIUS, IOU_WEIGHT, TOP_IOUS = 2.5, 3.0, 10


def iou_of(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union


def log_of(value: float) -> float:
    return max(-100.0, math.log(value)) if value > 0 else -100.0


def near(box: list[float], point: list[float], stride: float) -> tuple[bool, bool]:
    x, y = point
    in_box = box[0] < x < box[2] and box[1] < y < box[3]
    off = max(abs(x - (box[0] + box[2]) / 2), abs(y - (box[1] + box[3]) / 2))
    return in_box, off < RADIUS * stride


def reference(scene: Any, picture: int) -> dict[int, tuple[int, list[float], float]]:
    """Point -> (class, box, IoU) of the positives of one picture."""
    points, strides = scene.grid.points_xy.tolist(), scene.grid.strides.tolist()
    boxes, scores = scene.boxes_xyxy[picture].double().tolist(), scene.scores[picture].double().tolist()
    objects = scene.objects_of(picture)
    everywhere = range(len(points))
    candidates = [a for a in everywhere if any(any(near(box, points[a], strides[a])) for _, box in objects)]
    claims: dict[int, list[tuple[float, int, float]]] = {}
    for m, (label, box) in enumerate(objects):
        ious = {a: iou_of(box, boxes[a]) for a in candidates}
        ranked = []
        for a in candidates:
            cost = -sum(log_of(p) if k == label else log_of(1 - p) for k, p in enumerate(scores[a]))
            cost += -IOU_WEIGHT * math.log(ious[a] + 1e-8) + 1e5 * (not all(near(box, points[a], strides[a])))
            ranked.append((cost, a))
        k = max(1, int(sum(sorted(ious.values(), reverse=True)[:TOP_IOUS]) + 1e-6))
        for cost, a in sorted(ranked)[:k]:
            claims.setdefault(a, []).append((cost, m, ious[a]))
    result = {}
    for a, claimants in claims.items():
        _, m, iou = min(claimants)
        result[a] = (*objects[m], iou)
    return result


def assert_matches(scene: Any) -> None:
    objects = pad_objects(scene.targets, len(scene.scores))
    found = SimOtaAssigner(RADIUS, IOU_WEIGHT, TOP_IOUS).assign(scene.scores, scene.boxes_xyxy, scene.grid, objects)
    classes = scene.scores.shape[-1]
    for picture in range(len(scene.scores)):
        wanted = reference(scene, picture)
        assert found.positive[picture].nonzero().flatten().tolist() == sorted(wanted)
        scores = torch.zeros(scene.scores.shape[1:])
        for a, (label, box, quality) in wanted.items():
            assert found.labels[picture, a] == label
            assert found.boxes_xyxy[picture, a].tolist() == pytest.approx(box, abs=1e-5)
            scores[a, label] = quality
        torch.testing.assert_close(found.scores[picture], scores, atol=1e-5, rtol=1e-4)
        assert (found.labels[picture][~found.positive[picture]] == classes).all()


def test_matches_the_plain_loop(scene: Any) -> None:
    assert_matches(scene)


def test_chunks_of_objects_change_nothing(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assignment_module, "_CHUNK_ELEMENTS", 2000)
    assert_matches(scene)


def test_every_object_near_the_picture_claims_at_least_one_point() -> None:
    grid = make_point_grid([(8, 8)], [8], torch.device("cpu"))
    targets = torch.tensor([[0.0, 0, 20.2, 20.2, 21.4, 21.4]])  # no cell centre inside
    nowhere = torch.zeros(1, 64, 4)
    found = SimOtaAssigner().assign(torch.full((1, 64, 1), 0.5), nowhere, grid, pad_objects(targets, 1))
    assert int(found.positive.sum()) == 1
    assert grid.points_xy[found.positive[0]].sub(20.8).abs().max() < 2.5 * 8


def test_dynamic_k_counts_the_overlaps() -> None:
    grid = make_point_grid([(8, 8)], [8], torch.device("cpu"))
    box = torch.tensor([0.0, 0, 64, 64])
    boxes = box.repeat(1, 64, 1)
    objects = pad_objects(torch.tensor([[0.0, 0, 0, 0, 64, 64]]), 1)
    perfect = SimOtaAssigner().assign(torch.full((1, 64, 1), 0.5), boxes, grid, objects)
    assert int(perfect.positive.sum()) == 10
    half = SimOtaAssigner().assign(torch.full((1, 64, 1), 0.5), boxes * torch.tensor([1, 1, 0.55, 1]), grid, objects)
    assert int(half.positive.sum()) == 5
