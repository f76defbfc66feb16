"""Ranges chosen at the output, against every range tried by hand with torch's own fake quantization."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from edgeyolo import models
from edgeyolo.quantization import find_placement, quantize
from edgeyolo.quantization.calibrate.observers import MseObserver
from edgeyolo.quantization.calibrate.output_error import choose_ranges, costly_layers, ranges_to_try
from edgeyolo.quantization.calibrate.scales import Scales
from edgeyolo.quantization.output_distance import box_divergence
from edgeyolo.spec.errors import QuantizationError
from edgeyolo.spec.model import DflDecode
from edgeyolo.spec.recipe import Recipe, load_recipe

TRIED = (0.2, 0.6, 1.8)


class Net(nn.Module):
    """Three groups: the picture, the tensor that two convolutions read, and their sum; then a float head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.d, self.head = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.silu(self.a(x))
        y = F.silu(self.d(F.silu(self.b(x)) + F.silu(self.c(x))))
        return [self.head(y)]


def pictures(count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(1, 3, 24, 24, generator=generator) for _ in range(count)]


def rounded(x: Tensor, threshold: float) -> Tensor:
    return torch.fake_quantize_per_tensor_affine(x, threshold / 127, 0, -127, 127)


def outputs_by_hand(net: Net, x: Tensor, group: int, threshold: float) -> Tensor:
    """What `Net` gives when the tensors of its first, second or third group are rounded."""
    first = rounded(x, threshold) if group == 0 else x
    second = F.silu(net.a(first))
    second = rounded(second, threshold) if group == 1 else second
    third = F.silu(net.b(second)) + F.silu(net.c(second))
    third = rounded(third, threshold) if group == 2 else third
    return net.head(F.silu(net.d(third)))


def test_each_group_takes_the_range_with_the_least_error_at_the_output() -> None:
    net = Net().eval()
    deploy = fx.symbolic_trace(net)
    placement = find_placement(deploy)
    assert len(placement.groups) == 3
    tried = dict.fromkeys(placement.groups, TRIED)
    found = choose_ranges(deploy, placement, tried, pictures())
    with torch.no_grad():
        for position, name in enumerate(placement.groups):
            errors = []
            for threshold in TRIED:
                pairs = [(net(x)[0], outputs_by_hand(net, x, position, threshold)) for x in pictures()]
                errors.append(sum(float((a - b).square().sum() / a.square().sum()) for a, b in pairs))
            assert found[name] == TRIED[int(np.argmin(errors))]
    assert len(set(found.values())) > 1  # the groups differ, so a mixed-up order would show


def test_the_network_that_was_given_stays_as_it_was() -> None:
    deploy = fx.symbolic_trace(Net().eval())
    before = deploy(pictures()[0])[0]
    choose_ranges(deploy, find_placement(deploy), dict.fromkeys(find_placement(deploy).groups, TRIED), pictures())
    assert torch.equal(deploy(pictures()[0])[0], before)


def test_what_is_rare_and_decides_the_output_is_not_clipped() -> None:
    """One value of 110,000 is 40 and the network looks at nothing below 10: the squared error clips it."""
    net = Net().eval()
    with torch.no_grad():
        net.a.weight.mul_(0.001)
        net.a.bias.zero_()
        net.a.weight[0, 0, 1, 1] = 1.0
        net.a.bias[0] = -10.0
    inputs = [torch.rand(1, 3, 192, 192, generator=torch.Generator().manual_seed(9)) * 2 - 1]
    inputs[0][0, 0, 96, 96] = 40.0
    ranges = {}
    for observer in ("mse", "output"):
        recipe = Recipe(title="", observer=observer, clipping_weight=1.0)
        quantized = quantize(net, iter(inputs), recipe, recipe_name="x", picture_hashes={})
        ranges[observer] = [127 * scale for scale in quantized.scales.groups.values()]
    assert ranges["output"][0] > 1.5 * ranges["mse"][0]


def test_an_output_that_is_not_finite_is_refused() -> None:
    net = Net().eval()
    with torch.no_grad():
        net.head.bias.fill_(float("inf"))
    deploy = fx.symbolic_trace(net)
    placement = find_placement(deploy)
    with pytest.raises(QuantizationError, match="not finite"):
        choose_ranges(deploy, placement, dict.fromkeys(placement.groups, TRIED), pictures())


