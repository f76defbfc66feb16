"""Overlaps against scalar formulas of the papers, computed pair by pair."""

from __future__ import annotations

import math

import pytest
import torch

from edgeyolo.losses.by_name import BOX_OVERLAPS as KINDS


def make_pairs(count=200):
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, count, 2, generator=generator) * 60
    size = torch.rand(2, count, 2, generator=generator) * 50 + 1
    first, second = torch.cat([corner, corner + size], dim=2).unbind()
    second[:20] = first[:20]
    second[20:30] = first[20:30] + torch.tensor([2.0, 0, 2, 0])
    second[30:40] = first[30:40] + 500
    return first, second


def reference(kind, a, b, alpha=1.0, weight=None):
    """In double precision; `weight` is that of the aspect ratio, where it is to be a constant."""
    aw, ah, bw, bh = a[2] - a[0], a[3] - a[1], b[2] - b[0], b[3] - b[1]
    inter = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = aw * ah + bw * bh - inter
    overlap = inter / union
    cw, ch = max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1])
    dx, dy = (a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2
    distance = (dx**2 + dy**2) / (cw**2 + ch**2)
    v = 4 / math.pi**2 * (math.atan(bw / bh) - math.atan(aw / ah)) ** 2
    sigma = math.hypot(dx, dy)
    angle = 1 - 2 * math.sin(math.asin(min(abs(dx), abs(dy)) / sigma) - math.pi / 4) ** 2 if sigma else 0.0
    delta = sum(1 - math.exp(-(2 - angle) * rho) for rho in ((dx / cw) ** 2, (dy / ch) ** 2))
    omega = sum((1 - math.exp(-abs(p - q) / max(p, q))) ** 4 for p, q in ((aw, bw), (ah, bh)))
    penalties = {
        "iou": (),
        "giou": ((cw * ch - union) / (cw * ch),),
        "diou": (distance,),
        "ciou": (distance, v * (weight_of(v, overlap) if weight is None else weight)),
        "eiou": (distance, ((aw - bw) / cw) ** 2, ((ah - bh) / ch) ** 2),
        "siou": ((delta + omega) / 2,),
    }[kind]
    return overlap**alpha - sum(max(penalty, 0.0) ** alpha for penalty in penalties)


def weight_of(v, overlap):
    return v / (1 - overlap + v) if v else 0.0


@pytest.mark.parametrize("alpha", [1.0, 2.5, 3.0])
@pytest.mark.parametrize("kind", KINDS)
def test_aligned_forms_match_the_formulas(kind, alpha):
    first, second = make_pairs()
    pairs = zip(first.double().tolist(), second.double().tolist(), strict=True)
    expected = torch.tensor([reference(kind, a, b, alpha) for a, b in pairs])
    torch.testing.assert_close(KINDS[kind](first, second, alpha=alpha), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("alpha", [1.0, 3.0])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_match_the_formulas(kind, alpha):
    first, second = (boxes[40:80] for boxes in make_pairs())
    first.requires_grad_()
    KINDS[kind](first, second, alpha=alpha).sum().backward()
    for a, b, found in zip(first.double().tolist(), second.double().tolist(), first.grad.tolist(), strict=True):
        turn = math.atan((b[2] - b[0]) / (b[3] - b[1])) - math.atan((a[2] - a[0]) / (a[3] - a[1]))
        weight = weight_of(4 / math.pi**2 * turn**2, reference("iou", a, b))
        for side, slope in enumerate(found):
            ahead, behind = ([*a[:side], a[side] + step, *a[side + 1 :]] for step in (1e-5, -1e-5))
            rise = reference(kind, ahead, b, alpha, weight) - reference(kind, behind, b, alpha, weight)
            assert slope == pytest.approx(rise / 2e-5, rel=1e-4, abs=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_boxes_score_one(kind):
    boxes = torch.tensor([[0.0, 0, 10, 10], [5, 6, 100, 9]])
    torch.testing.assert_close(KINDS[kind](boxes, boxes), torch.ones(2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("alpha", [1.0, 1.5, 3.0])
@pytest.mark.parametrize("kind", KINDS)
def test_boxes_without_area_have_finite_values_and_gradients(kind, alpha):
    first = torch.tensor(
        [[5.0, 5, 5, 5], [5, 5, 5, 9], [5, 5, 9, 5], [0, 0, 0, 0], [0, 0, 1e6, 1e-6]], requires_grad=True
    )
    second = torch.tensor([[5.0, 5, 5, 5], [0, 0, 10, 10], [5, 5, 9, 5], [3, 3, 4, 4], [0, 0, 1, 1]])
    values = KINDS[kind](first, second, alpha=alpha)
    values.sum().backward()
    assert values.isfinite().all()
    assert first.grad.isfinite().all()
