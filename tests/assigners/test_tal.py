"""The batched task-aligned assigner against a plain loop written from the published definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from edgeyolo.assigners import tal as tal_module
from edgeyolo.assigners.assignment import PointGrid, make_point_grid, pad_objects
from edgeyolo.assigners.tal import ScoreAt, TaskAlignedAssigner

TOP_K, ALPHA, BETA, EPSILON = 13, 1.0, 6.0, 1e-9


def iou_of(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union


def reference(scene: Any, picture: int) -> dict[int, tuple[int, list[float], float]]:
    """Point -> (class, box, quality) of the positives of one picture."""
    points = scene.grid.points_xy.tolist()
    boxes, scores = scene.boxes_xyxy[picture].double().tolist(), scene.scores[picture].double().tolist()
    objects = scene.objects_of(picture)
    overlap = [[iou_of(wanted, box) for box in boxes] for _, wanted in objects]
    aligned = [
        [score[label] ** ALPHA * iou**BETA for score, iou in zip(scores, row, strict=True)]
        for (label, _), row in zip(objects, overlap, strict=True)
    ]
    claims: dict[int, list[int]] = {}
    for m, (_, box) in enumerate(objects):
        inside = [a for a, (x, y) in enumerate(points) if box[0] < x < box[2] and box[1] < y < box[3]]
        for a in sorted(inside, key=lambda a, m=m: (-aligned[m][a], a))[:TOP_K]:
            if np.float32(aligned[m][a]) > 0:  # what underflows in float32 is no alignment
                claims.setdefault(a, []).append(m)
    won = {
        a: max(range(len(objects)), key=lambda m, a=a: overlap[m][a]) if len(by) > 1 else by[0]
        for a, by in claims.items()
    }
    result = {}
    for a, m in won.items():
        mine = [point for point, owner in won.items() if owner == m]
        most = max(aligned[m][point] for point in mine) + EPSILON
        quality = aligned[m][a] / most * max(overlap[m][point] for point in mine)
        result[a] = (objects[m][0], objects[m][1], quality)
    return result


def score_of(scores: torch.Tensor) -> ScoreAt:
    return lambda picture, point, label: scores[picture, point, label]


def assert_matches(scene: Any, top_k: int = TOP_K) -> None:
    objects = pad_objects(scene.targets, len(scene.scores))
    classes = scene.scores.shape[-1]
    assigner = TaskAlignedAssigner(top_k, ALPHA, BETA)
    found = assigner.assign(score_of(scene.scores), scene.boxes_xyxy, scene.grid, objects, classes)
    assert found.labels.dtype == torch.int64
    for picture in range(len(scene.scores)):
        wanted = reference(scene, picture)
        assert found.positive[picture].nonzero().flatten().tolist() == sorted(wanted)
        scores = torch.zeros(scene.scores.shape[1:])
        for a, (label, box, quality) in wanted.items():
            assert found.labels[picture, a] == label
            assert found.boxes_xyxy[picture, a].tolist() == pytest.approx(box, abs=1e-5)
            scores[a, label] = quality
        torch.testing.assert_close(found.scores[picture], scores, atol=1e-5, rtol=1e-4)
        background = ~found.positive[picture]
        assert (found.labels[picture][background] == classes).all()
        assert (found.boxes_xyxy[picture][background] == 0).all()


def test_matches_the_plain_loop(scene: Any) -> None:
    assert_matches(scene)


def test_chunks_of_objects_change_nothing(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tal_module, "_CHUNK_PAIRS", 600)  # seven objects at a time
    assert_matches(scene)


def test_the_best_point_of_an_object_is_asked_for_its_best_iou() -> None:
    grid = make_point_grid([(4, 4)], [8], torch.device("cpu"))
    boxes = torch.cat((grid.points_xy - 6, grid.points_xy + 6), dim=1)[None]
    targets = torch.tensor([[0.0, 1, 4, 4, 28, 28]])
    scores = torch.full((1, 16, 2), 0.5)
    found = TaskAlignedAssigner().assign(score_of(scores), boxes, grid, pad_objects(targets, 1), 2)
    assert found.scores.max().item() == pytest.approx(144 / 576, rel=1e-4)
    assert int(found.positive.sum()) == 4  # centres 4 and 28 lie on the edge: 12 and 20 remain in each direction


def one_point(side: float, score: float, *objects: list[float]) -> tuple[list[float], float]:
    """The object that the only point, whose box is a square around it, is given, and the quality asked of it."""
    grid = make_point_grid([(1, 1)], [8], torch.device("cpu"))  # at 4, 4
    boxes = torch.cat((grid.points_xy - side / 2, grid.points_xy + side / 2), dim=1)[None]
    targets = torch.tensor([[0.0, 0, *box] for box in objects])
    found = TaskAlignedAssigner().assign(
        score_of(torch.full((1, 1, 1), score)), boxes, grid, pad_objects(targets, 1), 1
    )
    return found.boxes_xyxy[0, 0].tolist(), found.quality.item()


def test_a_contested_point_goes_to_the_object_that_overlaps_most_of_all() -> None:
    """Be it one that the point is not in; a point that one object claims is not contested."""
    small, shifted, outside = [2.0, 2, 6, 6], [3.0, 3, 7, 7], [4.0, -6, 14, 14]
    owner, quality = one_point(20, 0.5, small, shifted, outside)
    assert owner == outside
    assert quality == pytest.approx(0.5, rel=1e-4)  # IoU of half of the box
    assert one_point(20, 0.5, small, outside)[0] == small


def test_hardly_anything_is_asked_while_alignments_are_tiny() -> None:
    """t / (max t + 1e-9): a network that has learnt nothing is not asked for the IoU that it happens to have."""
    iou = 8**2 / 128**2
    t = 0.01 * iou**6
    _, quality = one_point(128, 0.01, [0.0, 0, 8, 8])
    assert quality == pytest.approx(t / (t + 1e-9) * iou, rel=1e-4)
    assert 0 < quality < 1e-6 * iou


def test_three_hundred_objects_on_a_full_grid_keep_memory_small() -> None:
    """The dense temporaries are some objects at a time: far below (B, M, A, 4) floats, 645 MB for two pictures."""
    import resource

    size = 640
    grid: PointGrid = make_point_grid([(80, 80), (40, 40), (20, 20)], (8, 16, 32), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(600, 2, generator=generator) * 500
    side = torch.rand(600, 2, generator=generator) * 120 + 8
    rows = torch.cat((torch.arange(2.0).repeat_interleave(300)[:, None], torch.zeros(600, 1), corner, corner + side), 1)
    boxes = torch.cat((grid.points_xy - 30, grid.points_xy + 30), dim=1).expand(2, -1, -1)
    scores = torch.rand(2, len(boxes[0]), 3, generator=generator)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = TaskAlignedAssigner().assign(score_of(scores), boxes, grid, pad_objects(rows, 2), 3)
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert found.positive.any(dim=1).all()
    assert found.boxes_xyxy.max() <= size
    assert grown_mib < 400
