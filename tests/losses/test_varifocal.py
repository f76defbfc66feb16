"""Varifocal loss against equation 2 of the paper, element by element."""

from __future__ import annotations

import math

import pytest
import torch

from edgeyolo.losses.varifocal import varifocal_loss


def reference(logit: float, q: float, alpha: float, gamma: float) -> float:
    p = 1 / (1 + math.exp(-logit))
    if q > 0:
        return -q * (q * math.log(p) + (1 - q) * math.log(1 - p))
    return -alpha * p**gamma * math.log(1 - p)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.75, 2.0), (0.5, 1.5)])
def test_matches_the_equation(alpha: float, gamma: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 9, 3, generator=generator) * 3
    scores = (torch.rand(4, 9, 3, generator=generator) - 0.5).clamp(min=0)
    wanted = sum(
        reference(x, q, alpha, gamma)
        for x, q in zip(logits.double().flatten().tolist(), scores.double().flatten().tolist(), strict=True)
    )
    assert varifocal_loss(logits, scores, alpha=alpha, gamma=gamma).item() == pytest.approx(wanted, rel=1e-5)


def test_gradient_matches_finite_differences() -> None:
    logits = torch.tensor([-2.0, 0.3, 1.5, -0.4], dtype=torch.float64, requires_grad=True)
    scores = torch.tensor([0.0, 0.8, 0.0, 0.2], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: varifocal_loss(x, scores), (logits,))


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([-1e4, 1e4, -1e4, 1e4], requires_grad=True)
    loss = varifocal_loss(logits, torch.tensor([0.0, 0.0, 1.0, 1.0]))
    loss.backward()
    assert loss.item() == pytest.approx(0.75e4 + 1e4)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_a_positive_is_best_at_its_score() -> None:
    logits = torch.linspace(-4, 4, 801)
    losses = torch.stack([varifocal_loss(x, torch.tensor(0.7)) for x in logits])
    assert logits[losses.argmin()].sigmoid().item() == pytest.approx(0.7, abs=5e-3)
