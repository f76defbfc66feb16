"""Signal against noise: layers and head maps against plain loops and formulas written out here."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeyolo.quantization import Quantized, quantize
from edgeyolo.quantization.study.signal_left import LayerSignal, head_maps, layer_sqnr, map_distance
from edgeyolo.spec.errors import QuantizationError
from edgeyolo.spec.model import AnchorDecode, DflDecode
from edgeyolo.spec.recipe import Recipe


class Net(nn.Module):
    """Layers in a row, beside one another, one called twice, and activations that work in place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.left, self.right = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.twice = nn.Conv2d(16, 16, 1)
        self.act = nn.LeakyReLU(0.1, inplace=True)
        self.head = nn.Conv2d(16, 7, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.act(self.stem(x))
        halves = torch.cat([self.act(self.left(x)), self.act(self.right(x))], 1).chunk(2, 1)
        x = torch.cat([halves[1], halves[0]], 1)
        x = self.twice(self.act(self.twice(x)))
        return [self.head(x), self.head(F.max_pool2d(x, 2))]


def pictures(count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.rand(1, 3, 32, 32, generator=generator) for _ in range(count)]


def quantized_net(float_layers: tuple[str, ...] = ()) -> Quantized:
    recipe = Recipe(title="", observer="max", float_layers=float_layers)
    return quantize(Net().eval(), pictures(), recipe, recipe_name="test", picture_hashes={})


def decibels(signal: float, error: float) -> float:
    return 10 * math.log10(signal / error)


# ---- layers ----


def outputs_by_layer(module: nn.Module, batches: list[Tensor], paths: list[str]) -> dict[str, list[Tensor]]:
    found: dict[str, list[Tensor]] = {path: [] for path in paths}
    hooks = [
        module.get_submodule(path).register_forward_hook(
            lambda _module, _inputs, output, path=path: found[path].append(output.clone())
        )
        for path in paths
    ]
    with torch.no_grad():
        for batch in batches:
            module(batch)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("float_layers", [(), ("left", "twice")])
def test_layer_outputs_against_hooks(float_layers: tuple[str, ...]) -> None:
    quantized, inputs = quantized_net(float_layers), pictures()
    paths = list(quantized.placement.layers)
    expected = outputs_by_layer(quantized.float_deploy, inputs, paths)
    found = outputs_by_layer(quantized.fake_quant, inputs, paths)
    rows = layer_sqnr(quantized, inputs)
    assert [row.path for row in rows] == paths == ["stem", "left", "right", "twice", "head"]
    for row in rows:
        ours, theirs = (torch.cat([o.flatten() for o in side[row.path]]).double() for side in (expected, found))
        assert len(expected[row.path]) == (6 if row.path in ("twice", "head") else 3)
        signal, error = float(ours.square().sum()), float((theirs - ours).square().sum())
        assert row.sqnr_db == pytest.approx(decibels(signal, error), abs=1e-4)


def test_own_noise_of_each_layer_against_the_layer_alone() -> None:
    quantized, inputs = quantized_net(), pictures()
    rows = {row.path: row for row in layer_sqnr(quantized, inputs)}
    plan = quantized.placement.layers["right"]
    scale = quantized.scales.groups[plan.group]
    stem, right = (quantized.float_deploy.get_submodule(path) for path in ("stem", "right"))
    scales = torch.tensor(quantized.scales.weights["right"])
    weight = torch.fake_quantize_per_channel_affine(
        right.weight, scales, torch.zeros(8, dtype=torch.int32), 0, -127, 127
    )
    signal = error = 0.0
    with torch.no_grad():
        for x in inputs:
            x = F.leaky_relu(stem(x), 0.1)
            rounded = torch.fake_quantize_per_tensor_affine(x, scale, 0, -127, 127)
            noise = F.conv2d(rounded, weight, right.bias, padding=1) - right(x)
            signal += float(right(x).double().square().sum())
            error += float(noise.double().square().sum())
    # a value on a tie may round the other way; 0.05 dB is 1 % of the error's power
    assert rows["right"].own_sqnr_db == pytest.approx(decibels(signal, error), abs=0.05)
    assert rows["stem"].own_sqnr_db == rows["stem"].sqnr_db  # nothing is before it
    assert rows["twice"].own_sqnr_db > rows["twice"].sqnr_db


def test_a_float_layer_adds_nothing_of_its_own() -> None:
    rows = {row.path: row for row in layer_sqnr(quantized_net(("right",)), pictures())}
    assert rows["right"].own_sqnr_db == rows["head"].own_sqnr_db == 150.0
    assert rows["right"].sqnr_db < 60.0


def test_batches_arrays_and_generators_give_the_same_sums() -> None:
    quantized, inputs = quantized_net(), pictures(4)
    expected = layer_sqnr(quantized, inputs)
    mixed: list[Tensor | np.ndarray] = [torch.cat(inputs[:3]), inputs[3].numpy()]
    for row, other in zip(expected, layer_sqnr(quantized, (batch for batch in mixed)), strict=True):
        assert other == LayerSignal(
            row.path, pytest.approx(row.sqnr_db, abs=0.01), pytest.approx(row.own_sqnr_db, abs=0.01)
        )


def test_no_pictures_and_wrong_shapes_are_refused() -> None:
    with pytest.raises(QuantizationError, match="no pictures"):
        layer_sqnr(quantized_net(), [])
    with pytest.raises(QuantizationError, match="not \\(B, 3, H, W\\)"):
        layer_sqnr(quantized_net(), [torch.rand(3, 32, 32)])


# ---- head maps ----


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def bernoulli_kl(s: float, t: float) -> float:
    return s * math.log(s / t) + (1 - s) * math.log((1 - s) / (1 - t))


def random_maps(shapes: list[tuple[int, ...]], noise: float) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(3)
    ours = [3 * torch.randn(shape, generator=generator) - 1 for shape in shapes]
    return ours, [m + noise * torch.randn(m.shape, generator=generator) for m in ours]


def test_sqnr_is_of_the_mean_noise_to_signal_ratio() -> None:
    ours, theirs = random_maps([(2, 5, 4, 4), (2, 5, 2, 2)], 0.1)
    ours[1] *= 100
    theirs[1] *= 100
    ratios = [
        float((b - a).double().square().sum() / a.double().square().sum()) for a, b in zip(ours, theirs, strict=True)
    ]
    assert map_distance(ours, theirs)[0] == pytest.approx(-10 * math.log10(sum(ratios) / 2), abs=1e-6)


def test_kl_of_plain_maps_is_of_every_value() -> None:
    ours, theirs = random_maps([(2, 3, 2, 2)], 0.5)
    pairs = zip(ours[0].flatten().tolist(), theirs[0].flatten().tolist(), strict=True)
    expected = sum(bernoulli_kl(sigmoid(a), sigmoid(b)) for a, b in pairs) / 2
    assert map_distance(ours, theirs)[1] == pytest.approx(expected, rel=1e-9)


def test_kl_of_anchor_maps_is_of_objectness_times_class() -> None:
    classes, anchors = 2, 3
    decode = AnchorDecode(strides=(8, 16), anchors_wh=(((4.0, 4.0),) * anchors, ((9.0, 9.0),) * anchors))
    ours, theirs = random_maps([(2, anchors * (5 + classes), 3, 2), (2, anchors * (5 + classes), 1, 1)], 0.5)
    expected = 0.0
    for ours_level, theirs_level in zip(ours, theirs, strict=True):
        batch, _, height, width = ours_level.shape
        for b, a, k, y, x in np.ndindex(batch, anchors, classes, height, width):
            first = a * (5 + classes)
            s, t = (
                sigmoid(float(m[b, first + 4, y, x])) * sigmoid(float(m[b, first + 5 + k, y, x]))
                for m in (ours_level, theirs_level)
            )
            expected += bernoulli_kl(s, t)
    assert map_distance(ours, theirs, decode)[1] == pytest.approx(expected / 2, rel=1e-9)


def test_kl_of_dfl_maps_is_of_the_class_maps_only() -> None:
    decode = DflDecode(strides=(8, 16), bins=4)
    ours, theirs = random_maps([(2, 3, 4, 4), (2, 16, 4, 4), (2, 3, 2, 2), (2, 16, 2, 2)], 0.5)
    expected = 0.0
    for level in (0, 2):
        pairs = zip(ours[level].flatten().tolist(), theirs[level].flatten().tolist(), strict=True)
        expected += sum(bernoulli_kl(sigmoid(a), sigmoid(b)) for a, b in pairs)
    assert map_distance(ours, theirs, decode)[1] == pytest.approx(expected / 2, rel=1e-9)
    spoilt = [theirs[0], theirs[1] + 9, theirs[2], theirs[3]]
    assert map_distance(ours, spoilt, decode)[1] == pytest.approx(expected / 2, rel=1e-9)
    assert map_distance(ours, spoilt, decode)[0] < map_distance(ours, theirs, decode)[0] - 10


def test_equal_maps_are_at_no_distance_and_extremes_stay_finite() -> None:
    ours, _ = random_maps([(2, 21, 3, 3)], 0.0)
    decode = AnchorDecode(strides=(8,), anchors_wh=(((4.0, 4.0),) * 3,))
    assert map_distance(ours, ours, decode) == (150.0, 0.0)
    huge = [torch.full((1, 21, 2, 2), sign * 1e4) for sign in (1.0, -1.0)]
    for a, b in ((0, 1), (1, 0), (0, 0)):
        sqnr_db, kl = map_distance([huge[a]], [huge[b]], decode)
        assert math.isfinite(sqnr_db)
        assert 0.0 <= kl < math.inf
    assert map_distance([torch.zeros(1, 2, 2, 2)], [torch.ones(1, 2, 2, 2)])[0] == -150.0


def test_maps_that_were_given_are_left_as_they_are() -> None:
    ours = [torch.randn(1, 2, 2, 2, dtype=torch.float64)]
    before = ours[0].clone()
    map_distance(ours, [ours[0] + 1])
    assert torch.equal(ours[0], before)


def test_head_maps_of_many_batches_and_of_values_that_are_not_finite() -> None:
    model, inputs = Net().eval(), pictures(3)
    with torch.no_grad():
        expected = model(torch.cat(inputs))
    found = head_maps(model, [torch.cat(inputs[:2]), inputs[2]])
    assert len(found) == 2
    for ours, theirs in zip(expected, found, strict=True):
        torch.testing.assert_close(ours, theirs)
    with torch.no_grad():
        model.head.bias[0] = float("nan")
    with pytest.raises(QuantizationError, match="map_0: has values that are not finite"):
        head_maps(model, inputs)
