"""Sensitivity of a net with planted damage, and every state of the switches against a model rebuilt without them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeyolo.quantization import Quantized, quantize
from edgeyolo.quantization.quantizers import set_group_enabled
from edgeyolo.quantization.study.float_groups import with_groups_float
from edgeyolo.quantization.study.sensitivity import (
    MapMeasure,
    Sensitivity,
    measure_sensitivity,
    spearman,
)
from edgeyolo.quantization.study.signal_left import head_maps, map_distance
from edgeyolo.spec.errors import QuantizationError, UnknownNameError
from edgeyolo.spec.recipe import Recipe

MAX = Recipe(title="", observer="max")


class Chain(nn.Module):
    """stem, four hidden layers of which two read one tensor, and a head; `broken` reads a channel 1000 times too large.

    That is undone in its weights, so the float model is as good as before; but its tensor, in integers of 1/127 of the
    largest value, holds nothing else.
    """

    def __init__(self, damage: float = 1000.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        for name in ("stem", "left", "right", "before", "broken", "after"):
            chs = {"stem": 3, "before": 16}.get(name, 8)
            setattr(self, name, nn.Conv2d(chs, 8, 3, padding=1))
        self.head = nn.Conv2d(8, 6, 1)
        with torch.no_grad():
            self.before.weight[2] *= damage
            self.before.bias[2] *= damage
            self.broken.weight[:, 2] /= damage

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.leaky_relu(self.stem(x), 0.1)
        x = torch.cat([F.leaky_relu(self.left(x), 0.1), F.leaky_relu(self.right(x), 0.1)], 1)
        for layer in (self.before, self.broken, self.after):
            x = F.leaky_relu(layer(x), 0.1)
        return [self.head(x)]


def pictures(count: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.rand(1, 3, 16, 16, generator=generator) for _ in range(count)]


def quantized_chain(recipe: Recipe = MAX, damage: float = 1000.0) -> Quantized:
    return quantize(Chain(damage).eval(), pictures(), recipe, recipe_name="test", picture_hashes={})


def group_of(quantized: Quantized, layer: str) -> str:
    return quantized.placement.layers[layer].group


def others(quantized: Quantized, group: str) -> list[str]:
    return [name for name in quantized.placement.groups if name != group]


def rebuilt_maps(quantized: Quantized, float_groups: list[str]) -> list[Tensor]:
    rebuilt = with_groups_float(quantized, float_groups, "test").fake_quant
    return head_maps(rebuilt, list(torch.cat(pictures()).split(4)))  # kernels sum in another order for other batches


def test_the_planted_group_is_found_from_both_ends() -> None:
    quantized = quantized_chain()
    found = measure_sensitivity(quantized, pictures())
    planted = group_of(quantized, "broken")
    assert found.ranking()[0] == planted
    assert found.rows[0].layers == ("broken",)
    assert len(found.rows) == len(quantized.placement.groups) == 5
    assert max(found.rows, key=lambda row: row.kl_alone).group == planted
    assert min(found.rows, key=lambda row: row.sqnr_db_alone).group == planted
    assert min(found.rows, key=lambda row: row.kl_float).group == planted
    assert max(found.rows, key=lambda row: row.sqnr_db_float).group == planted
    assert found.rows[0].sqnr_db_float > found.sqnr_db + 10
    assert found.rows[0].kl_float < 0.1 * found.kl
    assert (found.pictures, found.map_int8, found.agreement) == (5, None, ())


@pytest.mark.parametrize(
    "recipe",
    [
        MAX,
        msgspec.structs.replace(MAX, bias_correction=True),
        msgspec.structs.replace(MAX, float_layers=("left",), weight_bits=6),
    ],
    ids=["plain", "bias correction", "float layer"],
)
def test_every_row_is_that_of_a_model_built_anew(recipe: Recipe) -> None:
    quantized = quantized_chain(recipe, damage=20.0)
    float_maps = rebuilt_maps(quantized, list(quantized.placement.groups))
    found = measure_sensitivity(quantized, pictures())
    for row in found.rows:
        without = map_distance(float_maps, rebuilt_maps(quantized, [row.group]))
        alone = map_distance(float_maps, rebuilt_maps(quantized, others(quantized, row.group)))
        # equal, not close: the same kernels work on the same numbers
        assert (row.sqnr_db_float, row.kl_float) == without
        assert (row.sqnr_db_alone, row.kl_alone) == alone
    assert (found.sqnr_db, found.kl) == map_distance(float_maps, rebuilt_maps(quantized, []))


def test_a_group_switched_off_gives_bit_for_bit_the_float_layers() -> None:
    quantized = quantized_chain(damage=20.0)
    with torch.no_grad():
        before = quantized.fake_quant(pictures(1)[0])[0].clone()
        for group in quantized.placement.groups:
            set_group_enabled(quantized.fake_quant, quantized.placement, group, False)
            rebuilt = with_groups_float(quantized, [group], "test")
            off = quantized.fake_quant(pictures(1)[0])[0]
            assert torch.equal(off, rebuilt.fake_quant(pictures(1)[0])[0])
            assert not torch.equal(off, before)
            set_group_enabled(quantized.fake_quant, quantized.placement, group, True)
            assert torch.equal(quantized.fake_quant(pictures(1)[0])[0], before)


def test_the_model_given_is_left_as_it_is() -> None:
    quantized = quantized_chain(msgspec.structs.replace(MAX, bias_correction=True))
    with torch.no_grad():
        before = quantized.fake_quant(pictures(1)[0])[0].clone()
        measure_sensitivity(quantized, pictures(2))
        assert torch.equal(quantized.fake_quant(pictures(1)[0])[0], before)


def test_no_pictures_are_refused() -> None:
    with pytest.raises(QuantizationError, match="no pictures"):
        measure_sensitivity(quantized_chain(), [])


# ---- mAP ----


def closeness(quantized: Quantized) -> Callable[[nn.Module], float]:
    """A stand-in for mAP: 100 less the mean absolute error of the maps, which any module can be asked for."""
    expected = head_maps(quantized.float_deploy, pictures())

    def measure(module: nn.Module) -> float:
        return 100.0 - float((head_maps(module, pictures())[0] - expected[0]).abs().mean())

    return measure


def test_map_is_that_of_a_model_built_anew_and_agrees_with_the_proxy() -> None:
    quantized = quantized_chain()
    measure = closeness(quantized)
    found = measure_sensitivity(quantized, pictures(), by_map=MapMeasure(measure))
    assert found.map_int8 == measure(quantized.fake_quant)
    for row in found.rows:
        assert row.map_float == measure(with_groups_float(quantized, [row.group], "").fake_quant)
        assert row.map_alone == measure(with_groups_float(quantized, others(quantized, row.group), "").fake_quant)
    assert [(a.proxy, a.measure, a.groups) for a in found.agreement] == [
        ("sqnr_db_float", "map_float", 5),
        ("kl_float", "map_float", 5),
        ("sqnr_db_alone", "map_alone", 5),
        ("kl_alone", "map_alone", 5),
    ]
    assert all(a.spearman is not None and a.spearman > 0.6 for a in found.agreement)


def test_only_the_most_costly_groups_are_measured_by_map() -> None:
    quantized = quantized_chain()
    calls: list[float] = []
    measure = closeness(quantized)
    by_map = MapMeasure(lambda module: calls.append(0.0) or measure(module), most=2)
    found = measure_sensitivity(quantized, pictures(), by_map=by_map)
    assert len(calls) == 5
    assert [row.map_float is None for row in found.rows] == [False, False, True, True, True]
    assert [row.map_alone is None for row in found.rows] == [False, False, True, True, True]
    assert {a.groups for a in found.agreement} == {2}


class Interrupted(Exception):
    pass


def counting(measure: Callable[[nn.Module], float], stop_after: int = 99) -> tuple[list[int], Callable[..., float]]:
    calls: list[int] = []

    def measured(module: nn.Module) -> float:
        if len(calls) >= stop_after:
            raise Interrupted
        calls.append(1)
        return measure(module)

    return calls, measured


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    quantized, cache = quantized_chain(), tmp_path / "map.json"
    measure = closeness(quantized)
    expected = measure_sensitivity(quantized, pictures(), by_map=MapMeasure(measure))
    _, first = counting(measure, stop_after=4)
    with pytest.raises(Interrupted):
        measure_sensitivity(quantized, pictures(), by_map=MapMeasure(first, cache=cache, data="val"))
    calls, second = counting(measure)
    found = measure_sensitivity(quantized, pictures(), by_map=MapMeasure(second, cache=cache, data="val"))
    assert len(calls) == 11 - 4
    assert found == expected
    calls, third = counting(measure)
    assert measure_sensitivity(quantized, pictures(), by_map=MapMeasure(third, cache=cache, data="val")) == expected
    assert not calls


def test_a_cache_of_another_model_or_other_data_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    quantized, cache = quantized_chain(), tmp_path / "map.json"
    measure_sensitivity(quantized, pictures(), by_map=MapMeasure(lambda _: 1.0, cache=cache, data="val"))
    changed = quantized_chain(damage=999.0)
    fewer = with_groups_float(quantized, [group_of(quantized, "after")], "")
    for model, data, states in ((quantized, "test", 11), (changed, "test", 11), (fewer, "test", 9)):
        calls, measure = counting(lambda _: 2.0)
        measure_sensitivity(model, pictures(1), by_map=MapMeasure(measure, cache=cache, data=data))
        assert len(calls) == states
    cache.write_text("{")
    calls, measure = counting(lambda _: 2.0)
    with caplog.at_level(logging.WARNING):
        found = measure_sensitivity(fewer, pictures(1), by_map=MapMeasure(measure, cache=cache, data="test"))
    assert len(calls) == 9
    assert "not used" in caplog.text
    assert all(a.spearman is None for a in found.agreement)  # every mAP is the same


# ---- what becomes of it ----


def test_it_is_json_and_comes_back() -> None:
    quantized = quantized_chain()
    found = measure_sensitivity(quantized, pictures(1), by_map=MapMeasure(closeness(quantized), most=3))
    assert msgspec.json.decode(msgspec.json.encode(found), type=Sensitivity) == found


# ---- groups back in float ----


def test_groups_float_keeps_the_rest() -> None:
    quantized = quantized_chain()
    shared = group_of(quantized, "left")
    found = with_groups_float(quantized, [shared], "floated: test")
    assert quantized.placement.groups[shared].layers == ("left", "right")
    assert {path: plan.why for path, plan in found.placement.layers.items() if plan.precision == "float"} == {
        "left": "floated: test",
        "right": "floated: test",
        "head": "head output",
    }
    assert set(found.scales.groups) == set(others(quantized, shared))
    assert set(found.scales.weights) == set(found.scales.weight_bits) == {"stem", "before", "broken", "after"}
    assert found.float_deploy is quantized.float_deploy
    assert found.calibration == quantized.calibration
    assert shared in quantized.placement.groups
    assert with_groups_float(quantized, [], "") is quantized
    with pytest.raises(UnknownNameError, match="scale group 'g9'"):
        with_groups_float(quantized, ["g9"], "")


def test_a_corrected_bias_goes_back_with_its_layer_only() -> None:
    quantized = quantized_chain(msgspec.structs.replace(MAX, bias_correction=True))
    found = with_groups_float(quantized, [group_of(quantized, "broken")], "")
    for module in (found.float_deploy, found.fake_quant):
        for path in quantized.placement.int8_layers():
            source = quantized.reference if path == "broken" else quantized.float_deploy
            assert torch.equal(module.get_parameter(f"{path}.bias"), source.get_parameter(f"{path}.bias"))
    assert not torch.equal(
        quantized.float_deploy.get_parameter("broken.bias"), quantized.reference.get_parameter("broken.bias")
    )
    everything = with_groups_float(quantized, list(quantized.placement.groups), "")
    assert torch.equal(everything.fake_quant(pictures(1)[0])[0], quantized.reference(pictures(1)[0])[0])


def test_a_bias_of_trained_weights_stays() -> None:
    quantized = quantized_chain(msgspec.structs.replace(MAX, bias_correction=True))
    with torch.no_grad():
        quantized.float_deploy.get_parameter("broken.weight").add_(1e-3)
    found = with_groups_float(quantized, [group_of(quantized, "broken")], "")
    assert found.float_deploy is quantized.float_deploy


def test_agreement_is_the_correlation_of_ranks_with_ties_shared() -> None:
    a, b = [1.0, 2.5, 2.5, 3.0, -1.0], [0.1, 0.1, 0.4, 0.3, -2.0]
    ranks = np.corrcoef([2, 3.5, 3.5, 5, 1], [2.5, 2.5, 5, 4, 1])[0, 1]
    assert spearman(a, b) == pytest.approx(ranks)
    for undefined in (([], []), ([1], [2]), ([1, 1], [1, 2]), ([1, 2], [3, 3])):
        assert spearman(*undefined) is None
