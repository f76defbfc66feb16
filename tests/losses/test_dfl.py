"""Distribution focal loss against equation 6 of the paper, side by side."""

from __future__ import annotations

import math

import pytest
import torch

from edgeyolo.losses.dfl import distribution_focal_loss

BINS = 17


def reference(logits: list[float], distance: float) -> float:
    distance = min(max(distance, 0.0), len(logits) - 1.01)
    total = math.log(sum(math.exp(x) for x in logits))
    probabilities = [x - total for x in logits]
    lower = int(distance)
    return -((lower + 1 - distance) * probabilities[lower] + (distance - lower) * probabilities[lower + 1])


def test_matches_the_equation() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 4, BINS, generator=generator) * 2
    distances = torch.rand(50, 4, generator=generator) * 20 - 2  # some outside of the bins
    distances[0] = torch.tensor([0.0, 3.0, 16.0, 15.999])
    found = distribution_focal_loss(logits, distances)
    for row, wanted_distances, loss in zip(logits.double(), distances.double(), found, strict=True):
        sides = [reference(row[side].tolist(), wanted_distances[side].item()) for side in range(4)]
        assert loss.item() == pytest.approx(sum(sides) / 4, rel=1e-5)


def test_the_best_distribution_has_the_distance_as_its_mean() -> None:
    logits = torch.zeros(1, 4, BINS, requires_grad=True)
    distances = torch.tensor([[0.25, 4.5, 9.0, 15.75]])
    optimiser = torch.optim.Adam([logits], lr=0.5)
    for _ in range(400):
        optimiser.zero_grad()
        distribution_focal_loss(logits, distances).sum().backward()
        optimiser.step()
    mean = (logits.softmax(dim=-1) * torch.arange(BINS)).sum(dim=-1)
    torch.testing.assert_close(mean, distances, atol=0.02, rtol=0)


def test_no_positives_give_an_empty_loss_with_a_gradient() -> None:
    logits = torch.zeros(3, 4, BINS, requires_grad=True)
    none = torch.zeros(3, dtype=torch.bool)
    distribution_focal_loss(logits[none], torch.zeros(3, 4)[none]).sum().backward()
    assert logits.grad is not None
    assert (logits.grad == 0).all()
