"""Fake quantizers against integers counted in NumPy, and ModelOpt's against them."""

from __future__ import annotations

import copy
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from edgeyolo.quantization.calibrate.scales import Scales, all_weight_scales
from edgeyolo.quantization.placement.groups import find_placement
from edgeyolo.quantization.quantizers import (
    FakeQuantizer,
    insert_quantizers,
    make_activation_quantizer,
    make_weight_quantizer,
)
from edgeyolo.quantization.recover.trainable import make_trainable
from edgeyolo.spec.errors import MissingPackageError


def assert_same_but_for_ties(found: Tensor, expected: Tensor, x: Tensor, scale: Tensor) -> None:
    """Equal to 1e-5 of a step; one step apart only where x / scale is within 1e-4 of a tie."""
    steps = ((found - expected) / scale).abs()
    tie = ((x / scale).frac().abs() - 0.5).abs() < 1e-4
    assert float(steps[~tie].max()) < 1e-4
    assert float(steps.max()) < 1.0001
    assert float(tie.float().mean()) < 0.01


def by_hand(x: Tensor, scale: Tensor, limit: int) -> Tensor:
    """Integers to the nearest, halves to the even, times the scale, in double precision."""
    steps = scale.double().numpy()
    return torch.from_numpy(np.clip(np.rint(x.double().numpy() / steps), -limit, limit) * steps).float()


@pytest.mark.parametrize("scale", [0.013, 2.0**-5, 3e-5, 7.7])
def test_activations(scale: float) -> None:
    x = torch.randn(20000, generator=torch.Generator().manual_seed(1)) * scale * 60
    expected = by_hand(x, torch.tensor(scale), 127)
    found = make_activation_quantizer(scale)(x)
    assert_same_but_for_ties(found, expected, x, torch.tensor(scale))
    assert float((found / scale).round().min()) == -127  # never -128


@pytest.mark.parametrize(("bits", "limit"), [(8, 127), (6, 31)])
def test_weights(bits: int, limit: int) -> None:
    weight = (
        torch.randn(6, 40, 3, 3, generator=torch.Generator().manual_seed(2))
        * torch.logspace(-3, 2, 6)[:, None, None, None]
    )
    scales = weight.abs().amax((1, 2, 3)) / limit * 0.9
    expected = by_hand(weight, scales[:, None, None, None], limit)
    found = make_weight_quantizer(scales.tolist(), weight, bits)(weight)
    assert_same_but_for_ties(found, expected, weight, scales[:, None, None, None])
    assert int((found / scales[:, None, None, None]).round().abs().max()) == limit


def test_gradients_pass_inside_the_range_and_not_outside() -> None:
    x = torch.tensor([-3.0, -0.9, 0.2, 0.99, 1.5], requires_grad=True)
    make_activation_quantizer(1 / 127)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 1)
        self.c = nn.Conv2d(16, 8, 3, stride=2, dilation=2)
        self.out = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = F.leaky_relu(self.a(x), 0.1)
        return self.out(F.leaky_relu(self.c(torch.cat([first, F.leaky_relu(self.b(first), 0.1)], 1)), 0.1))


def quantized_net() -> tuple[fx.GraphModule, fx.GraphModule, Scales]:
    torch.manual_seed(0)
    deploy = fx.symbolic_trace(Net().eval())
    placement = find_placement(deploy)
    bits = dict.fromkeys(placement.int8_layers(), 8)
    scales = Scales({"g0": 0.01, "g1": 0.02}, all_weight_scales(deploy, bits), "max", "max", bits)
    return deploy, insert_quantizers(deploy, placement, scales), scales


