"""Scales of weights and groups, dead channels included."""

from __future__ import annotations

import logging

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from edgeyolo.quantization.calibrate.scales import all_weight_scales, choose_weight_bits, group_scales, weight_scales
from edgeyolo.spec.errors import QuantizationError, UnknownNameError, UsageError
from edgeyolo.spec.recipe import Recipe


def conv(weight: torch.Tensor) -> nn.Conv2d:
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], 1)
    layer.weight = nn.Parameter(weight)
    return layer


@pytest.mark.parametrize(("bits", "limit"), [(8, 127), (6, 31)])
def test_one_scale_per_output_channel(bits: int, limit: int) -> None:
    weight = torch.randn(5, 7, 1, 1)
    scales = weight_scales(conv(weight), bits, where="a")
    expected = np.abs(weight.numpy()).max(axis=(1, 2, 3)).astype(np.float64) / limit
    np.testing.assert_allclose(scales, expected, rtol=1e-7)
    assert all(np.float32(scale) == scale for scale in scales)


def test_dead_channels_get_the_largest_scale_of_the_layer_or_one() -> None:
    weight = torch.tensor([[0.0], [0.5], [-2.54], [1e-30]])[:, :, None, None]
    assert weight_scales(conv(weight), 8, where="a") == pytest.approx([0.02, 0.5 / 127, 0.02, 0.02])
    assert weight_scales(conv(torch.zeros(3, 2, 1, 1)), 8, where="a") == (1.0, 1.0, 1.0)


def test_weights_that_are_not_finite_are_refused_by_name() -> None:
    model = nn.ModuleDict({"stem": conv(torch.tensor([[1.0], [float("nan")]])[:, :, None, None])})
    with pytest.raises(QuantizationError, match="stem"):
        all_weight_scales(model, {"stem": 8})
    with pytest.raises(UnknownNameError, match="'least'"):
        weight_scales(conv(torch.ones(1, 1, 1, 1)), 8, "least", where="stem")


def squared_error(row: np.ndarray, largest: float, limit: int) -> float:
    step = largest / limit
    return float(np.sum((np.clip(np.rint(row / step), -limit, limit) * step - row) ** 2))


@pytest.mark.parametrize(("bits", "limit"), [(8, 127), (6, 31), (4, 7)])
def test_mse_is_the_best_of_the_grid(bits: int, limit: int) -> None:
    """Against one channel and one candidate at a time, in float64; scales are rounded to float32."""
    weight = torch.randn(6, 50, 3, 3, generator=torch.Generator().manual_seed(1))
    weight[0, 0, 0, 0] = 30.0  # an outlier worth clipping with few bits
    scales = weight_scales(conv(weight), bits, "mse", where="a")
    for row, scale in zip(weight.flatten(1).double().numpy(), scales, strict=True):
        largest = np.abs(row).max()
        errors = [squared_error(row, largest * part / 50, limit) for part in range(10, 51)]
        assert squared_error(row, scale * limit, limit) <= min(errors) * 1.0001
        assert round(scale * limit / largest * 50, 3) in range(10, 51)


def test_mse_clips_where_it_pays_and_keeps_dead_channels_as_max_does() -> None:
    weight = torch.randn(2, 400, 1, 1, generator=torch.Generator().manual_seed(2))
    four_bits = weight_scales(conv(weight), 4, "mse", where="a")
    assert all(s * 7 < 0.9 * float(row.abs().max()) for s, row in zip(four_bits, weight, strict=True))
    dead = torch.tensor([[0.0], [0.5], [-2.54]])[:, :, None, None]
    assert weight_scales(conv(dead), 8, "mse", where="a")[0] == weight_scales(conv(dead), 8, where="a")[0]


def test_plain_3x3_convolutions_have_their_own_bits() -> None:
    model = nn.ModuleDict(
        {
            "plain": nn.Conv2d(4, 4, 3, padding=1),
            "strided": nn.Conv2d(4, 4, 3, stride=2),
            "dilated": nn.Conv2d(4, 4, 3, dilation=2),
            "pointwise": nn.Conv2d(4, 4, 1),
            "flat": nn.Conv2d(4, 4, (1, 3)),
            "linear": nn.Linear(4, 4),
        }
    )
    bits = choose_weight_bits(model, model, Recipe(title="", weight_bits=7, weight_bits_3x3=6))
    assert bits == {name: 6 if name == "plain" else 7 for name in model}
    for field in ("weight_bits", "weight_bits_3x3"):
        for wrong in (1, 9):
            with pytest.raises(UsageError, match=f"recipe: {field} is {wrong}"):
                choose_weight_bits(model, model, msgspec.structs.replace(Recipe(title=""), **{field: wrong}))


def test_groups_of_zeros_fall_back_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert group_scales({"g0": 2.54, "g1": 0.0}) == pytest.approx({"g0": 0.02, "g1": 1 / 127})
    assert "1 of 2 scale groups (g1)" in caplog.text
