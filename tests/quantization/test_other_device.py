"""A model on another device than the CPU is calibrated and looked into there, and gives what it gives here."""

from __future__ import annotations

import pytest
import torch
from other_device import DEVICE, OtherDevice
from torch import Tensor, nn
from torch.nn import functional as F

from edgeyolo.quantization import Quantized, quantize
from edgeyolo.quantization.study.sensitivity import measure_sensitivity
from edgeyolo.quantization.study.signal_left import layer_sqnr
from edgeyolo.spec.recipe import Recipe

PICTURES = [torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(5)) for _ in range(20)]


class Tiny(nn.Module):
    """Two convolutions in a row, and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.body, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.head(F.leaky_relu(self.body(F.leaky_relu(self.stem(x), 0.1)), 0.1))]


def run(model: nn.Module, observer: str) -> Quantized:
    recipe = Recipe(title="", observer=observer, count=20, equalize=True, bias_correction=True)
    return quantize(model, PICTURES, recipe, recipe_name="", picture_hashes={})


@pytest.mark.parametrize("observer", ["max", "percentile", "entropy", "mse"])
def test_scales_and_biases_are_found_there(observer: str) -> None:
    expected = run(Tiny().eval(), observer)
    with OtherDevice() as there:
        found = run(Tiny().eval().to(DEVICE), observer).on(torch.device("cpu"))
    assert set(there.convolutions) == {16, 4} and not there.here  # twenty pictures
    assert found.scales.weights == expected.scales.weights
    assert found.scales.groups == pytest.approx(expected.scales.groups, rel=1e-6)
    mine, theirs = found.fake_quant.state_dict(), expected.fake_quant.state_dict()
    for name, tensor in theirs.items():
        torch.testing.assert_close(mine[name], tensor, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.fake_quant(PICTURES[0]), expected.fake_quant(PICTURES[0]), rtol=1e-4, atol=1e-5)


def test_sensitivity_and_signal_are_measured_there() -> None:
    quantized = run(Tiny().eval(), "max")
    expected, signal = measure_sensitivity(quantized, PICTURES[:4]), layer_sqnr(quantized, PICTURES[:4])
    with OtherDevice() as there:
        moved = quantized.on(DEVICE)
        found, same = measure_sensitivity(moved, PICTURES[:4]), layer_sqnr(moved, PICTURES[:4])
    assert there.convolutions and not there.here
    assert found.ranking() == expected.ranking() and found.kl == pytest.approx(expected.kl, rel=1e-4)
    assert [row.sqnr_db for row in same] == pytest.approx([row.sqnr_db for row in signal], abs=1e-3)
    assert quantized.on(torch.device("cpu")) is quantized
