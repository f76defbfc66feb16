"""The losses of YOLOv3 and YOLOv4 against loops over cells, anchors and objects, written from the papers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from edgeyolo.criteria.darknet import DarknetCriterion, DarknetRules
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.model import AnchorDecode

SIDE = 64
CLASSES = 3
ANCHORS = (((6.0, 8.0), (12.0, 10.0)), ((20.0, 24.0), (44.0, 30.0)))
V3 = AnchorDecode(strides=(8, 16), anchors_wh=ANCHORS, size="exp", reach=(1.0, 1.0))
V4 = AnchorDecode(strides=(8, 16), anchors_wh=ANCHORS, size="exp", reach=(1.2, 1.05))
# Picture, class, box; two of one class and cell, and one that an anchor of each level resembles.
TARGETS = torch.tensor(
    [
        [0, 0, 3.0, 5.0, 10.0, 12.0],
        [0, 2, 20.0, 18.0, 42.0, 40.0],
        [1, 1, 1.0, 30.0, 47.0, 62.0],
        [1, 1, 40.0, 8.0, 54.0, 21.0],
        [1, 0, 33.0, 33.0, 46.0, 44.0],
    ]
)
CASES = {
    "v3": (V3, DarknetRules(ignore=0.3)),
    "v4": (V4, DarknetRules(ignore=0.3, threshold=0.213, box=0.07, objectness=0.4, classes=0.5)),
    "v4 alone": (V4, DarknetRules(ignore=0.7, box=0.05)),
}
Box = tuple[float, float, float, float]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def entropy(logit: float, wanted: float) -> float:
    return -wanted * math.log(sigmoid(logit)) - (1 - wanted) * math.log(1 - sigmoid(logit))


def iou(a: Box, b: Box) -> float:
    inter = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def ciou(a: Box, b: Box) -> float:
    """Equations 7 to 11 of arXiv 1911.08287."""
    overlap = iou(a, b)
    distance = ((a[0] + a[2] - b[0] - b[2]) ** 2 + (a[1] + a[3] - b[1] - b[3]) ** 2) / 4
    diagonal = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    turn = math.atan((b[2] - b[0]) / (b[3] - b[1])) - math.atan((a[2] - a[0]) / (a[3] - a[1]))
    aspect = 4 / math.pi**2 * turn**2
    return overlap - distance / diagonal - aspect**2 / (1 - overlap + aspect + 1e-12)


def predict(t: list[float], column: int, row: int, level: int, anchor: int, decode: AnchorDecode) -> Box:
    stride, reach = decode.strides[level], decode.reach[level]
    x = (sigmoid(t[0]) * reach - (reach - 1) / 2 + column) * stride
    y = (sigmoid(t[1]) * reach - (reach - 1) / 2 + row) * stride
    w, h = (math.exp(t[2 + i]) * decode.anchors_wh[level][anchor][i] for i in range(2))
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def by_loops(maps: list[Tensor], decode: AnchorDecode, rules: DarknetRules) -> dict[str, float]:
    objects = [(int(p), int(k), (x1, y1, x2, y2)) for p, k, x1, y1, x2, y2 in TARGETS.tolist()]
    answers: dict[tuple[int, int, int, int, int], list[int]] = {}
    for number, (picture, _, box) in enumerate(objects):
        wh = box[2] - box[0], box[3] - box[1]
        overlaps = {
            (level, a): iou((0, 0, *wh), (0, 0, *anchor))
            for level, anchors in enumerate(decode.anchors_wh)
            for a, anchor in enumerate(anchors)
        }
        for place, overlap in overlaps.items():
            if overlap > rules.threshold or overlap == max(overlaps.values()):
                stride = decode.strides[place[0]]
                cell = int((box[0] + box[2]) / 2 / stride), int((box[1] + box[3]) / 2 / stride)
                answers.setdefault((picture, *place, *cell), []).append(number)
    parts = {"box": 0.0, "objectness": 0.0, "class": 0.0}
    for level, raw in enumerate(maps):
        grid = raw.shape[2]
        values = raw.view(len(raw), 2, 5 + CLASSES, grid, grid).tolist()
        for picture in range(len(raw)):
            for a in range(2):
                for row in range(grid):
                    for column in range(grid):
                        t = [values[picture][a][c][row][column] for c in range(5 + CLASSES)]
                        box = predict(t, column, row, level, a, decode)
                        mine = answers.get((picture, level, a, column, row))
                        if mine is None:
                            best = max((iou(box, b) for p, _, b in objects if p == picture), default=0.0)
                            parts["objectness"] += rules.objectness * entropy(t[4], 0) * (best <= rules.ignore)
                            continue
                        parts["objectness"] += rules.objectness * entropy(t[4], 1)
                        asked = {objects[number][1] for number in mine}
                        parts["class"] += rules.classes * sum(entropy(t[5 + k], k in asked) for k in range(CLASSES))
                        wanted = objects[mine[-1]][2]
                        if rules.box is not None:
                            parts["box"] += rules.box * (1 - ciou(box, wanted))
                            continue
                        w, h = wanted[2] - wanted[0], wanted[3] - wanted[1]
                        stride, anchor = decode.strides[level], decode.anchors_wh[level][a]
                        scale = 2 - w * h / SIDE**2
                        parts["box"] += scale * entropy(t[0], (wanted[0] + wanted[2]) / 2 / stride - column)
                        parts["box"] += scale * entropy(t[1], (wanted[1] + wanted[3]) / 2 / stride - row)
                        parts["box"] += scale / 2 * (t[2] - math.log(w / anchor[0])) ** 2
                        parts["box"] += scale / 2 * (t[3] - math.log(h / anchor[1])) ** 2
    return {name: value / len(maps[0]) for name, value in parts.items()}


def make_maps() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    sides = (SIDE // 8, SIDE // 16)
    return [torch.randn(2, 2 * (5 + CLASSES), s, s, generator=generator) * 0.7 for s in sides]


@pytest.mark.parametrize("case", CASES)
def test_the_loss_is_that_of_the_loops(case: str) -> None:
    decode, rules = CASES[case]
    maps = make_maps()
    loss = DarknetCriterion(decode, CLASSES, rules)(maps, TARGETS, (SIDE, SIDE))
    wanted = by_loops(maps, decode, rules)
    assert {name: float(value) for name, value in loss.parts.items()} == pytest.approx(wanted, rel=1e-4)
    assert float(loss.total) == pytest.approx(sum(wanted.values()), rel=1e-4)


def test_several_anchors_answer_where_the_threshold_says_so() -> None:
    every, alone = (DarknetCriterion(*CASES[case][:1], CLASSES, CASES[case][1]) for case in ("v4", "v4 alone"))
    counts = [len(criterion.match(make_maps(), TARGETS, (SIDE, SIDE)).raw) for criterion in (every, alone)]
    assert counts[0] > counts[1] == len(TARGETS)


@pytest.mark.parametrize("case", ["v3", "v4"])
def test_the_loss_falls_to_what_a_fit_leaves(case: str) -> None:
    """The maps themselves are trained."""
    decode, rules = CASES[case]
    criterion = DarknetCriterion(decode, CLASSES, rules)
    maps = [raw.requires_grad_() for raw in make_maps()]
    optimizer = torch.optim.Adam(maps, lr=0.3)
    first = float(criterion(maps, TARGETS, (SIDE, SIDE)).total.detach())
    for _ in range(60):
        optimizer.zero_grad()
        criterion(maps, TARGETS, (SIDE, SIDE)).total.backward()
        optimizer.step()
    last = criterion(maps, TARGETS, (SIDE, SIDE))
    floor = 7 if case == "v3" else 0.5  # the entropy of a centre between two cells is not zero
    assert float(last.total.detach()) < min(floor, 0.3 * first)


def test_choices_of_losses() -> None:
    squares, overlap = (DarknetCriterion(*CASES[case][:1], CLASSES, CASES[case][1]) for case in ("v3", "v4"))
    with pytest.raises(UsageError, match="squared errors"):
        squares.choose_box_loss("giou", None)
    with pytest.raises(UsageError, match="whole classes"):
        overlap.choose_class_loss("varifocal")
    maps = make_maps()
    usual = overlap(maps, TARGETS, (SIDE, SIDE)).parts
    overlap.choose_box_loss("iou", None)
    overlap.choose_class_loss("quality_focal")
    overlap.smooth_labels(0.1)
    other = overlap(maps, TARGETS, (SIDE, SIDE)).parts
    assert other["box"] < usual["box"] and other["class"] != usual["class"]
    assert other["objectness"] == usual["objectness"]


def test_a_picture_without_objects() -> None:
    criterion = DarknetCriterion(V4, CLASSES, CASES["v4"][1])
    loss = criterion(make_maps(), TARGETS[:0], (SIDE, SIDE))
    assert loss.parts["box"] == loss.parts["class"] == 0 and loss.total > 0
