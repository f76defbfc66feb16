"""The anchor of the best shape against plain loops over objects and anchors."""

from __future__ import annotations

import pytest
import torch

from edgeyolo.assigners import assignment
from edgeyolo.assigners.assignment import paired_iou
from edgeyolo.assigners.best_anchor import best_overlaps, match_best_anchors, unite_matches
from edgeyolo.spec.model import AnchorDecode

ANCHORS = (((8.0, 10.0), (14.0, 9.0)), ((30.0, 24.0), (20.0, 44.0), (60.0, 55.0)))
DECODE = AnchorDecode(strides=(8, 16), anchors_wh=ANCHORS, size="exp", reach=(1.0, 1.0))
LEVEL_HW = ((8, 12), (4, 6))


def random_targets(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(count, 2, generator=generator) * torch.tensor([96.0, 64.0])
    halves = torch.rand(count, 2, generator=generator) * 30
    rows = torch.randint(0, 3, (count, 2), generator=generator).float()
    return torch.cat((rows, centres - halves, centres + halves), dim=1)


def plain_matches(targets: torch.Tensor, threshold: float) -> list[tuple[int, ...]]:
    """(level, picture, anchor, row, column, object)."""
    found = []
    for number, (picture, _, x1, y1, x2, y2) in enumerate(targets.tolist()):
        w, h = x2 - x1, y2 - y1
        if w <= 0 or h <= 0:
            continue
        shapes = []
        for level, anchors in enumerate(ANCHORS):
            for a, (aw, ah) in enumerate(anchors):
                inter = min(w, aw) * min(h, ah)
                shapes.append((inter / (w * h + aw * ah - inter), level, a))
        best = max(shapes, key=lambda shape: shape[0])
        for shape in shapes:
            if shape == best or shape[0] > threshold:
                stride, (rows, columns) = DECODE.strides[shape[1]], LEVEL_HW[shape[1]]
                row = min(max(int((y1 + y2) / 2 / stride), 0), rows - 1)
                column = min(max(int((x1 + x2) / 2 / stride), 0), columns - 1)
                found.append((shape[1], int(picture), shape[2], row, column, number))
    return found


@pytest.mark.parametrize("threshold", [0.2, 0.5, 1.0])
def test_matches_are_those_of_plain_loops(threshold: float) -> None:
    targets = random_targets(60, seed=0)
    targets[7, 4] = targets[7, 2]
    found = match_best_anchors(targets, DECODE, LEVEL_HW, iou_threshold=threshold)
    cells = found.cells
    rows = torch.stack((cells.level, cells.picture, cells.anchor, cells.row, cells.column, found.target), dim=1)
    assert [tuple(row) for row in rows.tolist()] == plain_matches(targets, threshold)
    assert 7 not in found.target


def test_a_prediction_that_answers_for_several_is_there_once() -> None:
    targets = torch.tensor([[0, 0, 0, 0, 30, 24.0], [1, 0, 0, 0, 30, 24], [0, 2, 1, 1, 30, 24], [0, 1, 40, 40, 48, 50]])
    united = unite_matches(match_best_anchors(targets, DECODE, LEVEL_HW))
    answered = {(int(united.cells.picture[u]), tuple(united.owner[united.member == u].tolist())) for u in range(3)}
    assert answered == {(0, (0, 2)), (1, (1,)), (0, (3,))}
    assert sorted(united.last.tolist()) == [1, 2, 3]


@pytest.mark.parametrize("elements", [1 << 22, 50])
def test_best_overlaps_are_those_of_each_pair(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where only a few objects are looked at at a time."""
    monkeypatch.setattr(assignment, "_CHUNK_ELEMENTS", elements)
    targets, boxes_xyxy = random_targets(20, seed=1), random_targets(3 * 40, seed=2)[:, 2:].view(3, 40, 4)
    targets = targets[targets[:, 0] != 1]
    found = best_overlaps(boxes_xyxy, targets)
    assert not found[1].any()
    for picture in (0, 2):
        own = targets[targets[:, 0] == picture, 2:]
        wanted = torch.stack([paired_iou(own, box).max() for box in boxes_xyxy[picture]])
        torch.testing.assert_close(found[picture], wanted)
