"""Balanced ranges, the same function, and the pairs that must be left alone."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from edgeyolo import models
from edgeyolo.quantization import find_placement
from edgeyolo.quantization.calibrate.ranges import trace_deploy_form
from edgeyolo.quantization.recover.equalize import equalize, find_pairs


class Chain(nn.Module):
    """Four convolutions in a row, with channels of very different ranges."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 12, 3, padding=1, bias=False)
        self.c, self.head = nn.Conv2d(12, 6, 1), nn.Conv2d(6, 5, 1)
        self.act, self.nothing = activation, nn.Identity()
        with torch.no_grad():
            self.a.weight.mul_(torch.logspace(-3, 3, 8)[:, None, None, None])
            self.b.weight.mul_(torch.logspace(2, -2, 12)[:, None, None, None])

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.b(F.leaky_relu(self.a(x), 0.2)))
        return self.head(self.nothing(self.act(self.c(x))))


def trace(model: nn.Module) -> tuple[fx.GraphModule, list[str]]:
    deploy = fx.symbolic_trace(model.eval())
    return deploy, find_placement(deploy).int8_layers()


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.1), nn.Identity()])
def test_ranges_are_balanced_and_the_function_is_the_same(activation: nn.Module) -> None:
    deploy, layers = trace(Chain(activation))
    before = {name: value.clone() for name, value in deploy.state_dict().items()}
    balanced = equalize(deploy, layers)
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = deploy(x), balanced(x)
    assert float((found - expected).abs().max()) < 1e-5 * float(expected.abs().max())
    assert find_pairs(deploy, layers) == [("a", "b"), ("b", "c")]
    for first, second in (("a", "b"), ("b", "c")):
        makes = balanced.get_parameter(f"{first}.weight").detach().abs().amax((1, 2, 3))
        reads = balanced.get_parameter(f"{second}.weight").detach().abs().amax((0, 2, 3))
        torch.testing.assert_close(makes, reads, rtol=5e-3, atol=0.0)
        old = deploy.get_parameter(f"{first}.weight").detach().abs().amax((1, 2, 3))
        assert float(makes.max() / makes.min()) < 0.1 * float(old.max() / old.min())
    assert all(torch.equal(before[name], value) for name, value in deploy.state_dict().items())


def test_one_pair_is_the_formula_of_the_paper() -> None:
    deploy, _ = trace(Chain(nn.ReLU()))
    balanced = equalize(deploy, ["a", "b"])
    makes = deploy.get_parameter("a.weight").abs().amax((1, 2, 3))
    reads = deploy.get_parameter("b.weight").abs().amax((0, 2, 3))
    factors = (makes * reads).sqrt() / reads  # equation 11
    for name, expected in {
        "a.weight": deploy.get_parameter("a.weight") / factors[:, None, None, None],
        "a.bias": deploy.get_parameter("a.bias") / factors,
        "b.weight": deploy.get_parameter("b.weight") * factors[None, :, None, None],
        "c.weight": deploy.get_parameter("c.weight"),
    }.items():
        torch.testing.assert_close(balanced.get_parameter(name), expected, rtol=1e-4, atol=0.0)


def test_dead_channels_are_left_alone() -> None:
    model = Chain(nn.ReLU())
    with torch.no_grad():
        model.a.weight[2] = 0.0
        model.b.weight[:, 5] = 0.0
    deploy, layers = trace(model)
    balanced = equalize(deploy, layers)
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(balanced(x), deploy(x), rtol=1e-4, atol=1e-4 * float(deploy(x).abs().max()))
    assert all(bool(torch.isfinite(value).all()) for value in balanced.state_dict().values())


class Apart(nn.Module):
    """Pairs that may not be balanced: two readers, curved activations, a concat, a grouped layer, a shared one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        names = ("stem", "left", "right", "curved", "after", "joined", "twice", "tail", "head")
        for name in names:
            self.add_module(name, nn.Conv2d(16 if name == "joined" else 8, 8, 1))
        self.enter = nn.Conv2d(3, 8, 1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=8)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(F.silu(self.enter(x))))
        x = torch.cat([F.relu(self.left(x)), F.relu(self.right(x))], 1)
        x = self.after(F.silu(self.curved(F.relu6(self.joined(x)))))
        x = F.relu(self.grouped(F.relu(x)))
        x = F.relu(self.twice(F.relu(self.twice(x))))
        return self.head(self.tail(x))


def test_what_may_not_be_balanced_is_not(caplog: pytest.LogCaptureFixture) -> None:
    deploy, layers = trace(Apart())
    assert find_pairs(deploy, layers) == []
    with caplog.at_level(logging.WARNING):
        balanced = equalize(deploy, layers)
    assert f"equalized 0 pairs of layers in 0 sweeps; {len(layers)} of {len(layers)} int8 layers" in caplog.text
    assert all(torch.equal(deploy.state_dict()[name], value) for name, value in balanced.state_dict().items())


def test_a_detector_keeps_its_maps(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    deploy = trace_deploy_form(models.create("yolov7-tiny", 3))
    layers = find_placement(deploy).int8_layers()
    with caplog.at_level(logging.INFO):
        balanced = equalize(deploy, layers)
    pairs = find_pairs(deploy, layers)
    assert ("backbone.stem.0.conv", "backbone.stages.0.0.conv") in pairs
    assert f"equalized {len(pairs)} pairs" in caplog.text
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for found, expected in zip(balanced(x), deploy(x), strict=True):
            assert float((found - expected).abs().max()) < 1e-4 * float(expected.abs().max())
