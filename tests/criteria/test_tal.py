"""The losses of PP-YOLOE, YOLOv6 and YOLOv8 against their published definitions, dense and in double precision."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from edgeyolo import models
from edgeyolo.criteria.tal import TalCriterion, TalWeights
from edgeyolo.nn.dfl import DistanceIntegral
from edgeyolo.spec.model import DflDecode

STRIDES, BINS, CLASSES, IMAGE_HW = (8, 16, 32), 17, 3, (96, 128)
EPSILON = 1e-9


@dataclass(frozen=True)
class Published:
    """What the two families do differently."""

    top_k: int
    alpha: float
    beta: float
    is_v8: bool
    weights: tuple[float, float, float]  # of class, box and distribution
    has_bins: bool = True

    def criterion(self, static_epochs: int = 0) -> TalCriterion:
        if not self.has_bins:
            criterion = models.create("yolov6s", CLASSES).make_criterion(epochs=30)
            assert isinstance(criterion, TalCriterion)
            return criterion
        decode = DflDecode(strides=STRIDES, bins=BINS)
        if not self.is_v8:
            return TalCriterion(decode, CLASSES, TalWeights(), static_assigner_epochs=static_epochs)
        criterion = models.create("yolov8n", CLASSES).make_criterion()
        assert isinstance(criterion, TalCriterion)
        criterion.decode, criterion.integral = decode, DistanceIntegral(BINS)
        return criterion


PPYOLOE = Published(13, 1.0, 6.0, False, (1.0, 2.5, 0.5))
YOLOV6 = Published(13, 1.0, 6.0, False, (1.0, 2.5, 0.0), has_bins=False)
YOLOV8 = Published(10, 0.5, 6.0, True, (0.5, 7.5, 1.5))


def make_maps(generator: torch.Generator, pictures: int, sharpness: float) -> list[torch.Tensor]:
    """Maps as a new network gives them (`sharpness` 0: hardly more than the priors of the head), or sharper."""
    maps = []
    for stride in STRIDES:
        hw = (IMAGE_HW[0] // stride, IMAGE_HW[1] // stride)
        noise = 0.05 + sharpness
        maps.append(torch.randn(pictures, CLASSES, *hw, generator=generator) * noise - 4.6 + 2 * sharpness)
        box_logits = torch.randn(pictures, 4 * BINS, *hw, generator=generator) * noise + 1
        near = -0.5 * sharpness * torch.arange(BINS).repeat(4)[:, None, None]
        maps.append(box_logits + near)
    return maps


def make_targets(generator: torch.Generator, counts: list[int]) -> torch.Tensor:
    rows = []
    for picture, count in enumerate(counts):
        centre = torch.rand(count, 2, generator=generator) * torch.tensor([128.0, 96.0])
        half = torch.rand(count, 2, generator=generator) * 30 + 4
        label = torch.randint(CLASSES, (count, 1), generator=generator)
        rows.append(torch.cat((torch.full((count, 1), picture), label, centre - half, centre + half), dim=1))
    return torch.cat(rows)


def overlap_of(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU and GIoU of (..., 4) boxes, broadcast."""
    wh = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    inter = wh.prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - inter
    hull = (np.maximum(a[..., 2:], b[..., 2:]) - np.minimum(a[..., :2], b[..., :2])).prod(-1)
    return inter / union, inter / union - (hull - union) / hull


def complete_overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """CIoU of (..., 4) boxes, broadcast."""
    iou = overlap_of(a, b)[0]
    hull_wh = np.maximum(a[..., 2:], b[..., 2:]) - np.minimum(a[..., :2], b[..., :2])
    centres = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    (aw, ah), (bw, bh) = (np.moveaxis(box[..., 2:] - box[..., :2], -1, 0) for box in (a, b))
    v = 4 / math.pi**2 * (np.arctan(bw / bh) - np.arctan(aw / ah)) ** 2
    return iou - (centres**2).sum(-1) / (hull_wh**2).sum(-1) - v**2 / (1 - iou + v + 1e-30)


def align(
    scores: np.ndarray, boxes: np.ndarray, points: np.ndarray, objects: np.ndarray, family: Published
) -> np.ndarray:
    """(M, A) alignment of each positive with its object, scaled; 0 for all others."""
    labels, wanted = objects[:, 1].astype(int), objects[:, 2:]
    inside = (np.minimum(points - wanted[:, None, :2], wanted[:, None, 2:] - points).min(-1) > EPSILON).astype(float)
    iou = overlap_of(wanted[:, None], boxes[None])[0]
    if family.is_v8:
        iou = np.clip(complete_overlap(wanted[:, None], boxes[None]), 0, None) * inside
    alignment = scores[:, labels].T ** family.alpha * iou**family.beta
    positive = np.zeros_like(iou)
    np.put_along_axis(positive, np.argsort(-alignment * inside, axis=1, kind="stable")[:, : family.top_k], 1.0, axis=1)
    positive *= inside
    best_of_all = np.eye(len(wanted))[iou.argmax(axis=0)].T
    positive = np.where(positive.sum(axis=0) > 1, best_of_all, positive)
    alignment = alignment * positive
    largest = alignment.max(axis=1, keepdims=True) + EPSILON
    return alignment / largest * (iou * positive).max(axis=1, keepdims=True)


