"""The loss of YOLOv1 against equation 3 of its paper, cell by cell in double precision."""

from __future__ import annotations

import math

import pytest
import torch

from edgeyolo.criteria.grid import GridCriterion
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.model import GridDecode

K, S, IMAGE_HW = 3, 32, (96, 128)
DECODE = GridDecode(strides=(S,), boxes=2)
TARGETS = [  # the second and third are in one cell, the last has no area; the picture in the middle has none
    (0, 1, 10.0, 8.0, 60.0, 50.0),
    (0, 2, 70.0, 70.0, 90.0, 80.0),
    (0, 0, 66.0, 66.0, 88.0, 90.0),
    (2, 0, 90.0, 5.0, 128.0, 60.0),
    (2, 1, 30.0, 30.0, 30.0, 40.0),
]


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    inter = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def plain_loss(raw: torch.Tensor) -> dict[str, float]:
    parts = {"box": 0.0, "confidence": 0.0, "class": 0.0}
    height, width = IMAGE_HW
    for picture in range(len(raw)):
        owners: dict[tuple[int, int], tuple] = {}
        for thing in TARGETS:
            _, _, x1, y1, x2, y2 = thing
            if thing[0] == picture and x2 > x1:
                owners.setdefault((int((y1 + y2) / 2 // S), int((x1 + x2) / 2 // S)), thing)
        for i in range(height // S):
            for j in range(width // S):
                v = raw[picture, :, i, j].tolist()
                boxes = [v[:5], v[5:10]]
                if (i, j) not in owners:
                    parts["confidence"] += 0.5 * sum(box[4] ** 2 for box in boxes)
                    continue
                _, label, *sides = owners[i, j]
                found = []
                for x, y, w, h, _ in boxes:
                    cx, cy, half_w, half_h = (x + j) * S, (y + i) * S, w * w * width / 2, h * h * height / 2
                    found.append(overlap((cx - half_w, cy - half_h, cx + half_w, cy + half_h), tuple(sides)))
                best = 0 if found[0] >= found[1] else 1
                x, y, w, h, sure = boxes[best]
                cx, cy = (sides[0] + sides[2]) / 2 / S - j, (sides[1] + sides[3]) / 2 / S - i
                parts["box"] += 5 * ((x - cx) ** 2 + (y - cy) ** 2)
                parts["box"] += 5 * (w - math.sqrt((sides[2] - sides[0]) / width)) ** 2
                parts["box"] += 5 * (h - math.sqrt((sides[3] - sides[1]) / height)) ** 2
                parts["confidence"] += (sure - found[best]) ** 2 + 0.5 * boxes[1 - best][4] ** 2
                parts["class"] += sum((p - (k == label)) ** 2 for k, p in enumerate(v[10:]))
    return {name: part / len(raw) for name, part in parts.items()}


def make_map() -> torch.Tensor:
    return torch.rand(3, 10 + K, IMAGE_HW[0] // S, IMAGE_HW[1] // S, generator=torch.Generator().manual_seed(1))


def test_the_loss_is_what_the_paper_says() -> None:
    raw = make_map()
    loss = GridCriterion(DECODE, K)([raw], torch.tensor(TARGETS), IMAGE_HW)
    assert {name: part.item() for name, part in loss.parts.items()} == pytest.approx(plain_loss(raw), rel=1e-4)
    torch.testing.assert_close(loss.total, sum(loss.parts.values()))


def test_a_batch_without_objects_asks_for_no_confidence_alone() -> None:
    raw = make_map().requires_grad_()
    loss = GridCriterion(DECODE, K)([raw], torch.zeros(0, 6), IMAGE_HW)
    loss.total.backward()
    assert loss.parts["box"] == loss.parts["class"] == 0 < loss.parts["confidence"]
    assert raw.grad is not None and raw.grad[:, [4, 9]].all() and not raw.grad[:, 10:].any()


def test_other_losses_are_refused() -> None:
    criterion = GridCriterion(DECODE, K)
    criterion.choose_box_loss(None, None)
    with pytest.raises(UsageError, match="squared errors"):
        criterion.choose_box_loss(None, 3.0)
    with pytest.raises(UsageError, match="squared errors"):
        criterion.choose_class_loss("bce")