def test_ranges_reach_from_below_the_least_squared_error_to_the_largest_magnitude() -> None:
    observer = MseObserver()
    values = torch.randn(50_000, generator=torch.Generator().manual_seed(1))
    values[0] = 60.0
    observer.collect(values, 60.0)
    tried = ranges_to_try(observer)
    assert tried[0] < observer.threshold() < tried[-1] == pytest.approx(60.0)
    assert np.allclose(np.diff(np.log(tried)), np.log(tried[1] / tried[0]))


def test_one_range_is_left_where_nothing_would_be_clipped() -> None:
    observer = MseObserver()
    observer.collect(torch.linspace(-1, 1, 1001), 1.0)
    assert ranges_to_try(observer) == (observer.threshold(),)
    empty = MseObserver()
    empty.collect(torch.zeros(8), 0.0)
    assert ranges_to_try(empty) == (0.0,)


def test_boxes_count_by_their_overlap_and_their_score() -> None:
    """One cell of 8 pixels sees an object: its box loses a strip, which is counted by the square of its score."""
    decode = DflDecode(strides=(8,), bins=2)
    logits = torch.tensor([[[[2.0]]]])
    sides = torch.tensor([0.0, 30.0]).repeat(4).view(1, 8, 1, 1)  # each side one stride from the middle: 16 x 16
    moved = sides.clone()
    moved[0, 0, 0, 0], moved[0, 1, 0, 0] = 0.0, 0.0  # the left one half a stride: 12 x 16
    found = box_divergence([logits, sides], [logits, moved], decode, (8, 8))
    score = 1 / (1 + np.exp(-2.0))
    assert found == pytest.approx(score**2 * (1 - 12 / 16), abs=1e-5)


@pytest.mark.parametrize("name", ["yolov7-nano", "ppyoloe-s"])
def test_families_choose_the_same_twice(name: str) -> None:
    """Folded RepConv blocks, attention, anchors and distributions; a recipe of the shelf."""
    torch.manual_seed(0)
    model = models.create(name, 3).eval()
    inputs = [torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))]
    recipe = load_recipe("int8-output")
    first, second = (quantize(model, inputs, recipe, recipe_name="x", picture_hashes={}) for _ in range(2))
    assert first.scales == second.scales
    assert first.scales.how == "output"
    assert all(map(math.isfinite, first.scales.groups.values()))


def test_the_layers_kept_float_carry_the_wanted_part_of_the_error_by_their_work() -> None:
    net = Net().eval()
    deploy = fx.symbolic_trace(net)
    placement, inputs = find_placement(deploy), pictures()
    thresholds = dict(zip(placement.groups, (4.0, 1.0, 0.5), strict=True))
    scales = Scales({name: value / 127 for name, value in thresholds.items()}, {}, "", "", {})
    with torch.no_grad():
        errors = []
        for position, threshold in enumerate(thresholds.values()):
            pairs = [(net(x)[0], outputs_by_hand(net, x, position, threshold)) for x in inputs]
            errors.append(sum(float((a - b).square().sum() / a.square().sum()) for a, b in pairs))
    work = np.array([8 * 27, 8 * 72 + 8 * 8, 6 * 72])  # multiplications per cell of the same size
    order = np.argsort(-np.array(errors) / work)
    for count, share in enumerate((0.0, 1e-9, (errors[order[0]] + 1e-9) / sum(errors), 0.999999)):
        found = costly_layers(deploy, placement, scales, inputs, share)
        groups = [group for group in placement.groups if set(placement.groups[group].layers) <= set(found)]
        assert groups == [list(placement.groups)[i] for i in sorted(order[: min(count, 2)])]


def test_a_recipe_keeps_costly_layers_float_in_every_file() -> None:
    recipe = Recipe(title="", float_error=0.5, bias_correction=True)
    quantized = quantize(Net().eval(), iter(pictures()), recipe, recipe_name="x", picture_hashes={})
    kept = [path for path, plan in quantized.placement.layers.items() if "of the error" in plan.why]
    assert kept and quantized.placement.int8_layers()
    assert set(quantized.scales.weights) == set(quantized.placement.int8_layers())
    assert set(quantized.scales.groups) == set(quantized.placement.groups)
    for path in kept:
        layer = quantized.float_deploy.get_submodule(path)
        assert torch.equal(layer.bias, quantized.reference.get_submodule(path).bias)
