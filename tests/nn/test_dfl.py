"""Distances from distributions, and boxes from distances and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeyolo.nn.dfl import DistanceIntegral, boxes_from_distances, distances_from_boxes, flatten_levels


def test_integral_is_the_expected_value() -> None:
    logits = torch.randn(3, 5, 4, 17, generator=torch.Generator().manual_seed(0)) * 4
    exponents = np.exp(logits.numpy().astype(np.float64))
    wanted = (exponents / exponents.sum(-1, keepdims=True) * np.arange(17)).sum(-1)
    np.testing.assert_allclose(DistanceIntegral(17)(logits).numpy(), wanted, atol=1e-5)


def test_integral_has_nothing_to_train_or_to_store() -> None:
    integral = DistanceIntegral(17)
    assert list(integral.parameters()) == []
    assert integral.state_dict() == {}
    one_sided = torch.full((17,), -1e4)
    one_sided[16] = 1e4
    assert integral(one_sided).item() == pytest.approx(16)


def test_boxes_and_distances_are_inverse() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(7, 2, generator=generator) * 50
    distances = torch.rand(3, 7, 4, generator=generator) * 20 - 2
    boxes = boxes_from_distances(points, distances)
    torch.testing.assert_close(distances_from_boxes(points.expand(3, -1, -1), boxes), distances, atol=1e-5, rtol=0)
    assert boxes_from_distances(torch.tensor([[10.0, 20.0]]), torch.tensor([[[1.0, 2, 3, 4]]])).tolist() == [
        [[9, 18, 13, 24]]
    ]


def test_levels_are_flattened_in_rows() -> None:
    fine = torch.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2).half()
    coarse = torch.full((2, 3, 1, 1), 99.0)
    flat = flatten_levels([fine, coarse])
    assert flat.dtype == torch.float32
    assert flat.shape == (2, 5, 3)
    assert flat[1, 2].tolist() == fine[1, :, 1, 0].tolist()
    assert flat[0, 4].tolist() == [99, 99, 99]