def published_loss(maps: list[torch.Tensor], targets: torch.Tensor, family: Published) -> dict[str, float]:
    points = np.concatenate(
        [
            (np.stack(np.meshgrid(np.arange(m.shape[3]), np.arange(m.shape[2])), -1).reshape(-1, 2) + 0.5) * stride
            for m, stride in zip(maps[0::2], STRIDES, strict=True)
        ]
    )
    stride = np.concatenate([np.full(m[0, 0].numel(), s) for m, s in zip(maps[0::2], STRIDES, strict=True)])[:, None]
    totals = dict.fromkeys(("class", "iou", "dfl", "scores"), 0.0)
    for picture in range(len(maps[0])):
        logits = np.concatenate([m[picture].double().flatten(1).T.numpy() for m in maps[0::2]])
        box_logits = np.concatenate([m[picture].double().flatten(1).T.numpy() for m in maps[1::2]]).reshape(
            len(logits), 4, -1
        )
        p = 1 / (1 + np.exp(-logits))
        log_bins = box_logits - np.log(np.exp(box_logits).sum(-1, keepdims=True))
        distances = (np.exp(log_bins) @ np.arange(BINS) if family.has_bins else box_logits[..., 0]) * stride
        boxes = np.concatenate((points - distances[:, :2], points + distances[:, 2:]), axis=1)
        objects = targets[targets[:, 0] == picture].double().numpy()
        asked = np.zeros_like(p)
        if len(objects):
            quality = align(p, boxes, points, objects, family)
            owner, q = quality.argmax(axis=0), quality.max(axis=0)
            label = objects[owner, 1].astype(int)
            asked[np.arange(len(q)), label] = q
            wanted = objects[owner, 2:]
            overlap = complete_overlap(boxes, wanted) if family.is_v8 else overlap_of(boxes, wanted)[1]
            totals["iou"] += (q * (1 - overlap)).sum()
            if family.has_bins:
                sides = np.concatenate((points - wanted[:, :2], wanted[:, 2:] - points), axis=1) / stride
                sides = np.clip(sides, 0, BINS - 1 - 0.01)
                low = sides.astype(int)
                at = [np.take_along_axis(-log_bins, (low + step)[..., None], -1)[..., 0] for step in (0, 1)]
                totals["dfl"] += (q * (at[0] * (low + 1 - sides) + at[1] * (sides - low)).mean(-1)).sum()
        entropy = -(asked * np.log(p) + (1 - asked) * np.log(1 - p))
        weight = 1.0 if family.is_v8 else np.where(asked > 0, asked, 0.75 * p**2)
        totals["class"] += (weight * entropy).sum()
        totals["scores"] += asked.sum()
    divisor = max(totals.pop("scores"), 1.0)
    names = zip(("class", "iou", "dfl"), family.weights, strict=True)
    return {name: weight * totals[name] / divisor for name, weight in names if weight}


def make_criterion(static_epochs: int = 0) -> TalCriterion:
    return PPYOLOE.criterion(static_epochs)


@pytest.mark.parametrize("family", [PPYOLOE, YOLOV6, YOLOV8], ids=["ppyoloe", "yolov6", "yolov8"])
@pytest.mark.parametrize("sharpness", [0.0, 0.5, 1.5])
@pytest.mark.parametrize("counts", [[1], [6, 0, 3], [40]])
def test_the_loss_is_the_published_one(counts: list[int], sharpness: float, family: Published) -> None:
    generator = torch.Generator().manual_seed(len(counts))
    maps = make_maps(generator, len(counts), sharpness)
    if not family.has_bins:
        maps[1::2] = [2 * boxes[:, ::BINS].abs() for boxes in maps[1::2]]
    targets = make_targets(generator, counts)
    found = family.criterion()(maps, targets, IMAGE_HW)
    wanted = published_loss(maps, targets, family)
    assert {name: part.item() for name, part in found.parts.items()} == pytest.approx(wanted, rel=1e-4, abs=1e-12)
    assert found.total.item() == pytest.approx(sum(wanted.values()), rel=1e-4)


def test_the_assigner_changes_after_the_static_epochs() -> None:
    generator = torch.Generator().manual_seed(0)
    maps, targets = make_maps(generator, 2, 0.5), make_targets(generator, [3, 2])

    def losses(criterion: TalCriterion) -> list[float]:
        found = []
        for epoch in (0, 2, 3, 29):
            criterion.start_epoch(epoch)
            found.append(criterion(maps, targets, IMAGE_HW).total.item())
        return found

    static, aligned = losses(make_criterion(1000))[0], losses(make_criterion())[0]
    assert static != aligned
    assert losses(make_criterion(3)) == [static, static, aligned, aligned]


@pytest.mark.parametrize("static_epochs", [0, 1])
def test_loss_does_not_grow_with_the_batch(static_epochs: int) -> None:
    generator = torch.Generator().manual_seed(0)
    maps, targets = make_maps(generator, 2, 1.5), make_targets(generator, [20, 12])
    again = targets + torch.tensor([2.0, 0, 0, 0, 0, 0])
    criterion = make_criterion(static_epochs)
    once = criterion(maps, targets, IMAGE_HW).total.item()
    twice = criterion([torch.cat((level, level)) for level in maps], torch.cat((targets, again)), IMAGE_HW).total.item()
    assert twice == pytest.approx(once, rel=1e-4)


def test_loss_is_float32_under_autocast() -> None:
    generator = torch.Generator().manual_seed(0)
    maps, targets = make_maps(generator, 2, 0.5), make_targets(generator, [3, 2])
    plain = make_criterion()(maps, targets, IMAGE_HW).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = make_criterion()(maps, targets, IMAGE_HW).total
    assert mixed.dtype == torch.float32
    assert mixed.item() == plain.item()
