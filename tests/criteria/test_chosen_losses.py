"""Losses that a config names in place of a family's own, in every family, against plain ones in double precision."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from edgeyolo import models
from edgeyolo.criteria.criterion import Criterion
from edgeyolo.heads import head_of
from edgeyolo.losses.by_name import BOX_OVERLAPS, CLASS_LOSSES
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.settings import list_settings
from edgeyolo.spec.training import TrainConfig

CLASSES, IMAGE_HW = 3, (64, 96)
ASKS_FOR_SCORES = ("damo-ns", "ppyoloe-s", "yolov6n", "yolov8n", "yolox-nano")
ASKS_FOR_CLASSES = ("yolov5n", "yolov7-nano")


def make_case(name: str) -> tuple[Criterion, list[Tensor], Tensor]:
    """The loss of a family, random maps that are leaves, and two pictures' objects."""
    with torch.device("meta"):
        network = models.create(name, CLASSES)
    generator = torch.Generator().manual_seed(0)
    shapes = head_of(network.decode).map_shapes(CLASSES, IMAGE_HW)
    maps = [torch.randn(2, *shape, generator=generator).requires_grad_() for shape in shapes]
    targets = torch.tensor([[0, 1, 10.0, 8, 60, 50], [0, 2, 40, 30, 90, 60], [1, 0, 5, 20, 40, 60]])
    criterion = network.make_criterion()
    criterion.start_epoch(250)
    return criterion, maps, targets


def loss_and_gradients(criterion: Criterion, maps: list[Tensor], targets: Tensor) -> tuple[dict[str, float], Tensor]:
    loss = criterion(maps, targets, IMAGE_HW)
    gradients = torch.autograd.grad(loss.total, maps, allow_unused=True, materialize_grads=True)
    return {name: part.item() for name, part in loss.parts.items()}, torch.cat([part.flatten() for part in gradients])


def plain_eiou(first: Tensor, second: Tensor, alpha: float) -> Tensor:
    rows = []
    for a, b in zip(first.double(), second.double(), strict=True):
        low, high = torch.minimum(a, b), torch.maximum(a, b)
        inter = (low[2] - high[0]).clamp(min=0) * (low[3] - high[1]).clamp(min=0)
        (aw, ah), (bw, bh) = a[2:] - a[:2], b[2:] - b[:2]
        cw, ch = high[2] - low[0], high[3] - low[1]
        centres = ((a[:2] + a[2:] - b[:2] - b[2:]) / 2).square().sum() / (cw**2 + ch**2)
        penalties = (centres, ((aw - bw) / cw) ** 2, ((ah - bh) / ch) ** 2)
        rows.append((inter / (aw * ah + bw * bh - inter)) ** alpha - sum(penalty**alpha for penalty in penalties))
    return torch.stack(rows).float()


def plain_entropy(logits: Tensor, scores: Tensor) -> Tensor:
    p = logits.sigmoid()
    return -(scores * p.log() + (1 - scores) * (1 - p).log())


def plain_terms(name: str, logits: Tensor, scores: Tensor) -> Tensor:
    logits, scores = logits.double(), scores.double()
    p = logits.sigmoid()
    weight = {
        "bce": torch.ones_like(p),
        "quality_focal": (scores - p).abs() ** 2,
        "varifocal": torch.where(scores > 0, scores, 0.75 * p**2),
    }[name]
    return weight * plain_entropy(logits, scores)


def plain_sum(name: str, logits: Sequence[Tensor], positive: Tensor, scores: Tensor) -> Tensor:
    nothing = plain_terms(name, positive, torch.zeros_like(positive)).sum()
    total = sum((plain_terms(name, part, torch.zeros_like(part)).sum() for part in logits), -nothing)
    return (total + plain_terms(name, positive, scores).sum()).float()


def assert_same(found: Criterion, wanted: Criterion, maps: list[Tensor], targets: Tensor) -> None:
    parts, gradients = loss_and_gradients(found, maps, targets)
    plain_parts, plain_gradients = loss_and_gradients(wanted, maps, targets)
    assert parts == pytest.approx(plain_parts, rel=1e-4)
    torch.testing.assert_close(gradients, plain_gradients, rtol=1e-4, atol=1e-4 * plain_gradients.abs().max().item())


def test_the_config_names_every_loss_there_is() -> None:
    choices = {setting.name: set(setting.choices) for setting in list_settings(TrainConfig)}
    assert choices["box_loss"] == set(BOX_OVERLAPS)
    assert choices["class_loss"] == set(CLASS_LOSSES)


@pytest.mark.parametrize("name", [*ASKS_FOR_SCORES, *ASKS_FOR_CLASSES])
@pytest.mark.parametrize("alpha", [None, 3.0])
def test_boxes_are_trained_on_the_overlap_that_is_named(name: str, alpha: float | None) -> None:
    criterion, maps, targets = make_case(name)
    own, _ = loss_and_gradients(criterion, maps, targets)
    criterion.choose_box_loss("eiou", alpha)
    plain, _, _ = make_case(name)
    plain.box_overlap = lambda first, second: plain_eiou(first, second, alpha or 1.0)
    assert_same(criterion, plain, maps, targets)
    changed, _ = loss_and_gradients(criterion, maps, targets)
    box = "box" if "box" in own else "iou"
    assert math.isfinite(changed[box]) and changed[box] != pytest.approx(own[box], rel=1e-3)
    assert {**changed, box: own[box]} == own


def test_alpha_alone_is_that_of_the_models_own_overlap() -> None:
    criterion, maps, targets = make_case("yolox-nano")
    own, _ = loss_and_gradients(criterion, maps, targets)
    criterion.choose_box_loss(None, None)
    assert loss_and_gradients(criterion, maps, targets)[0] == own
    criterion.choose_box_loss(None, 3.0)
    cubed, _ = loss_and_gradients(criterion, maps, targets)
    criterion.choose_box_loss("iou", 3.0)
    assert loss_and_gradients(criterion, maps, targets)[0] == cubed != own


@pytest.mark.parametrize("name", ASKS_FOR_SCORES)
@pytest.mark.parametrize("loss", CLASS_LOSSES)
def test_graded_scores_are_trained_by_the_loss_that_is_named(name: str, loss: str) -> None:
    criterion, maps, targets = make_case(name)
    criterion.choose_class_loss(loss)
    plain, _, _ = make_case(name)
    plain.class_loss = lambda logits, positive, scores: plain_sum(loss, logits, positive, scores)
    assert_same(criterion, plain, maps, targets)


@pytest.mark.parametrize("name", ASKS_FOR_CLASSES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_whole_classes_are_trained_by_the_loss_that_is_named(name: str, smoothing: float) -> None:
    for loss in ("bce", "quality_focal"):
        criterion, maps, targets = make_case(name)
        criterion.choose_class_loss(loss)
        plain, _, _ = make_case(name)
        plain.class_terms = lambda logits, scores, loss=loss: plain_terms(loss, logits, scores).float()
        for either in (criterion, plain):
            either.smooth_labels(smoothing)
        assert_same(criterion, plain, maps, targets)
    with pytest.raises(UsageError, match="whole classes"):
        criterion.choose_class_loss("varifocal")
