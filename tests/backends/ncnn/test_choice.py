"""The choice of precisions against every other choice, and what it makes of a real network.

The reference walks the network layer by layer with the precisions given and adds up what each step costs by the rules
of the engine; it knows nothing of integer programs.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from whole_way import WholeWay

from edgeyolo import verbs
from edgeyolo.backends.ncnn.choice import choose
from edgeyolo.backends.ncnn.costs import CoreCosts, Rates, Way, instructions, list_cores, load_costs
from edgeyolo.backends.ncnn.files import Blob, Layer
from edgeyolo.backends.ncnn.shapes import infer_shapes
from edgeyolo.bundle import open_bundle
from edgeyolo.spec.errors import UnknownNameError, UsageError
from edgeyolo.spec.target import list_targets, load_target

HW = (16, 16)


def convolution(name: str, bottom: str, top: str, in_chs: int, out_chs: int, *, scale: float = 100.0) -> Layer:
    params = {0: out_chs, 1: 1, 5: 0, 6: in_chs * out_chs, 8: 2}
    weights = (
        Blob(np.ones(in_chs * out_chs, np.int8), tagged=True),
        Blob(np.ones(out_chs, np.float32)),
        Blob(np.float32([scale])),
    )
    return Layer("Convolution", name, (bottom,), (top,), params, weights)


def make_network(random: np.random.Generator) -> list[Layer]:
    """Two branches that are joined: a chain, a tensor with two readers, one of them perhaps with another scale."""
    widths = [int(w) for w in random.choice([8, 16, 32, 64], 6)]
    layers = [Layer("Input", "in0", (), ("in0",), {})]
    layers.append(convolution("a", "in0", "a", 3, widths[0]))
    layers.append(convolution("b", "a", "b", widths[0], widths[1]))
    layers.append(Layer("Split", "split", ("b",), ("b0", "b1"), {}))
    layers.append(convolution("c", "b0", "c", widths[1], widths[2]))
    layers.append(convolution("d", "b1", "d", widths[1], widths[3], scale=float(random.choice([100, 90]))))
    layers.append(convolution("e", "d", "e", widths[3], widths[4]))
    layers.append(Layer("Split", "split_e", ("e",), ("e0", "e1"), {}))
    layers.append(convolution("f", "e0", "f", widths[4], widths[5]))
    layers.append(Layer("Concat", "cat", ("c", "e1", "f"), ("cat",), {}))
    layers.append(convolution("g", "cat", "out0", widths[2] + widths[4] + widths[5], 8))
    return layers


def make_table(random: np.random.Generator) -> CoreCosts:
    def rates() -> Rates:
        products, taken, given = random.uniform(0.1, 1, 3)
        return Rates(products=products, taken=taken, given=given, fixed=random.uniform(0, 1000))

    kinds = {"1x1": {way: rates() for way in ("fp32", "int8", "chained")}}
    quantize, result, cast = random.uniform(0, 4, 3)
    return CoreCosts(source="", convolutions=kinds, quantize=quantize, quantize_result=result, cast=cast)


def walk(layers: Sequence[Layer], table: CoreCosts, int8: frozenset[str]) -> float:
    """What the network costs with these layers in int8."""
    shapes = infer_shapes(layers, HW, where="test")
    readers: dict[str, list[Layer]] = {}
    source: dict[str, str] = {}
    for layer in layers:
        for blob in layer.outputs:
            source[blob] = source[layer.inputs[0]] if layer.kind == "Split" else layer.name
        if layer.kind != "Split":
            for blob in layer.inputs:
                readers.setdefault(source[blob], []).append(layer)
    total = 0.0
    gives_int8: dict[str, bool] = {}
    for layer in (layer for layer in layers if layer.kind != "Split"):
        after = readers.get(layer.name, [])
        numbers = {blob: float(np.prod(shapes[blob])) for blob in layer.inputs}
        is_int8 = layer.name in int8
        chained = is_int8 and bool(after) and all(one.name in int8 for one in after)
        gives_int8[layer.name] = chained and len({float(one.weights[-1].values[0]) for one in after}) == 1
        for blob in layer.inputs:
            maker = source[blob]
            if is_int8 and not gives_int8[maker]:
                total += numbers[blob] * (table.quantize_result if maker in int8 else table.quantize)
            elif not is_int8 and maker in int8:
                total += numbers[blob] * table.cast
        if layer.kind == "Convolution":
            way = "fp32" if not is_int8 else "chained" if gives_int8[layer.name] else "int8"
            rates = table.convolutions["1x1"][way]
            total += instructions(rates, "1x1", shapes[layer.inputs[0]][0], shapes[layer.outputs[0]])
    return total


@pytest.mark.parametrize("seed", range(12))
def test_no_other_choice_is_cheaper(seed: int) -> None:
    random = np.random.default_rng(seed)
    layers, table = make_network(random), make_table(random)
    names = [layer.name for layer in layers if layer.kind == "Convolution"]
    every = {
        frozenset(chosen): walk(layers, table, frozenset(chosen))
        for count in range(len(names) + 1)
        for chosen in itertools.combinations(names, count)
    }
    plan = choose(layers, infer_shapes(layers, HW, where="test"), table, "fp32")
    assert plan.instructions[0] == pytest.approx(min(every.values()))
    assert every[frozenset(names) - plan.float_layers] == pytest.approx(min(every.values()))
    assert plan.instructions[1:] == pytest.approx((every[frozenset(names)], every[frozenset()]))


def test_layers_of_a_kind_without_costs_stay_int8() -> None:
    random = np.random.default_rng(0)
    layers = make_network(random)
    table = msgspec.structs.replace(make_table(random), convolutions={})
    plan = choose(layers, infer_shapes(layers, HW, where="test"), table, "fp32")
    assert (plan.float_layers, plan.costs, plan.instructions) == (frozenset(), {}, (0, 0, 0))


@pytest.mark.parametrize("core", ["cortex-a72", "cortex-a76"])
def test_depthwise_layers_are_cheaper_in_float(core: str) -> None:
    """Counted: an int8 one takes several times the instructions, so it breaks the chain of its dense neighbours."""
    filters = {0: 64, 1: 3, 4: 1, 5: 0, 6: 64 * 9, 7: 64, 8: 1}
    blobs = (Blob(np.ones(64 * 9, np.int8), tagged=True), Blob(np.ones(64, np.float32)), Blob(np.float32([100])))
    layers = [
        Layer("Input", "in0", (), ("in0",), {}),
        convolution("a", "in0", "a", 3, 64),
        Layer("ConvolutionDepthWise", "b", ("a",), ("b",), filters, blobs),
        convolution("c", "b", "c", 64, 256),
    ]
    float_way: Way = "fp16" if core == "cortex-a76" else "fp32"
    plan = choose(layers, infer_shapes(layers, HW, where="test"), load_costs(core), float_way)
    assert "b" in plan.float_layers and "c" not in plan.float_layers
    assert plan.costs["b"].integer > 2 * plan.costs["b"].floating


def test_tables() -> None:
    """Every core that a target names has one; its rates hold on layers that they were not fitted to."""
    named = {target.core for target in map(load_target, list_targets()) if "mixed" in target.precisions}
    assert named <= set(list_cores())
    assert named
    for core in list_cores():
        for ways in load_costs(core).convolutions.values():
            assert {"int8", "chained"} <= set(ways)
            errors = [rates.error for rates in ways.values()]
            assert np.median(errors) < 0.1, core
    with pytest.raises(UnknownNameError, match="Did you mean 'cortex-a72'"):
        load_costs("cortex-a72x")


def test_deploy_chooses(whole_way: WholeWay) -> None:
    """The default for a board whose core is known; the manifest says what it chose and why."""
    with open_bundle(whole_way.bundles["raspberry-pi-5"]) as bundle:
        artefact = bundle.manifest.artefact
    assert artefact.precision == "mixed"
    assert artefact.choice is not None
    assert artefact.choice.core == "cortex-a76"
    estimated = artefact.choice.instructions
    assert estimated["mixed"] <= min(estimated["int8"], estimated["fp16"])
    floats = [name for name, cost in artefact.choice.layers.items() if cost.runs == "fp16"]
    assert 0 < len(floats) < len(artefact.choice.layers)
    assert artefact.layers["int8"] == len(artefact.choice.layers) - len(floats)
    command = [sys.executable, "-m", "edgeyolo", "inspect", str(whole_way.bundles["raspberry-pi-5"])]
    wide = os.environ | {"COLUMNS": "200"}
    said = subprocess.run(command, env=wide, capture_output=True, text=True, check=True).stdout
    assert f"for cortex-a76, by millions of instructions (estimated): mixed {estimated['mixed']:.0f}," in said


def test_what_a_target_lacks(whole_way: WholeWay, tmp_path: Path) -> None:
    toml = tmp_path / "board.toml"
    toml.write_text('title = "x"\nengine = "ncnn"\nprecisions = ["mixed"]\n')
    with pytest.raises(UsageError, match="`core`"):
        verbs.deploy(whole_way.quantized, str(toml), tmp_path / "x.eyb")
    toml.write_text('title = "x"\nengine = "ncnn"\nprecisions = ["mixed"]\ncore = "cortex-a72x"\n')
    with pytest.raises(UnknownNameError, match="Did you mean 'cortex-a72'"):
        verbs.deploy(whole_way.quantized, str(toml), tmp_path / "x.eyb")
    with pytest.raises(UsageError, match=r"mixed needs qparams\.json"):
        verbs.deploy(whole_way.run, "raspberry-pi-5", tmp_path / "x.eyb", precision="mixed")
