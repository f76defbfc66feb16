"""The YOLOv7 loss against a plain transcription of the recipe."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from edgeyolo import models
from edgeyolo.assigners.ota import OtaRules, assign_ota
from edgeyolo.criteria.ota import _ReadLevel
from edgeyolo.losses.iou import ciou

TARGETS = torch.tensor([[0, 0, 10, 10, 60, 70], [0, 1, 40, 50, 120, 126], [1, 1, 64, 30, 100, 90.0]])


def plain_loss(model, maps, targets, image_hw, rules, judge):
    """The recipe level by level: box, objectness, classes, without their common weights."""
    levels, classes = len(model.strides), model.config.num_classes
    box = objectness = entropy = 0.0
    split = [m.reshape(m.shape[0], 3, 5 + classes, *m.shape[2:]) for m in maps]
    judge = [m.reshape(m.shape[0], 3, 5 + classes, *m.shape[2:]) for m in judge]
    cells, target = (matches := assign_ota(judge, targets, model.decode, rules)).cells, matches.target
    balance = {3: [4.0, 1.0, 0.4], 4: [4.0, 1.0, 0.25, 0.06]}[levels]
    for level in range(levels):
        wanted = torch.zeros(split[level].shape[0], 3, *split[level].shape[3:])
        boxes, classed = [], []
        for i in (cells.level == level).nonzero()[:, 0].tolist():
            b, a, y, x = (int(f[i]) for f in (cells.picture, cells.anchor, cells.row, cells.column))
            raw, stride = split[level][b, a, :, y, x], model.strides[level]
            s = raw.sigmoid()
            centre = (2 * s[:2] - 0.5 + torch.tensor([x, y])) * stride
            size = (2 * s[2:4]) ** 2 * torch.tensor(model.decode.anchors_wh[level][a])
            overlap = ciou(torch.cat([centre - size / 2, centre + size / 2])[None], targets[target[i], 2:][None])[0]
            boxes.append(1 - overlap)
            wanted[b, a, y, x] = max(0.0, overlap.item())
            one_hot = F.one_hot(targets[target[i], 1].long(), classes).float()
            classed.append(F.binary_cross_entropy_with_logits(raw[5:], one_hot))
        box += sum(boxes) / max(1, len(boxes))
        entropy += sum(classed) / max(1, len(classed))
        objectness += balance[level] * F.binary_cross_entropy_with_logits(split[level][:, :, 4], wanted)
    return box, objectness, entropy


def scaled_parts(model, image_hw, parts):
    """The weights as published: those of tiny differ from the others'."""
    share = 3 / len(model.strides)
    area = image_hw[0] * image_hw[1] / 640**2
    objectness, classes = 0.7, 0.3
    weights = (0.05 * share, objectness * area * share, classes * model.config.num_classes / 80 * share)
    return [float(part * weight) for part, weight in zip(parts, weights, strict=True)]


