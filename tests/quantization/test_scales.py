"""Scales of weights and groups, dead channels included."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import nn

from edgeyolo.quantization.scales import all_weight_scales, group_scales, weight_scales
from edgeyolo.spec.errors import QuantizationError, UsageError


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
        all_weight_scales(model, ["stem"], 8)
    with pytest.raises(UsageError, match="weight_bits is 9"):
        all_weight_scales(model, ["stem"], 9)


def test_groups_of_zeros_fall_back_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert group_scales({"g0": 2.54, "g1": 0.0}) == pytest.approx({"g0": 0.02, "g1": 1 / 127})
    assert "1 of 2 scale groups (g1)" in caplog.text
