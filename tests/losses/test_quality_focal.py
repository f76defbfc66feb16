"""Quality focal loss against equation 5 of the paper, element by element."""

from __future__ import annotations

import math

import pytest
import torch

from edgeyolo.losses.quality_focal import quality_focal_loss


def reference(logit: float, q: float, beta: float) -> float:
    p = 1 / (1 + math.exp(-logit))
    return -(abs(q - p) ** beta) * ((1 - q) * math.log(1 - p) + q * math.log(p))


@pytest.mark.parametrize("beta", [2.0, 1.5])
def test_value_and_gradient_match_the_equation(beta: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(4, 9, 3, generator=generator) * 3).requires_grad_()
    scores = (torch.rand(4, 9, 3, generator=generator) - 0.5).clamp(min=0)
    found = quality_focal_loss([logits[:1], logits[1:]], logits[scores > 0], scores[scores > 0], beta=beta)
    found.backward()
    asked = scores.double().flatten().tolist()
    values = logits.detach().double().flatten().tolist()
    assert found.item() == pytest.approx(sum(reference(x, q, beta) for x, q in zip(values, asked, strict=True)), 1e-5)
    slopes = [
        (reference(x + 1e-5, q, beta) - reference(x - 1e-5, q, beta)) / 2e-5 for x, q in zip(values, asked, strict=True)
    ]
    assert logits.grad is not None
    assert logits.grad.flatten().tolist() == pytest.approx(slopes, rel=1e-4, abs=1e-6)


def test_a_positive_whose_score_is_zero_is_background() -> None:
    logits = torch.tensor([-1.0, 0.5])
    alone = quality_focal_loss([logits], logits[:0], logits[:0])
    torch.testing.assert_close(quality_focal_loss([logits], logits, torch.zeros(2)), alone)


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([-1e4, 1e4, -1e4, 1e4], requires_grad=True)
    loss = quality_focal_loss([logits], logits, torch.tensor([0.0, 0.0, 1.0, 1.0]))
    loss.backward()
    assert loss.item() == pytest.approx(2e4)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
