"""Distances from distributions, and boxes from distances and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeyolo.nn import dfl as dfl_module
from edgeyolo.nn.dfl import DistanceIntegral, boxes_from_distances, distances_from_boxes, take_points


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


def test_points_are_counted_in_rows_level_after_level() -> None:
    fine = torch.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2).half()
    coarse = torch.full((2, 3, 1, 1), 99.0)
    picture, point = torch.tensor([1, 0, 1]), torch.tensor([2, 4, 1])
    taken = take_points([fine, coarse], picture, point)
    assert taken.dtype == torch.float32
    assert taken.tolist() == [fine[1, :, 1, 0].tolist(), [99, 99, 99], fine[1, :, 0, 1].tolist()]
    assert take_points([fine, coarse], picture, point, torch.tensor([2, 0, 1])).tolist() == [
        fine[1, 2, 1, 0],
        99,
        fine[1, 1, 0, 1],
    ]


def test_gradients_of_taken_points_reach_every_map() -> None:
    maps = [torch.rand(2, 3, 2, 2, requires_grad=True), torch.rand(2, 3, 1, 1, requires_grad=True)]
    take_points(maps, torch.tensor([1, 1]), torch.tensor([3, 3])).sum().backward()
    assert maps[0].grad is not None and maps[1].grad is not None
    assert maps[0].grad[1, :, 1, 1].tolist() == [2, 2, 2]
    assert maps[0].grad.sum() == 6
    assert not maps[1].grad.any()


def test_distances_of_whole_maps_are_those_of_their_points(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(3)
    maps = [torch.randn(3, 4 * 17, side, side, generator=generator) for side in (4, 2)]
    integral = DistanceIntegral(17)
    picture, point = torch.arange(3).repeat_interleave(20), torch.arange(20).repeat(3)
    wanted = integral(take_points(maps, picture, point).view(3, 20, 4, 17))
    torch.testing.assert_close(integral.over_maps(maps), wanted)
    monkeypatch.setattr(dfl_module, "_CHUNK_ELEMENTS", 1)
    torch.testing.assert_close(integral.over_maps(maps), wanted)
