"""The loss of heat maps, against loops over joints and cells."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeyolo.criteria.heatmap import HeatmapCriterion
from edgeyolo.spec.errors import UsageError


def expected_map(x: float, y: float, height: int, width: int, sigma: float) -> np.ndarray | None:
    """A peak around the nearest cell, cut off after three sigmas; None where nothing of it shows."""
    column, row, reach = int(np.floor(x + 0.5)), int(np.floor(y + 0.5)), int(3 * sigma)
    if column - reach >= width or row - reach >= height or column + reach + 1 < 0 or row + reach + 1 < 0:
        return None
    heat = np.zeros((height, width))
    for r in range(max(0, row - reach), min(height, row + reach + 1)):
        for c in range(max(0, column - reach), min(width, column + reach + 1)):
            heat[r, c] = np.exp(-((r - row) ** 2 + (c - column) ** 2) / (2 * sigma**2))
    return heat


@pytest.mark.parametrize("hardest", [0, 2])
def test_loss_is_that_of_loops(hardest: int) -> None:
    torch.manual_seed(0)
    maps = torch.rand(2, 4, 16, 12, requires_grad=True)
    joints = [(0, 0, 10.0, 20.0), (0, 2, 47.9, 63.9), (0, 3, 300.0, 10.0), (1, 1, -3.0, 5.0), (1, 2, 22.1, 1.0)]
    targets = torch.tensor([(i, k, x - 1, y - 2, x + 1, y + 2) for i, k, x, y in joints])
    loss = HeatmapCriterion(4, hardest=hardest)([maps], targets, (64, 48))
    errors = np.zeros((2, 4))
    for i, k, x, y in joints:
        heat = expected_map(x / 4, y / 4, 16, 12, 2.0)
        if heat is not None:
            errors[i, k] = 0.5 * ((maps[i, k].detach().numpy() - heat) ** 2).mean()
    assert (errors > 0).sum() == 4
    per_picture = np.sort(errors, axis=1)[:, -hardest:].mean(axis=1) if hardest else errors.mean(axis=1)
    assert float(loss.total.detach()) == pytest.approx(per_picture.mean(), rel=1e-5)
    loss.total.backward()
    assert maps.grad is not None
    assert maps.grad[0, 1].abs().max() == 0  # without a label


def test_the_loss_of_its_own_targets_is_nothing() -> None:
    heat = torch.from_numpy(expected_map(5, 7, 16, 12, 2.0))[None, None].float()
    targets = torch.tensor([(0, 0, 20.0, 28.0, 20.0, 28.0)])
    assert float(HeatmapCriterion(4)([heat], targets, (64, 48)).total) < 1e-12


def test_a_batch_without_labels_costs_nothing_and_has_gradients() -> None:
    maps = torch.rand(2, 3, 8, 8, requires_grad=True)
    total = HeatmapCriterion(4)([maps], torch.zeros(0, 6), (32, 32)).total
    assert float(total.detach()) == 0
    total.backward()
    assert maps.grad is not None


def test_losses_of_boxes_are_refused() -> None:
    criterion = HeatmapCriterion(4)
    with pytest.raises(UsageError, match="joints, not boxes"):
        criterion.choose_box_loss("ciou", None)
    with pytest.raises(UsageError, match="joints, not classes"):
        criterion.choose_class_loss("varifocal")
    criterion.choose_box_loss(None, None)
