"""The YOLOv5 loss against a plain loop written from the description of its matching, in double precision."""

from __future__ import annotations

import math

import pytest
import torch

from edgeyolo import models
from edgeyolo.spec.model import AnchorDecode

CLASSES, IMAGE_HW = 3, (128, 192)


def make_maps(decode: AnchorDecode, pictures: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    channels = 3 * (5 + CLASSES)
    return [
        torch.randn(pictures, channels, IMAGE_HW[0] // s, IMAGE_HW[1] // s, generator=generator) for s in decode.strides
    ]


def make_targets(counts: list[int], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for picture, count in enumerate(counts):
        for _ in range(count):
            x, y = (torch.rand(2, generator=generator) * torch.tensor([192.0, 128.0])).tolist()
            w, h = (torch.rand(2, generator=generator) * 90 + 4).tolist()
            label = int(torch.randint(CLASSES, (1,), generator=generator))
            rows.append([picture, label, x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    return torch.tensor(rows).reshape(-1, 6)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def entropy(logit: float, wanted: float) -> float:
    p = sigmoid(logit)
    return -(wanted * math.log(p) + (1 - wanted) * math.log(1 - p))


def complete_iou(a: list[float], b: list[float]) -> float:
    w, h = max(0.0, min(a[2], b[2]) - max(a[0], b[0])), max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    (aw, ah), (bw, bh) = ((x[2] - x[0], x[3] - x[1]) for x in (a, b))
    iou = w * h / (aw * ah + bw * bh - w * h)
    diagonal = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    distance = ((a[0] + a[2] - b[0] - b[2]) ** 2 + (a[1] + a[3] - b[1] - b[3]) ** 2) / 4
    v = 4 / math.pi**2 * (math.atan(bw / bh) - math.atan(aw / ah)) ** 2
    return iou - distance / diagonal - (v * v / (1 - iou + v) if v else 0.0)


def level_matches(targets: list[list[float]], anchors, stride: int, hw: tuple[int, int]):
    """(picture, anchor, row, column, target) in the order in which objectness is written."""
    for move in ((0.0, 0.0), (-0.5, 0.0), (0.0, -0.5), (0.5, 0.0), (0.0, 0.5)):
        for number, (anchor_w, anchor_h) in enumerate(anchors):
            for index, (picture, _, x1, y1, x2, y2) in enumerate(targets):
                ratios = ((x2 - x1) / anchor_w, (y2 - y1) / anchor_h)
                if max(max(r, 1 / r) for r in ratios) >= 4:
                    continue
                x, y = (x1 + x2) / 2 / stride, (y1 + y2) / 2 / stride
                near = {
                    (0.0, 0.0): True,
                    (-0.5, 0.0): x % 1 < 0.5 and x > 1,
                    (0.0, -0.5): y % 1 < 0.5 and y > 1,
                    (0.5, 0.0): (hw[1] - x) % 1 < 0.5 and hw[1] - x > 1,
                    (0.0, 0.5): (hw[0] - y) % 1 < 0.5 and hw[0] - y > 1,
                }
                if near[move]:
                    column, row = math.floor(x + move[0]), math.floor(y + move[1])
                    yield int(picture), number, min(max(row, 0), hw[0] - 1), min(max(column, 0), hw[1] - 1), index


def published_loss(maps: list[torch.Tensor], targets: torch.Tensor, decode: AnchorDecode) -> dict[str, float]:
    balance = {3: (4.0, 1.0, 0.4), 4: (4.0, 1.0, 0.25, 0.06)}[len(maps)]
    parts = {"box": 0.0, "objectness": 0.0, "classes": 0.0}
    rows = targets.double().tolist()
    for raw, stride, anchors, share in zip(maps, decode.strides, decode.anchors_wh, balance, strict=True):
        batch, _, height, width = raw.shape
        values = raw.double().view(batch, 3, 5 + CLASSES, height, width)
        wanted = torch.zeros(batch, 3, height, width, dtype=torch.float64)
        boxes, classes = [], []
        for picture, anchor, row, column, index in level_matches(rows, anchors, stride, (height, width)):
            t = values[picture, anchor, :, row, column].tolist()
            x, y = ((2 * sigmoid(t[k]) - 0.5 + cell) * stride for k, cell in ((0, column), (1, row)))
            w, h = ((2 * sigmoid(t[2 + k])) ** 2 * anchors[anchor][k] for k in (0, 1))
            overlap = complete_iou([x - w / 2, y - h / 2, x + w / 2, y + h / 2], rows[index][2:])
            boxes.append(1 - overlap)
            classes += [entropy(t[5 + k], float(k == rows[index][1])) for k in range(CLASSES)]
            wanted[picture, anchor, row, column] = max(overlap, 0.0)
        if boxes:
            parts["box"] += sum(boxes) / len(boxes)
            parts["classes"] += sum(classes) / len(classes)
        logits = values[:, :, 4].flatten().tolist()
        cells = [entropy(x, q) for x, q in zip(logits, wanted.flatten().tolist(), strict=True)]
        parts["objectness"] += share * sum(cells) / len(cells)
    per_level = 3 / len(maps)
    gains = (0.05, 1.0 * IMAGE_HW[0] * IMAGE_HW[1] / 640**2, 0.5 * CLASSES / 80)
    return {name: value * gain * per_level for (name, value), gain in zip(parts.items(), gains, strict=True)}


@pytest.mark.parametrize("name", ["yolov5n", "yolov5n6"])
@pytest.mark.parametrize("counts", [[1], [7, 0, 4], [0]])
def test_the_loss_is_the_published_one(counts: list[int], name: str) -> None:
    with torch.device("meta"):
        network = models.create(name, CLASSES)
    decode, criterion = network.decode, network.make_criterion()
    maps, targets = make_maps(decode, len(counts), seed=len(counts)), make_targets(counts, seed=sum(counts))
    found = criterion(maps, targets, IMAGE_HW)
    wanted = published_loss(maps, targets, decode)
    assert {key: part.item() for key, part in found.parts.items()} == pytest.approx(wanted, rel=1e-4, abs=1e-12)
    assert found.total.item() == pytest.approx(sum(wanted.values()), rel=1e-4)
