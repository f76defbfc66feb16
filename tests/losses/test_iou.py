"""Overlaps against scalar formulas of the papers, computed pair by pair."""

from __future__ import annotations

import math

import pytest
import torch

from edgeyolo.losses.iou import ciou, giou, iou, siou


def make_pairs(count=200):
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, count, 2, generator=generator) * 60
    size = torch.rand(2, count, 2, generator=generator) * 50 + 1
    first, second = torch.cat([corner, corner + size], dim=2).unbind()
    second[:20] = first[:20]
    second[20:30] = first[20:30] + torch.tensor([2.0, 0, 2, 0])
    second[30:40] = first[30:40] + 500
    return first, second


def reference(kind, a, b):
    aw, ah, bw, bh = a[2] - a[0], a[3] - a[1], b[2] - b[0], b[3] - b[1]
    inter = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = aw * ah + bw * bh - inter
    overlap = inter / union
    cw, ch = max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1])
    dx, dy = (a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2
    distance = (dx**2 + dy**2) / (cw**2 + ch**2)
    if kind == "iou":
        return overlap
    if kind == "giou":
        return overlap - (cw * ch - union) / (cw * ch)
    if kind == "diou":
        return overlap - distance
    if kind == "siou":
        sigma = math.hypot(dx, dy)
        angle = 1 - 2 * math.sin(math.asin(min(abs(dx), abs(dy)) / sigma) - math.pi / 4) ** 2 if sigma else 0.0
        rho_x, rho_y = (dx / cw) ** 2, (dy / ch) ** 2
        delta = sum(1 - math.exp(-(2 - angle) * rho) for rho in (rho_x, rho_y))
        omega = sum((1 - math.exp(-abs(p - q) / max(p, q))) ** 4 for p, q in ((aw, bw), (ah, bh)))
        return overlap - (delta + omega) / 2
    v = 4 / math.pi**2 * (math.atan(bw / bh) - math.atan(aw / ah)) ** 2
    return overlap - distance - (v * v / (1 - overlap + v) if v else 0.0)


KINDS = {"iou": iou, "giou": giou, "ciou": ciou, "siou": siou}


@pytest.mark.parametrize("kind", KINDS)
def test_aligned_forms_match_the_formulas(kind):
    first, second = make_pairs()
    pairs = zip(first.double().tolist(), second.double().tolist(), strict=True)
    expected = torch.tensor([reference(kind, a, b) for a, b in pairs])
    torch.testing.assert_close(KINDS[kind](first, second), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_boxes_score_one(kind):
    boxes = torch.tensor([[0.0, 0, 10, 10], [5, 6, 100, 9]])
    torch.testing.assert_close(KINDS[kind](boxes, boxes), torch.ones(2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_without_area_have_finite_values_and_gradients(kind):
    first = torch.tensor(
        [[5.0, 5, 5, 5], [5, 5, 5, 9], [5, 5, 9, 5], [0, 0, 0, 0], [0, 0, 1e6, 1e-6]], requires_grad=True
    )
    second = torch.tensor([[5.0, 5, 5, 5], [0, 0, 10, 10], [5, 5, 9, 5], [3, 3, 4, 4], [0, 0, 1, 1]])
    values = KINDS[kind](first, second)
    values.sum().backward()
    assert values.isfinite().all()
    assert first.grad.isfinite().all()


def test_the_weight_of_the_aspect_penalty_is_constant_for_the_gradient():
    first = torch.tensor([[0.0, 0, 4, 10]], dtype=torch.float64, requires_grad=True)
    second = torch.tensor([[1.0, 1, 9, 6]], dtype=torch.float64)
    ciou(first, second).sum().backward()
    start = first.detach()[0].tolist()
    overlap = reference("iou", start, second[0].tolist())

    def aspect(box):
        return 4 / math.pi**2 * (math.atan(8 / 5) - math.atan((box[2] - box[0]) / (box[3] - box[1]))) ** 2

    weight = aspect(start) / (1 - overlap + aspect(start))
    for side in range(4):
        step = [0.0] * 4
        step[side] = 1e-5
        ahead, behind = ([s + sign * d for s, d in zip(start, step, strict=True)] for sign in (1, -1))
        slope = [reference("diou", box, second[0].tolist()) - weight * aspect(box) for box in (ahead, behind)]
        assert first.grad[0, side].item() == pytest.approx((slope[0] - slope[1]) / 2e-5, abs=1e-6)
