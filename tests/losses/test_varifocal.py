"""Varifocal loss against equation 2 of the paper, element by element."""

from __future__ import annotations

import math

import pytest
import torch

from edgeyolo.losses.varifocal import _CHUNK_ELEMENTS, background_loss, varifocal_loss


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
    found = varifocal_loss([logits[:1], logits[1:]], logits[scores > 0], scores[scores > 0], alpha=alpha, gamma=gamma)
    assert found.item() == pytest.approx(wanted, rel=1e-5)


def test_gradient_matches_finite_differences() -> None:
    logits = torch.tensor([-2.0, 0.3, 1.5, -0.4], dtype=torch.float64, requires_grad=True)
    scores = torch.tensor([0.0, 0.8, 0.0, 0.2], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: varifocal_loss([x], x, scores), (logits,))
    assert torch.autograd.gradcheck(lambda x: varifocal_loss([x], x[:2], scores[:2], gamma=1.5), (logits,))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_chunks_change_nothing(memory_format: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 9, 130, 130, generator=generator).contiguous(memory_format=memory_format).requires_grad_()
    assert logits.numel() > _CHUNK_ELEMENTS
    background_loss(logits, 0.75, 2.0).backward()
    p = logits.detach().double().sigmoid()
    by_hand = 0.75 * p**2 * (2 * (1 - p) * -(1 - p).log() + p)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad.double(), by_hand, atol=1e-6, rtol=1e-4)
    wanted = (-0.75 * p**2 * (1 - p).log()).sum().item()
    assert background_loss(logits, 0.75, 2.0).item() == pytest.approx(wanted, rel=1e-5)


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([-1e4, 1e4, -1e4, 1e4], requires_grad=True)
    loss = varifocal_loss([logits], logits, torch.tensor([0.0, 0.0, 1.0, 1.0]))
    loss.backward()
    assert loss.item() == pytest.approx(0.75e4 + 1e4)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_a_positive_is_best_at_its_score() -> None:
    logits = torch.linspace(-4, 4, 801)
    losses = torch.stack([varifocal_loss([x], x[None], torch.tensor([0.7])) for x in logits])
    assert logits[losses.argmin()].sigmoid().item() == pytest.approx(0.7, abs=5e-3)
