"""The YOLOX loss against a plain loop written from the paper's definition, in double precision."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edgeyolo import models
from edgeyolo.assigners.simota import SimOtaAssigner
from edgeyolo.criteria.simota import SimOtaCriterion
from edgeyolo.spec.model import PointDecode

STRIDES, CLASSES, IMAGE_HW = (8, 16, 32), 3, (96, 128)
DECODE = PointDecode(strides=STRIDES, box="centre", objectness=True)
OLD = SimOtaAssigner()
NEW = SimOtaAssigner(centre_radius=1.5, in_box=False, far_cost=1e6)
RARE = SimOtaAssigner(least_k=10)


def make_maps(seed: int, pictures: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    maps = []
    for stride in STRIDES:
        hw = (IMAGE_HW[0] // stride, IMAGE_HW[1] // stride)
        maps += [torch.randn(pictures, channels, *hw, generator=generator) for channels in (CLASSES, 1, 4)]
    return maps


def make_targets(seed: int, counts: list[int]) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    rows = []
    for picture, count in enumerate(counts):
        for _ in range(count):
            x, y = rng.uniform(0, 128), rng.uniform(0, 96)
            w, h = rng.uniform(3, 60, 2)
            rows.append([picture, rng.integers(CLASSES), x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)


def iou_of(a: np.ndarray, b: np.ndarray) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


class Cell:
    """One prediction of one picture."""

    def __init__(self, classes: np.ndarray, objectness: float, values: np.ndarray, column: int, row: int, stride: int):
        self.classes, self.objectness, self.values = classes, objectness, values
        self.column, self.row, self.stride = column, row, stride
        self.middle = ((column + 0.5) * stride, (row + 0.5) * stride)
        cx, cy = (values[0] + column) * stride, (values[1] + row) * stride
        w, h = math.exp(values[2]) * stride, math.exp(values[3]) * stride
        self.box = np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])

    def is_in_box(self, box: np.ndarray) -> bool:
        return box[0] < self.middle[0] < box[2] and box[1] < self.middle[1] < box[3]

    def is_at_centre(self, box: np.ndarray, radius: float) -> bool:
        centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        return all(abs(m - c) < radius * self.stride for m, c in zip(self.middle, centre, strict=True))

    def class_cost(self, label: int) -> float:
        p = np.sqrt(sigmoid(self.classes) * sigmoid(self.objectness))
        wanted = np.arange(CLASSES) == label
        return float(-(np.where(wanted, np.log(p), np.log(1 - p))).sum())


def cells_of(maps: list[torch.Tensor], picture: int) -> list[Cell]:
    cells = []
    for level, stride in enumerate(STRIDES):
        classes, objectness, boxes = (m[picture].double().numpy() for m in maps[3 * level : 3 * level + 3])
        for row in range(classes.shape[1]):
            for column in range(classes.shape[2]):
                at = (slice(None), row, column)
                cells.append(Cell(classes[at], objectness[0, row, column], boxes[at], column, row, stride))
    return cells


def match(cells: list[Cell], objects: list[tuple[int, np.ndarray]], rules: SimOtaAssigner) -> dict[int, int]:
    """Cell -> object."""

    def near(cell: Cell, box: np.ndarray) -> list[bool]:
        senses = [cell.is_at_centre(box, rules.centre_radius)]
        return [*senses, cell.is_in_box(box)] if rules.in_box else senses

    candidates = [i for i, cell in enumerate(cells) if any(any(near(cell, box)) for _, box in objects)]
    costs, taken = [], {}
    for number, (label, box) in enumerate(objects):
        cost, overlaps = {}, []
        for i in candidates:
            overlap = iou_of(cells[i].box, box)
            far = 0.0 if all(near(cells[i], box)) else rules.far_cost
            cost[i] = cells[i].class_cost(label) - 3.0 * math.log(overlap + 1e-8) + far
            overlaps.append(overlap)
        costs.append(cost)
        least = min(rules.least_k, sum(all(near(cells[i], box)) for i in candidates) // 5)
        k = max(1, least, int(sum(sorted(overlaps, reverse=True)[:10])))
        for i in sorted(candidates, key=lambda i, cost=cost: cost[i])[:k]:
            taken.setdefault(i, []).append(number)
    everyone = range(len(objects))
    return {
        i: numbers[0] if len(numbers) == 1 else min(everyone, key=lambda n, i=i: costs[n][i])
        for i, numbers in taken.items()
    }


def published_loss(maps: list[torch.Tensor], targets: torch.Tensor, rules: SimOtaAssigner) -> dict[str, float]:
    total = dict.fromkeys(("box", "objectness", "class", "l1"), 0.0)
    count = 0
    for picture in range(len(maps[0])):
        cells = cells_of(maps, picture)
        rows = targets[targets[:, 0] == picture].double().numpy()
        objects = [(int(row[1]), row[2:]) for row in rows]
        owner = match(cells, objects, rules) if objects else {}
        count += len(owner)
        for i, cell in enumerate(cells):
            p = sigmoid(cell.objectness)
            total["objectness"] -= math.log(p if i in owner else 1 - p)
        for i, number in owner.items():
            cell, (label, box) = cells[i], objects[number]
            overlap = iou_of(cell.box, box)
            total["box"] += 5 * (1 - overlap**2)
            q = (np.arange(CLASSES) == label) * overlap
            p = sigmoid(cell.classes)
            total["class"] -= (q * np.log(p) + (1 - q) * np.log(1 - p)).sum()
            centre = np.array([box[0] + box[2], box[1] + box[3]]) / 2 / cell.stride - (cell.column, cell.row)
            sides = np.log(np.array([box[2] - box[0], box[3] - box[1]]) / cell.stride)
            total["l1"] += np.abs(cell.values - np.concatenate((centre, sides))).sum()
    return {name: value / max(count, 1) for name, value in total.items()}


@pytest.mark.parametrize("rules", [OLD, NEW, RARE], ids=["paper", "later", "rare objects"])
@pytest.mark.parametrize("counts", [[1], [6, 0, 3], [25], [0]])
def test_the_loss_is_the_published_one(counts: list[int], rules: SimOtaAssigner) -> None:
    maps, targets = make_maps(len(counts), len(counts)), make_targets(sum(counts), counts)
    criterion = SimOtaCriterion(DECODE, CLASSES, l1_from_epoch=0, assigner=rules)
    found = criterion(maps, targets, IMAGE_HW)
    wanted = published_loss(maps, targets, rules)
    assert {name: part.item() for name, part in found.parts.items()} == pytest.approx(wanted, rel=1e-4, abs=1e-12)
    assert found.total.item() == pytest.approx(sum(wanted.values()), rel=1e-4)


def test_the_boxes_have_an_l1_loss_only_in_the_last_epochs() -> None:
    maps, targets = make_maps(0, 1), make_targets(0, [4])
    criterion = models.create("yolox-nano", CLASSES).make_criterion(epochs=60)
    found = []
    for epoch in (0, 56, 57, 59):
        criterion.start_epoch(epoch)
        found.append(criterion(maps, targets, IMAGE_HW).parts["l1"].item() > 0)
    assert found == [False, False, True, True]


def test_an_object_outside_of_the_picture_matches_nothing() -> None:
    targets = torch.tensor([[0.0, 1, -90, -90, -60, -60]])
    loss = SimOtaCriterion(DECODE, CLASSES, l1_from_epoch=0)(make_maps(0, 1), targets, IMAGE_HW)
    assert loss.parts["box"] == 0 and loss.total.isfinite()


def test_loss_is_float32_under_autocast_and_for_no_pictures() -> None:
    maps, targets = make_maps(0, 2), make_targets(0, [4, 2])
    criterion = SimOtaCriterion(DECODE, CLASSES, l1_from_epoch=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = criterion(maps, targets, IMAGE_HW).total
    assert mixed.dtype == torch.float32 and mixed.item() == criterion(maps, targets, IMAGE_HW).total.item()
    empty = [m[:0].requires_grad_() for m in maps]
    nothing = criterion(empty, targets[:0], IMAGE_HW)
    nothing.total.backward()
    assert nothing.total == 0 and all(m.grad is not None for m in empty)


@pytest.mark.parametrize(("objects_per_picture", "least"), [(0.0, 10), (1.0, 10), (1.9, 5), (7.3, 1), (13.7, 1)])
def test_rare_objects_have_more_matches_from_the_start(objects_per_picture: float, least: int) -> None:
    maps, targets = make_maps(1, 1), make_targets(3, [1])
    criterion = SimOtaCriterion(DECODE, CLASSES, l1_from_epoch=0)
    untold = published_loss(maps, targets, OLD)
    criterion.expect(objects_per_picture)
    wanted = published_loss(maps, targets, SimOtaAssigner(least_k=least))
    assert (wanted == untold) == (least == 1)
    found = criterion(maps, targets, IMAGE_HW).parts
    assert {name: part.item() for name, part in found.items()} == pytest.approx(wanted, rel=1e-4)
