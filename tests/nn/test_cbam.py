"""CBAM against the paper's equations in numpy."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from edgeyolo.nn.cbam import CbamC3, ChannelAttention, SpatialAttention

Array = NDArray[np.float64]


def numbers(tensor: torch.Tensor) -> Array:
    return tensor.detach().numpy().astype(np.float64)


def gate(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def channels_by_hand(block: ChannelAttention, x: Array) -> Array:
    narrow, wide = numbers(block.squeeze.weight)[..., 0, 0], numbers(block.excite.weight)[..., 0, 0]
    mixed = sum(np.maximum(pooled @ narrow.T, 0) @ wide.T for pooled in (x.mean((2, 3)), x.max((2, 3))))
    return x * gate(mixed)[:, :, None, None]


def positions_by_hand(block: SpatialAttention, x: Array) -> Array:
    weight = numbers(block.conv.weight)[0]
    summary = np.pad(np.stack((x.mean(1), x.max(1)), 1), ((0, 0), (0, 0), (3, 3), (3, 3)))
    windows = np.lib.stride_tricks.sliding_window_view(summary, (7, 7), axis=(2, 3))
    return x * gate(np.einsum("bchwij,cij->bhw", windows, weight))[:, None]


def test_both_gates_are_those_of_the_paper() -> None:
    torch.manual_seed(0)
    channels, positions = ChannelAttention(32), SpatialAttention()
    assert channels.squeeze.out_channels == 2
    x = torch.randn(2, 32, 9, 11)
    np.testing.assert_allclose(numbers(channels(x)), channels_by_hand(channels, numbers(x)), atol=1e-5)
    np.testing.assert_allclose(numbers(positions(x)), positions_by_hand(positions, numbers(x)), atol=1e-5)


def test_a_stage_goes_through_channels_first() -> None:
    torch.manual_seed(0)
    stage = CbamC3(16, 16, 1, shortcut=True).eval()
    x = torch.randn(1, 16, 8, 8)
    with torch.no_grad():
        joined = stage.join(torch.cat((stage.blocks(stage.entry(x)), stage.skip(x)), dim=1))
        wanted = positions_by_hand(stage.positions, channels_by_hand(stage.channels, numbers(joined)))
        np.testing.assert_allclose(numbers(stage(x)), wanted, atol=1e-5)


def test_few_channels_have_one_hidden_number() -> None:
    assert ChannelAttention(8)(torch.randn(1, 8, 2, 2)).shape == (1, 8, 2, 2)
