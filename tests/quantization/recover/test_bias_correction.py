"""Mean errors of layers against torch's own fake quantization, written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from edgeyolo.quantization import quantize
from edgeyolo.quantization.calibrate.ranges import calibrate
from edgeyolo.quantization.placement.groups import find_placement
from edgeyolo.quantization.recover.bias_correction import PICTURES, corrected_biases, with_biases
from edgeyolo.spec.errors import QuantizationError
from edgeyolo.spec.recipe import Recipe

FOUR_BITS = Recipe(title="", observer="max", weight_bits=4, weight_bits_3x3=4, bias_correction=True)


class Net(nn.Module):
    """Two int8 convolutions, one without a bias, and a linear head behind an int8 linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.a, self.b = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 6, 3, padding=1, bias=False)
        self.fc, self.head = nn.Linear(6, 7), nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.b(F.relu(self.a(x)))).permute(0, 2, 3, 1)
        return self.head(F.relu(self.fc(x)))


def pictures(count: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.rand(1, 3, 24, 24, generator=generator) for _ in range(count)]


def fake_quantized(weight: Tensor, scales: tuple[float, ...]) -> Tensor:
    zeros = torch.zeros(len(scales), dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, torch.tensor(scales), zeros, 0, -7, 7)


def test_each_bias_loses_the_mean_error_of_its_layer() -> None:
    deploy = fx.symbolic_trace(Net().eval())
    placement, inputs = find_placement(deploy), pictures()
    scales, _ = calibrate(deploy, placement, inputs, FOUR_BITS)
    found = corrected_biases(deploy, placement, scales, inputs)
    assert list(found) == ["a", "b", "fc"]

    with torch.no_grad():
        x = torch.cat(inputs)
        tensors = {"a": x, "b": F.relu(deploy.get_submodule("a")(x))}
        tensors["fc"] = F.relu(deploy.get_submodule("b")(tensors["b"])).permute(0, 2, 3, 1)
        for path, tensor in tensors.items():
            layer, scale = deploy.get_submodule(path), scales.groups[placement.layers[path].group]
            q = torch.fake_quantize_per_tensor_affine(tensor, scale, 0, -127, 127)
            weight = fake_quantized(layer.weight, scales.weights[path])
            if path == "fc":
                error = (F.linear(q, weight) - F.linear(tensor, layer.weight)).mean((0, 1, 2))
            else:
                error = F.conv2d(q, weight, None, layer.stride, layer.padding)
                error = (error - F.conv2d(tensor, layer.weight, None, layer.stride, layer.padding)).mean((0, 2, 3))
            bias = torch.zeros_like(error) if layer.bias is None else layer.bias
            # a value on a tie may round either way: a small part of the error
            tolerance = 1e-2 * float(error.abs().max())
            torch.testing.assert_close(torch.tensor(found[path]), bias - error, rtol=0.0, atol=tolerance)


def test_the_mean_of_the_output_comes_back() -> None:
    """With 4-bit weights: the mean error of the maps is at most half of what it was."""
    inputs = pictures()
    plain = Recipe(title="", observer="max", weight_bits=4, weight_bits_3x3=4)
    errors = []
    for recipe in (plain, FOUR_BITS):
        quantized = quantize(Net(), inputs, recipe, recipe_name="", picture_hashes={})
        with torch.no_grad():
            x = torch.cat(inputs)
            errors.append(float((quantized.fake_quant(x) - quantized.reference(x)).mean((0, 1, 2)).norm()))
    assert errors[1] < 0.5 * errors[0]


def test_the_float_reference_keeps_its_biases_and_the_export_has_the_new_ones() -> None:
    quantized = quantize(Net(), iter(pictures()), FOUR_BITS, recipe_name="", picture_hashes={})
    assert torch.equal(quantized.reference.get_parameter("a.bias"), Net().a.bias)
    assert quantized.reference.get_submodule("b").bias is None
    for path in ("a.bias", "b.bias", "fc.bias"):
        exported = quantized.float_deploy.get_parameter(path)
        assert torch.equal(exported, quantized.fake_quant.get_parameter(path))
        assert bool(torch.isfinite(exported).all())
    assert not torch.equal(quantized.float_deploy.get_parameter("a.bias"), Net().a.bias)
    assert quantized.calibration.count == 5


def test_only_so_many_pictures_are_read() -> None:
    deploy = fx.symbolic_trace(Net().eval())
    placement, inputs = find_placement(deploy), pictures(PICTURES + 3)
    scales, _ = calibrate(deploy, placement, inputs, FOUR_BITS)
    read: list[int] = []
    corrected_biases(deploy, placement, scales, (read.append(i) or x for i, x in enumerate(inputs)))
    assert len(read) == PICTURES


def test_a_layer_called_twice_and_a_float_one() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.stem, self.body, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.stem(x))
            return self.head(F.max_pool2d(self.body(x), 2) + self.body(F.max_pool2d(x, 2)))

    deploy = fx.symbolic_trace(Shared().eval())
    placement, inputs = find_placement(deploy, ["stem"]), pictures(2)
    scales, _ = calibrate(deploy, placement, inputs, FOUR_BITS)
    found = corrected_biases(deploy, placement, scales, inputs)
    assert list(found) == ["body"]
    body, scale = deploy.get_submodule("body"), scales.groups[placement.layers["body"].group]
    with torch.no_grad():
        large = F.relu(deploy.get_submodule("stem")(torch.cat(inputs)))
        rows = torch.cat([t.permute(0, 2, 3, 1).reshape(-1, 4) for t in (large, F.max_pool2d(large, 2))])
        q = torch.fake_quantize_per_tensor_affine(rows, scale, 0, -127, 127)
        weight = fake_quantized(body.weight, scales.weights["body"])
        error = (q @ weight.flatten(1).T - rows @ body.weight.flatten(1).T).mean(0)
    torch.testing.assert_close(
        torch.tensor(found["body"]), body.bias - error, rtol=0, atol=0.01 * float(error.abs().max())
    )


def test_changing_biases_leaves_the_module_as_it_is_and_wrong_pictures_are_refused() -> None:
    deploy = fx.symbolic_trace(Net().eval())
    before = deploy.get_parameter("a.bias").clone()
    assert with_biases(deploy, {"a": (1.0,) * 8}).get_parameter("a.bias").tolist() == [1.0] * 8
    assert torch.equal(deploy.get_parameter("a.bias"), before)
    placement = find_placement(deploy)
    scales, _ = calibrate(deploy, placement, pictures(1), FOUR_BITS)
    with pytest.raises(QuantizationError, match="float32"):
        corrected_biases(deploy, placement, scales, [torch.rand(3, 24, 24)])
