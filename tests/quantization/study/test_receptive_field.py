"""The effective receptive field against the squares of weights, and against all squares tried one after the other."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from edgeyolo.quantization.study.receptive_field import effective_fields


class Plain(nn.Module):
    """A level by one convolution, so that the gradient is its weight."""

    def __init__(self, size: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, size, stride=stride, padding=(size - stride) // 2, bias=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.conv(images)]


def smallest_square(energy: np.ndarray, share: float) -> int:
    """Side, by trying every half-side around the middle of (N, N)."""
    middle, total = len(energy) / 2, energy.sum()
    for side in range(len(energy) % 2, len(energy) + 1, 2):
        low, high = int(middle - side / 2), int(middle + side / 2)
        if side and energy[low:high, low:high].sum() >= share * total:
            return side
    raise AssertionError


def test_is_the_smallest_square_with_the_share() -> None:
    torch.manual_seed(0)
    for size, stride in ((24, 8), (40, 8), (16, 16)):
        model = Plain(size, stride).eval()
        ramp = torch.exp(-(((torch.arange(size) + 0.5 - size / 2) / (size / 6)) ** 2))
        with torch.no_grad():
            model.conv.weight *= ramp[:, None] * ramp
        energy = model.conv.weight.detach().double().square().sum((0, 1)).numpy()
        images = [np.random.default_rng(i).random((3, 64, 64), np.float32) for i in range(2)]
        assert effective_fields(model, (stride,), images) == [smallest_square(energy, 0.95)]


def test_levels_have_their_own_maps() -> None:
    """Two maps a level: the square is that of the larger one where both weigh alike."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fine, self.wide, self.coarse = Plain(8, 8), Plain(24, 8), Plain(16, 16)
            for parameter in self.parameters():
                nn.init.ones_(parameter)

        def forward(self, images: Tensor) -> list[Tensor]:
            return [self.fine(images)[0], self.wide(images)[0], self.coarse(images)[0], 2 * self.coarse(images)[0]]

    found = effective_fields(Two().eval(), (8, 16), [np.zeros((3, 64, 64), np.float32)])
    assert found[1] == 16 and 8 <= found[0] <= 24
