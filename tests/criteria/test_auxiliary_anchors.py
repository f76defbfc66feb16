"""The auxiliary anchors of YOLOv6: the loss against its published definition, dense and in double precision; counts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from edgeyolo import models
from edgeyolo.models import Accompanied

K, IMAGE_HW, STRIDES = 3, (96, 128), (8, 16, 32)
ANCHORS = (((10, 13), (19, 19), (33, 23)), ((30, 61), (59, 59), (59, 119)), ((116, 90), (185, 185), (373, 326)))


def overlaps(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and GIoU of (..., 4) boxes, broadcast."""
    wh = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    inter = wh.prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - inter
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
    return inter / union, inter / union - (hull - union) / hull


def predictions(maps: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Points (A, 2) in pixels, logits (B, A, K), boxes (B, A, 4) in pixels: every anchor of every cell, written out."""
    points, logits, boxes = [], [], []
    for level, stride in enumerate(STRIDES):
        classes, values = maps[2 * level].double(), maps[2 * level + 1].double()
        for a, (width, height) in enumerate(ANCHORS[level]):
            for y in range(classes.shape[2]):
                for x in range(classes.shape[3]):
                    cx, cy = (x + 0.5) * stride, (y + 0.5) * stride
                    t = values[:, 4 * a : 4 * a + 4, y, x]
                    centre = torch.stack((cx + t[:, 0] * stride, cy + t[:, 1] * stride), -1)
                    size = (2 * t[:, 2:].sigmoid()) ** 2 * torch.tensor([width, height])
                    points.append((cx, cy))
                    logits.append(classes[:, K * a : K * a + K, y, x])
                    boxes.append(torch.cat((centre - size / 2, centre + size / 2), -1))
    return torch.tensor(points).double(), torch.stack(logits, 1), torch.stack(boxes, 1)


def asked_of(scores: Tensor, boxes: Tensor, points: Tensor, objects: Tensor) -> tuple[Tensor, Tensor]:
    """Owner (A,) and quality (A,) of one picture by task alignment, top 26."""
    labels, wanted = objects[:, 1].long(), objects[:, 2:]
    inside = torch.minimum(points - wanted[:, None, :2], wanted[:, None, 2:] - points).amin(-1) > 1e-9
    iou = overlaps(wanted[:, None], boxes[None])[0]
    alignment = scores[:, labels].T * iou**6
    chosen = torch.zeros_like(iou)
    chosen.scatter_(1, (alignment * inside).argsort(dim=1, descending=True, stable=True)[:, :26], 1.0)
    chosen *= inside
    best = torch.zeros_like(iou).scatter_(0, iou.argmax(0)[None], 1.0)
    chosen = torch.where(chosen.sum(0) > 1, best, chosen)
    alignment = alignment * chosen
    quality = alignment / (alignment.amax(1, keepdim=True) + 1e-9) * (iou * chosen).amax(1, keepdim=True)
    return quality.argmax(0), quality.amax(0)


def published_loss(maps: list[Tensor], targets: Tensor) -> tuple[Tensor, Tensor]:
    points, logits, boxes = predictions(maps)
    class_loss = box_loss = asked_sum = torch.zeros(()).double()
    for picture in range(len(logits)):
        objects = targets[targets[:, 0] == picture].double()
        p = logits[picture].sigmoid()
        asked = torch.zeros_like(p)
        if len(objects):
            owner, quality = asked_of(p.detach(), boxes[picture].detach(), points, objects)
            asked[torch.arange(len(p)), objects[owner, 1].long()] = quality
            box_loss = box_loss + (quality * (1 - overlaps(boxes[picture], objects[owner, 2:])[1])).sum()
        entropy = -(asked * p.log() + (1 - asked) * (1 - p).log())
        weight = torch.where(asked > 0, asked, 0.75 * p**2)
        class_loss, asked_sum = class_loss + (weight * entropy).sum(), asked_sum + asked.sum()
    divisor = asked_sum if asked_sum > 0 else 1.0
    return class_loss / divisor, 2.5 * box_loss / divisor


def make_case(counts: list[int]) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(sum(counts))
    maps = []
    for stride in STRIDES:
        for channels, mean in ((3 * K, -2.0), (12, 0.0)):
            shape = (len(counts), channels, IMAGE_HW[0] // stride, IMAGE_HW[1] // stride)
            maps.append((torch.randn(shape, generator=generator) + mean).requires_grad_())
    rows = []
    for picture, count in enumerate(counts):
        centre = torch.rand(count, 2, generator=generator) * torch.tensor([128.0, 96.0])
        half = torch.rand(count, 2, generator=generator) * 30 + 4
        label = torch.randint(K, (count, 1), generator=generator)
        rows.append(torch.cat((torch.full((count, 1), picture), label, centre - half, centre + half), dim=1))
    return maps, torch.cat(rows)


@pytest.mark.parametrize("counts", [[1], [5, 0, 2], [25]])
def test_loss_and_gradients_are_the_published_ones(counts: list[int]) -> None:
    maps, targets = make_case(counts)
    companion = models.create("yolov6s", K).make_companion()
    assert companion is not None
    images = torch.zeros(len(counts), 3, *IMAGE_HW)
    found = companion.loss(maps, (), targets, images)
    class_loss, box_loss = published_loss(maps, targets)
    wanted = {"auxiliary_class": class_loss.item(), "auxiliary_iou": box_loss.item()}
    assert {name: part.item() for name, part in found.parts.items()} == pytest.approx(wanted, rel=1e-4)
    mine = torch.autograd.grad(found.total, maps)
    for gradient, theirs in zip(mine, torch.autograd.grad(class_loss + box_loss, maps), strict=True):
        torch.testing.assert_close(gradient, theirs, rtol=1e-3, atol=1e-4 * theirs.abs().max().item() + 1e-12)


def test_without_objects_only_the_background_is_asked_for() -> None:
    maps, _ = make_case([0])
    companion = models.create("yolov6n", K).make_companion()
    assert companion is not None
    loss = companion.loss(maps, (), torch.zeros(0, 6), torch.zeros(1, 3, *IMAGE_HW))
    logits = torch.cat([m.detach().flatten() for m in maps[0::2]])
    wanted = (0.75 * logits.sigmoid() ** 2 * torch.nn.functional.softplus(logits)).sum().item()
    assert loss.total.item() == pytest.approx(wanted, rel=1e-4)
    assert loss.parts["auxiliary_iou"].item() == 0


@pytest.mark.parametrize(
    ("name", "published"),
    [("yolov6n", 5_115_474), ("yolov6s", 20_261_010), ("yolov6m", 37_911_082), ("yolov6l", 59_865_279)],
)
def test_parameters_of_both_are_the_published_ones(name: str, published: int) -> None:
    """A projection that is not trained counts 34 in what is published."""
    with torch.device("meta"):
        model = models.create(name, 80)
        companion = model.make_companion()
    assert companion is not None
    assert sum(p.numel() for part in (model, companion) for p in part.parameters()) == published - 34


def test_four_levels_have_no_companion() -> None:
    with torch.device("meta"):
        assert models.create("yolov6n6", 80).make_companion() is None
        assert models.create("yolov5n", 80).make_companion() is None


def test_it_starts_from_its_anchors_and_reaches_the_network() -> None:
    torch.manual_seed(0)
    model = models.create("yolov6n", K).train()
    companion = model.make_companion()
    assert companion is not None
    network = Accompanied(model, [companion])
    images = torch.rand(2, 3, *IMAGE_HW)
    outputs = network(images)
    plain, seen = outputs[: -companion.count], outputs[-companion.count :]
    assert len(plain) == 6 and [m.shape[1] for m in seen] == [3 * K, 12] * 3
    _, logits, boxes = predictions([m.detach() for m in seen])
    assert logits.sigmoid().mean().item() == pytest.approx(0.01, rel=0.5)
    size = (boxes[0, 0, 2:] - boxes[0, 0, :2]).tolist()
    assert all(math.isclose(a, b, rel_tol=0.5) for a, b in zip(size, ANCHORS[0][0], strict=True))
    targets = torch.tensor([[0, 0, 10, 10, 60, 70], [1, 2, 40, 50, 120, 90.0]])
    companion.loss(seen, plain, targets, images).total.backward()
    for part in (companion, model.backbone, model.neck, model.heads[0].classes, model.heads[0].boxes):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in part.parameters())
    assert all(p.grad is None for p in model.heads[0].class_logits.parameters())