def test_the_quantized_graph_computes_what_torch_computes_by_hand() -> None:
    deploy, quantized, scales = quantized_net()
    x = torch.rand(2, 3, 16, 16)

    def q(tensor: Tensor, scale: float) -> Tensor:
        return torch.fake_quantize_per_tensor_affine(tensor, scale, 0, -127, 127)

    def w(path: str) -> Tensor:
        weight, zeros = deploy.get_submodule(path).weight, torch.zeros(8, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, torch.tensor(scales.weights[path]), zeros, 0, -127, 127)

    a, b, c, out = (deploy.get_submodule(name) for name in ("a", "b", "c", "out"))
    first = F.leaky_relu(F.conv2d(q(x, 0.01), w("a"), a.bias, padding=1), 0.1)
    second = F.leaky_relu(F.conv2d(q(first, 0.02), w("b"), b.bias), 0.1)
    joined = torch.cat([first, second], 1)
    third = F.leaky_relu(F.conv2d(q(joined, 0.02), w("c"), c.bias, stride=2, dilation=2), 0.1)
    with torch.no_grad():
        expected, found = out(third), quantized(x)
        plain = deploy(x)
    # float summation order may move a value across a tie: one step of one weight at most
    assert float((found - expected).abs().max()) < 0.02 * float((plain - expected).abs().max()) + 1e-6
    assert float((plain - expected).abs().max()) > 1e-3


def test_each_layer_has_its_own_bits() -> None:
    deploy, _, _ = quantized_net()
    placement = find_placement(deploy)
    bits = {"a": 6, "b": 8, "c": 4}
    scales = Scales({"g0": 0.01, "g1": 0.02}, all_weight_scales(deploy, bits), "max", "max", bits)
    quantized = insert_quantizers(deploy, placement, scales)
    for path, limit in (("a", 31), ("b", 127), ("c", 7)):
        layer = quantized.get_submodule(path)
        integers = layer.weight_quantizer(layer.weight) / torch.tensor(scales.weights[path])[:, None, None, None]
        assert int(integers.round().abs().max()) == limit


def test_one_quantizer_per_group_and_each_tensor_passes_once() -> None:
    _, quantized, _ = quantized_net()
    calls = [n.target for n in quantized.graph.nodes if str(n.target).startswith("quantizers.")]
    assert sorted(calls) == ["quantizers.g0", "quantizers.g1", "quantizers.g1"]


def test_the_float_graph_is_left_alone_and_names_of_parameters_stay() -> None:
    deploy, quantized, _ = quantized_net()
    assert not any("quantizer" in name for name, _ in deploy.named_modules())
    assert {n for n, _ in quantized.named_parameters()} == {n for n, _ in deploy.named_parameters()}
    assert quantized.get_parameter("a.weight") is not deploy.get_parameter("a.weight")


def test_it_trains_with_frozen_scales_and_can_be_copied() -> None:
    deploy, quantized, _ = quantized_net()
    twin = copy.deepcopy(quantized)
    before = {name: buffer.clone() for name, buffer in twin.named_buffers()}
    assert before
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.05)
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        target = 2.0 * deploy(x) + 1.0
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = F.mse_loss(twin(x), target)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    assert all(torch.equal(before[name], buffer) for name, buffer in twin.named_buffers())
    deploy.load_state_dict({k: v for k, v in twin.state_dict().items() if k in deploy.state_dict()})
    assert torch.equal(deploy.get_parameter("a.weight"), twin.get_parameter("a.weight"))


def test_the_quantizers_that_train_give_the_same_numbers_and_gradients() -> None:
    """Outputs to 1e-7 of their largest, gradients of weights to 1e-3: on the edge of the range they differ."""
    pytest.importorskip("modelopt")
    _, quantized, _ = quantized_net()
    trained = make_trainable(quantized)
    assert not any(isinstance(module, FakeQuantizer) for module in trained.modules())
    assert {n for n, _ in trained.named_parameters()} == {n for n, _ in quantized.named_parameters()}
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    plain, other = quantized(x), trained(x)
    torch.testing.assert_close(other, plain, rtol=0, atol=1e-7 * float(plain.detach().abs().max()))
    for module in (quantized, trained):
        module.requires_grad_(True)(x).square().sum().backward()
    for mine, theirs in zip(trained.parameters(), quantized.parameters(), strict=True):
        assert mine.grad is not None and theirs.grad is not None
        assert float((mine.grad - theirs.grad).norm()) < 1e-3 * float(theirs.grad.norm())


def test_only_training_asks_for_modelopt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelopt", None)
    monkeypatch.setitem(sys.modules, "modelopt.torch.quantization.config", None)
    _, quantized, _ = quantized_net()
    assert quantized(torch.rand(1, 3, 16, 16)).shape[1] == 5
    with pytest.raises(MissingPackageError, match="quantization-aware training"):
        make_trainable(quantized)
