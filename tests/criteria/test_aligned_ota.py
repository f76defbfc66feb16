"""The DAMO-YOLO loss against a plain loop written from the paper's definition, in double precision, gradients too."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from edgeyolo.criteria.aligned_ota import AlignedOtaCriterion
from edgeyolo.spec.model import DflDecode

STRIDES, CLASSES, BINS, IMAGE_HW = (8, 16, 32), 3, 8, (96, 128)
DECODE = DflDecode(strides=STRIDES, bins=BINS, offset=0.0)


def make_maps(seed: int, pictures: int, sharpness: float) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    maps = []
    for stride in STRIDES:
        hw = (IMAGE_HW[0] // stride, IMAGE_HW[1] // stride)
        maps.append(torch.randn(pictures, CLASSES, *hw, generator=generator))
        maps.append(torch.randn(pictures, 4 * BINS, *hw, generator=generator) * sharpness)
    return maps


def make_targets(seed: int, counts: list[int]) -> Tensor:
    rng = np.random.default_rng(seed)
    rows = []
    for picture, count in enumerate(counts):
        for _ in range(count):
            x, y = rng.uniform(0, 128), rng.uniform(0, 96)
            w, h = rng.uniform(3, 60, 2)
            rows.append([picture, rng.integers(CLASSES), x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)


@dataclass
class Cell:
    """One prediction of one picture, differentiable: class scores (K,), distributions (4, bins), box (4,)."""

    scores: Tensor
    logits: Tensor
    box: Tensor
    x: float
    y: float
    stride: int

    def is_in_box(self, box: list[float]) -> bool:
        return box[0] < self.x < box[2] and box[1] < self.y < box[3]

    def is_at_centre(self, box: list[float]) -> bool:
        cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        return max(abs(self.x - cx), abs(self.y - cy)) < 2.5 * self.stride


def cells_of(maps: list[Tensor], picture: int) -> list[Cell]:
    cells = []
    for classes, boxes, stride in zip(maps[0::2], maps[1::2], STRIDES, strict=True):
        for row in range(classes.shape[2]):
            for column in range(classes.shape[3]):
                logits = boxes[picture, :, row, column].view(4, BINS)
                left, top, right, bottom = stride * (logits.softmax(1) * torch.arange(BINS)).sum(1)
                x, y = float(column * stride), float(row * stride)
                box = torch.stack((x - left, y - top, x + right, y + bottom))
                cells.append(Cell(classes[picture, :, row, column].sigmoid(), logits, box, x, y, stride))
    return cells


def iou_and_giou(box: Tensor, asked: list[float]) -> tuple[Tensor, Tensor]:
    """As float sums of areas say."""
    (a, b, c, d), (e, f, g, h) = box, torch.tensor(asked, dtype=torch.float64)
    inter = (torch.minimum(c, g) - torch.maximum(a, e)).clamp(min=0) * (
        torch.minimum(d, h) - torch.maximum(b, f)
    ).clamp(min=0)
    union = (c - a) * (d - b) + (g - e) * (h - f) - inter
    around = (torch.maximum(c, g) - torch.minimum(a, e)) * (torch.maximum(d, h) - torch.minimum(b, f))
    return inter / union, inter / union - (around - union) / around


def quality_focal(scores: Tensor, label: int, quality: float) -> Tensor:
    """(K,)."""
    asked = torch.zeros(CLASSES, dtype=torch.float64)
    if label >= 0:
        asked[label] = quality
    cross_entropy = -(asked * scores.log() + (1 - asked) * (1 - scores).log())
    return cross_entropy * (asked - scores).abs() ** 2


def match(cells: list[Cell], objects: list[tuple[int, list[float]]]) -> dict[int, tuple[int, float]]:
    """Cell -> its object, and their IoU."""
    candidates = [i for i, c in enumerate(cells) if any(c.is_in_box(b) or c.is_at_centre(b) for _, b in objects)]
    costs, overlaps, taken = [], [], {}
    for number, (label, box) in enumerate(objects):
        overlap = {i: iou_and_giou(cells[i].box, box)[0].item() for i in candidates}
        cost = {}
        for i in candidates:
            is_near = cells[i].is_in_box(box) and cells[i].is_at_centre(box)
            class_cost = quality_focal(cells[i].scores, label, overlap[i]).sum().item()
            cost[i] = class_cost - 3 * math.log(overlap[i] + 1e-7) + (0 if is_near else 1e8)
        k = max(1, int(sum(sorted(overlap.values())[-10:])))
        for i in sorted(candidates, key=cost.__getitem__)[:k]:
            taken.setdefault(i, []).append(number)
        costs.append(cost)
        overlaps.append(overlap)
    owner = {}
    for i, numbers in taken.items():
        rivals = numbers if len(numbers) == 1 else range(len(objects))
        number = min(rivals, key=lambda n, i=i: costs[n][i])
        owner[i] = (number, overlaps[number][i])
    return owner


def dfl(logits: Tensor, cell: Cell, asked: list[float]) -> Tensor:
    """Mean over the sides."""
    sides = [cell.x - asked[0], cell.y - asked[1], asked[2] - cell.x, asked[3] - cell.y]
    total = torch.zeros((), dtype=torch.float64)
    for side, distance in enumerate(sides):
        bins = min(max(distance / cell.stride, 0.0), BINS - 1 - 0.1)
        low = int(bins)
        log = logits[side].log_softmax(0)
        total = total - (low + 1 - bins) * log[low] - (bins - low) * log[low + 1]
    return total / 4


def published_loss(maps: list[Tensor], targets: Tensor) -> dict[str, Tensor]:
    totals = {name: torch.zeros((), dtype=torch.float64) for name in ("class", "iou", "dfl")}
    count, total_sure = 0, 0.0
    for picture in range(len(maps[0])):
        cells = cells_of(maps, picture)
        rows = targets[targets[:, 0] == picture].double().tolist()
        objects = [(int(row[1]), row[2:]) for row in rows]
        owner = match(cells, objects) if objects else {}
        count += len(owner)
        for i, cell in enumerate(cells):
            label, quality = (objects[owner[i][0]][0], owner[i][1]) if i in owner else (-1, 0.0)
            totals["class"] = totals["class"] + quality_focal(cell.scores, label, quality).sum()
        for i, (number, _) in owner.items():
            sure = cells[i].scores.max().item()
            total_sure += sure
            box = objects[number][1]
            totals["iou"] = totals["iou"] + 2 * sure * (1 - iou_and_giou(cells[i].box, box)[1])
            totals["dfl"] = totals["dfl"] + 0.25 * sure * dfl(cells[i].logits, cells[i], box)
    divisors = {"class": max(count, 1), "iou": max(total_sure, 1.0), "dfl": max(total_sure, 1.0)}
    return {name: total / divisors[name] for name, total in totals.items()}


@pytest.mark.parametrize("sharpness", [0.5, 2.0])
@pytest.mark.parametrize("counts", [[1], [6, 0, 3], [25], [0]])
def test_the_loss_and_its_gradient_are_the_published_ones(counts: list[int], sharpness: float) -> None:
    maps, targets = make_maps(len(counts), len(counts), sharpness), make_targets(sum(counts), counts)
    exact = [level.double().requires_grad_() for level in maps]
    wanted = published_loss(exact, targets)
    torch.stack(list(wanted.values())).sum().backward()
    maps = [level.requires_grad_() for level in maps]
    found = AlignedOtaCriterion(DECODE, CLASSES)(maps, targets, IMAGE_HW)
    found.total.backward()
    parts = {name: part.item() for name, part in wanted.items()}
    assert {name: part.item() for name, part in found.parts.items()} == pytest.approx(parts, rel=1e-5, abs=1e-12)
    assert found.total.item() == pytest.approx(sum(parts.values()), rel=1e-5)
    for ours, theirs in zip(maps, exact, strict=True):
        gradient = torch.zeros_like(theirs) if theirs.grad is None else theirs.grad
        error = (ours.grad - gradient).norm()
        assert error <= 1e-4 * gradient.norm()


def test_far_candidates_are_told_apart() -> None:
    """An object that no cell is near to takes the one that overlaps most, however much being far costs."""
    maps = make_maps(0, 1, 0.1)
    targets = torch.tensor([[0.0, 1, 65.0, 49.0, 71.0, 55.0]])  # between the corners of every level
    owner = match(cells_of([level.double() for level in maps], 0), [(1, targets[0, 2:].tolist())])
    criterion = AlignedOtaCriterion(DECODE, CLASSES)
    grid = criterion.make_grid(maps)
    found = criterion.match(maps, grid, targets)
    assert dict.fromkeys(found.point.tolist(), 0) == {i: number for i, (number, _) in owner.items()}


def test_an_object_outside_of_the_picture_matches_nothing() -> None:
    targets = torch.tensor([[0.0, 1, -190, -190, -160, -160]])
    loss = AlignedOtaCriterion(DECODE, CLASSES)(make_maps(0, 1, 1.0), targets, IMAGE_HW)
    assert loss.parts["iou"] == loss.parts["dfl"] == 0 and loss.total.isfinite()


def test_loss_is_float32_under_autocast_and_for_no_pictures() -> None:
    maps, targets = make_maps(0, 2, 1.0), make_targets(0, [4, 2])
    criterion = AlignedOtaCriterion(DECODE, CLASSES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = criterion(maps, targets, IMAGE_HW).total
    assert mixed.dtype == torch.float32 and mixed.item() == criterion(maps, targets, IMAGE_HW).total.item()
    empty = [m[:0].requires_grad_() for m in maps]
    nothing = criterion(empty, targets[:0], IMAGE_HW)
    nothing.total.backward()
    assert nothing.total == 0 and all(m.grad is not None for m in empty)