def test_loss_is_the_recipe():
    torch.manual_seed(0)
    model = models.create("yolov7-nano", 2)
    maps = [torch.randn(2, 21, 128 // s, 160 // s) for s in model.strides]
    loss = model.make_criterion()(maps, TARGETS, (128, 160))
    expected = scaled_parts(model, (128, 160), plain_loss(model, maps, TARGETS, (128, 160), OtaRules(), maps))
    assert [float(loss.parts[k]) for k in ("box", "objectness", "classes")] == pytest.approx(expected, rel=1e-4)
    assert float(loss.total) == pytest.approx(sum(expected), rel=1e-4)


def test_a_repeated_prediction_counts_in_every_match():
    """Objects on top of each other share predictions: each match is in the means, the last sets objectness."""
    torch.manual_seed(3)
    with torch.device("meta"):
        model = models.create("yolov7-nano", 2)
    maps = [torch.randn(1, 21, 128 // s, 128 // s) * 0.3 for s in model.strides]
    corner = torch.rand(12, 2) * 6 + 30
    labels = torch.arange(12.0)[:, None] % 2
    targets = torch.cat([torch.zeros(12, 1), labels, corner, corner + 20 + torch.rand(12, 2) * 6], dim=1)
    split = [m.view(1, 3, 7, *m.shape[2:]) for m in maps]
    cells = assign_ota(split, targets, model.decode, OtaRules()).cells
    rows = torch.stack([cells.level, cells.anchor, cells.row, cells.column], dim=1)
    assert len(rows.unique(dim=0)) < len(rows)
    loss = model.make_criterion()(maps, targets, (128, 128))
    expected = scaled_parts(model, (128, 128), plain_loss(model, maps, targets, (128, 128), OtaRules(), maps))
    assert [float(loss.parts[k]) for k in ("box", "objectness", "classes")] == pytest.approx(expected, rel=1e-4)


def test_auxiliary_maps_are_judged_by_the_lead_and_weigh_a_quarter():
    torch.manual_seed(0)
    with torch.device("meta"):
        model = models.create("yolov7-w6", 2)
    lead, auxiliary = ([torch.randn(2, 21, 128 // s, 128 // s) for s in model.strides] for _ in range(2))
    loss = model.make_criterion()(lead + auxiliary, TARGETS, (128, 128))
    first = plain_loss(model, lead, TARGETS, (128, 128), OtaRules(top=20), lead)
    second = plain_loss(model, auxiliary, TARGETS, (128, 128), OtaRules(top=20, reach=1.0), lead)
    expected = scaled_parts(model, (128, 128), [a + 0.25 * b for a, b in zip(first, second, strict=True)])
    assert [float(loss.parts[k]) for k in ("box", "objectness", "classes")] == pytest.approx(expected, rel=1e-4)
    alone = model.make_criterion()(lead, TARGETS, (128, 128))
    assert float(alone.total) < float(loss.total)


def test_loss_does_not_grow_with_the_batch():
    torch.manual_seed(0)
    model = models.create("yolov7-nano", 2)
    maps = [torch.randn(2, 21, 128 // s, 128 // s) for s in model.strides]
    again = torch.cat([TARGETS, TARGETS + torch.tensor([2.0, 0, 0, 0, 0, 0])])
    criterion = model.make_criterion()
    once, twice = (
        criterion(maps, TARGETS, (128, 128)),
        criterion([torch.cat([m, m]) for m in maps], again, (128, 128)),
    )
    torch.testing.assert_close(once.total, twice.total, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("scale", [0.0, 1e4, -1e4])
def test_extreme_maps_give_a_finite_loss_and_gradient(scale):
    torch.manual_seed(0)
    model = models.create("yolov7-nano", 2)
    maps = [(torch.randn(2, 21, 128 // s, 128 // s) + scale).requires_grad_() for s in model.strides]
    loss = model.make_criterion()(maps, TARGETS, (128, 128))
    loss.total.backward()
    assert loss.total.isfinite()
    assert all(m.grad.isfinite().all() for m in maps)


def test_no_objects_still_teach_every_parameter():
    model = models.create("yolov7-nano", 2).train()
    loss = model.make_criterion()(model(torch.rand(2, 3, 64, 64)), torch.zeros(0, 6), (64, 64))
    loss.total.backward()
    assert float(loss.parts["box"]) == float(loss.parts["classes"]) == 0.0
    assert float(loss.parts["objectness"]) > 0.0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_half_precision_maps_are_judged_in_float32():
    torch.manual_seed(0)
    model = models.create("yolov7-nano", 2)
    maps = [torch.randn(2, 21, 128 // s, 128 // s).bfloat16() for s in model.strides]
    criterion = model.make_criterion()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = criterion(maps, TARGETS, (128, 128))
    assert loss.total.dtype == torch.float32
    torch.testing.assert_close(loss.total, criterion([m.float() for m in maps], TARGETS, (128, 128)).total)


def test_one_class_is_trained_too():
    model = models.create("yolov7-nano", 1)
    maps = [torch.randn(2, 18, 128 // s, 128 // s) for s in model.strides]
    targets = TARGETS * torch.tensor([1.0, 0, 1, 1, 1, 1])
    assert float(model.make_criterion()(maps, targets, (128, 128)).parts["classes"]) > 0.0


def test_reading_a_level_has_the_gradient_of_plain_indexing() -> None:
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(2, 3, 9, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    place = [torch.randint(size, (11,), generator=generator) for size in (2, 3, 4, 5)]
    place = [torch.cat((index, index[:3])) for index in place]  # cells that are matched twice
    picture, anchor, row, column = place
    weights = torch.randn(14, 9, generator=generator, dtype=torch.float64)

    def loss(values: torch.Tensor, objectness: torch.Tensor) -> torch.Tensor:
        return (values.square() * weights).sum() + objectness.sigmoid().sum()

    (found,) = torch.autograd.grad(loss(*_ReadLevel.apply(raw, *place)), raw)
    (wanted,) = torch.autograd.grad(loss(raw[picture, anchor, :, row, column], raw[:, :, 4]), raw)
    torch.testing.assert_close(found, wanted)


def test_levels_count_by_their_matches_in_a_training() -> None:
    """Three levels of the overall mean, where an untold criterion adds three means, some of a single match."""
    torch.manual_seed(0)
    model = models.create("yolov7-nano", 2)
    maps = [torch.randn(2, 21, 128 // s, 160 // s) for s in model.strides]
    split = [m.view(2, 3, 7, *m.shape[2:]) for m in maps]
    matches = assign_ota(split, TARGETS, model.decode, OtaRules())
    per_level = torch.bincount(matches.cells.level, minlength=3)
    assert len(per_level.unique()) > 1
    boxes, entropies = [], []
    for i, target in enumerate(matches.target.tolist()):
        level, b, a, y, x = (int(f[i]) for f in vars(matches.cells).values())
        raw, stride = split[level][b, a, :, y, x], model.strides[level]
        centre = (2 * raw[:2].sigmoid() - 0.5 + torch.tensor([x, y])) * stride
        size = (2 * raw[2:4].sigmoid()) ** 2 * torch.tensor(model.decode.anchors_wh[level][a])
        found = torch.cat([centre - size / 2, centre + size / 2])
        boxes.append(1 - float(ciou(found[None], TARGETS[target, 2:][None])[0]))
        one_hot = F.one_hot(TARGETS[target, 1].long(), 2).float()
        entropies.append(float(F.binary_cross_entropy_with_logits(raw[5:], one_hot)))
    criterion = model.make_criterion()
    criterion.expect(20.0)
    parts = criterion(maps, TARGETS, (128, 160)).parts
    assert float(parts["box"]) == pytest.approx(0.05 * 3 * sum(boxes) / len(boxes), rel=1e-4)
    assert float(parts["classes"]) == pytest.approx(0.3 * 2 / 80 * 3 * sum(entropies) / len(entropies), rel=1e-4)
    empty = criterion(maps, torch.zeros(0, 6), (128, 160)).parts
    assert float(empty["box"]) == float(empty["classes"]) == 0.0


@pytest.mark.parametrize(("density", "factor"), [(1.0, 7.3), (3.65, 2.0), (7.3, 1.0), (40.0, 1.0), (0.0, 14.6)])
def test_objectness_counts_more_where_objects_are_rare(density: float, factor: float) -> None:
    torch.manual_seed(0)
    with torch.device("meta"):
        model = models.create("yolov7-nano", 2)
    maps = [torch.randn(2, 21, 128 // s, 128 // s) for s in model.strides]
    criterion = model.make_criterion()
    before = criterion(maps, TARGETS, (128, 128)).parts["objectness"]
    criterion.expect(density)
    after = criterion(maps, TARGETS, (128, 128)).parts["objectness"]
    assert float(after / before) == pytest.approx(factor, rel=1e-5)
