"""int8 handed from layer to layer, and layers turned back to float, on the real engine against plain numpy.

The reference multiplies integers in int64, and rounds half away from zero as ncnn does. Inputs are random, so none of
the float numbers in between lies on a rounding edge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from any_spec import any_spec

from edgeyolo.backends import open_artefact
from edgeyolo.backends.ncnn.files import Blob, Layer, format_param, parse_param, read_bin, write_bin
from edgeyolo.backends.ncnn.mixed import float_layers, group_int8_layers, int8_layer_names
from edgeyolo.backends.ncnn.requantize import break_chains, is_requantized, requantize
from edgeyolo.backends.ncnn.shapes import check_network
from edgeyolo.spec.errors import BackendError, UnknownNameError
from edgeyolo.spec.manifest import Artefact

HW = (9, 12)
FILES = {"param": "model.ncnn.param", "bin": "model.ncnn.bin"}
LEAKY = (2, (0.1,))
ACTIVATIONS: dict[str, tuple[tuple[int, tuple[float, ...]], Callable[[np.ndarray], np.ndarray]]] = {
    "none": ((0, ()), lambda x: x),
    "relu": ((1, ()), lambda x: np.maximum(x, 0)),
    "leaky": (LEAKY, lambda x: np.where(x > 0, x, 0.1 * x)),
    "clip": ((3, (0.0, 0.6)), lambda x: np.clip(x, 0, 0.6)),
    "sigmoid": ((4, ()), lambda x: 1 / (1 + np.exp(-x))),
    "mish": ((5, ()), lambda x: x * np.tanh(np.log1p(np.exp(x)))),
    "hardswish": ((6, (1 / 6, 0.5)), lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
}


@dataclass
class Filter:
    """One int8 convolution; multipliers are ncnn's, one per output channel."""

    name: str
    in_chs: int
    out_chs: int
    kernel: int = 1
    stride: int = 1
    depthwise: bool = False
    activation: str = "leaky"
    seed: int = 0

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        depth = 1 if self.depthwise else self.in_chs
        self.weight = random.integers(-127, 128, (self.out_chs, depth, self.kernel, self.kernel))
        self.bias = random.normal(0, 0.2, self.out_chs).astype(np.float32)
        self.multipliers = (random.uniform(0.8, 1.2, self.out_chs) * 127 * np.sqrt(depth) * self.kernel).astype(
            np.float32
        )
        self.bottom = np.float32(100 + 7 * self.seed)

    def layer(self, bottom: str, top: str) -> Layer:
        kind, values = ACTIVATIONS[self.activation][0]
        params = {0: self.out_chs, 1: self.kernel, 3: self.stride, 4: self.kernel // 2, 5: 1, 6: self.weight.size}
        params |= {8: 1 if self.depthwise else 2, 9: kind, 10: values}
        if self.depthwise:
            params[7] = self.out_chs
        weights = (
            Blob(self.weight.astype(np.int8).reshape(-1), tagged=True),
            Blob(self.bias),
            Blob(self.multipliers),
            Blob(np.asarray([self.bottom], np.float32)),
        )
        name = "ConvolutionDepthWise" if self.depthwise else "Convolution"
        return Layer(name, self.name, (bottom,), (top,), params, weights)

    def expected(self, inputs: np.ndarray, *, as_float: bool = False) -> np.ndarray:
        """(C, H, W) -> (C', h, w)."""
        values = inputs.astype(np.float64)
        if not as_float:
            scaled = values * self.bottom
            values = np.clip(np.sign(scaled) * np.floor(np.abs(scaled) + 0.5), -127, 127)
        pad = self.kernel // 2
        padded = np.pad(values, ((0, 0), (pad, pad), (pad, pad)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (self.kernel, self.kernel), axis=(1, 2))
        windows = windows[:, :: self.stride, :: self.stride]
        equation = "chwij,cdij->chw" if self.depthwise else "chwij,ocij->ohw"
        sums = np.einsum(equation, windows, self.weight.astype(np.float64))
        scale = self.multipliers.astype(np.float64) * (1.0 if as_float else np.float64(self.bottom))
        return ACTIVATIONS[self.activation][1](sums / scale[:, None, None] + self.bias[:, None, None])


def network(*middle: Layer) -> list[Layer]:
    return [Layer("Input", "in0", (), ("in0",), {0: HW[1], 1: HW[0], 2: 3}), *middle]


def images(count: int = 1) -> np.ndarray:
    return np.random.default_rng(5).uniform(-0.5, 1, (count, 3, *HW)).astype(np.float32)


def run(layers: list[Layer], folder: Path, inputs: np.ndarray, count: int = 1) -> list[np.ndarray]:
    """As a bundle's session does: through the files, and checked."""
    folder.mkdir(exist_ok=True)
    (folder / FILES["param"]).write_text(format_param(layers))
    (folder / FILES["bin"]).write_bytes(write_bin(layers))
    half = {"use_fp16_packed": False, "use_fp16_storage": False, "use_fp16_arithmetic": False}
    options = half | {"use_winograd43_convolution": False}
    artefact = Artefact(engine="ncnn", engine_version="", precision="int8", files=FILES, options=options)
    session = open_artefact(folder, artefact, any_spec(HW, count), threads=1)
    try:
        return session.run(inputs)
    finally:
        session.close()


def chain(first: Filter, second: Filter, *, through: str = "") -> list[Layer]:
    if not through:
        return network(first.layer("in0", "x"), second.layer("x", "out0"))
    split = Layer("Split", "copies", ("x",), ("y", "z"), {})
    third = replace_name(second, "third")
    return network(first.layer("in0", "x"), split, second.layer("y", "out0"), third.layer("z", "out1"))


def replace_name(given: Filter, name: str) -> Filter:
    return Filter(
        name, given.in_chs, given.out_chs, given.kernel, given.stride, given.depthwise, given.activation, given.seed
    )


@pytest.mark.parametrize("through", ["", "split"])
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("out_chs", [16, 13])
def test_a_chain_is_the_same_function(activation: str, out_chs: int, through: str, tmp_path: Path) -> None:
    first = Filter("first", 3, out_chs, kernel=3, activation=activation, seed=1)
    second = Filter("second", out_chs, 24, kernel=3, stride=2, seed=2)
    plain = chain(first, second, through=through)
    chained = requantize(plain)
    assert [layer.name for layer in chained if is_requantized(layer)] == ["first"]
    assert requantize(chained) == chained
    inputs, count = images(), 2 if through else 1
    before, after = run(plain, tmp_path / "p", inputs, count), run(chained, tmp_path / "c", inputs, count)
    expected = second.expected(first.expected(inputs[0]))
    for maps in (before, after):
        for map_ in maps:
            np.testing.assert_allclose(map_[0], expected, atol=2e-5, rtol=1e-4)


def test_depthwise_layers_chain_too(tmp_path: Path) -> None:
    filters = [
        Filter("a", 3, 16, kernel=3, stride=2, seed=1),
        Filter("b", 16, 16, kernel=3, depthwise=True, activation="relu", seed=2),
        Filter("c", 16, 8, activation="none", seed=3),
    ]
    blobs = ["in0", "x", "y", "out0"]
    plain = network(*(each.layer(*blobs[i : i + 2]) for i, each in enumerate(filters)))
    chained = requantize(plain)
    assert [layer.integer(8) for layer in chained[1:]] == [102, 101, 2]
    expected = images()[0]
    for each in filters:
        expected = each.expected(expected)
    for layers in (plain, chained):
        np.testing.assert_allclose(run(layers, tmp_path / "o", images())[0][0], expected, atol=2e-5, rtol=1e-4)


def test_what_reads_float_gets_float() -> None:
    """Another scale, a Concat behind a Split, an output of the network, a layer in float: no chain."""
    first, second = Filter("first", 3, 16, seed=1), Filter("second", 16, 16, seed=2)
    other = Filter("other", 16, 16, seed=3)
    split = Layer("Split", "copies", ("x",), ("y", "z"), {})
    cat = Layer("Concat", "cat", ("z", "w"), ("out0",), {0: 0})
    in_float = float_layers(chain(first, second), ["second"], half=False)
    for layers in (
        network(first.layer("in0", "x"), split, second.layer("y", "out0"), other.layer("z", "out1")),
        network(first.layer("in0", "x"), split, second.layer("y", "w"), cat),
        network(first.layer("in0", "out0")),
        in_float,
    ):
        assert not any(is_requantized(layer) for layer in requantize(layers))


@pytest.mark.parametrize("spoil", ["scale", "reader", "output"])
def test_a_chain_that_would_crash_the_engine_is_refused(spoil: str) -> None:
    first, second = Filter("first", 3, 16, seed=1), Filter("second", 16, 16, seed=2)
    chained = requantize(chain(first, second))
    check_network(chained, HW, 1, where="test")
    start, conv, end = chained
    if spoil == "scale":
        conv = replace(conv, weights=(*conv.weights[:-1], Blob(np.asarray([99], np.float32))))
    elif spoil == "reader":
        end = Layer("Pooling", "pool", end.inputs, end.outputs, {0: 0, 1: 2, 2: 2})
    else:
        conv, end = replace(conv, outputs=("out0",)), Layer("Split", "copies", ("in1",), ("out1",), {})
        start = replace(start, outputs=("in0",))
        with pytest.raises(BackendError, match="gives int8"):
            check_network([start, conv], HW, 1, where="test")
        return
    with pytest.raises(BackendError, match="gives int8"):
        check_network([start, conv, end], HW, 1, where="test")


def test_chains_survive_the_files() -> None:
    chained = requantize(chain(Filter("first", 3, 16, seed=1), Filter("second", 16, 16, seed=2)))
    text, raw = format_param(chained), write_bin(chained)
    again = read_bin(parse_param(text, where="p"), raw, where="b")
    assert format_param(again) == text
    assert write_bin(again) == raw
    with pytest.raises(BackendError, match="too early"):
        read_bin(parse_param(text, where="p"), raw[:-4], where="b")


def test_a_long_row_of_splits_is_followed() -> None:
    first = Filter("first", 3, 16, seed=1)
    splits = [Layer("Split", f"s{i}", (f"x{i}",), (f"x{i + 1}",), {}) for i in range(5000)]
    layers = network(first.layer("in0", "x0"), *splits, Filter("second", 16, 16, seed=2).layer("x5000", "out0"))
    assert is_requantized(requantize(layers)[1])


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("name", ["first", "second"])
def test_a_layer_in_float(name: str, depthwise: bool, half: bool, tmp_path: Path) -> None:
    """Equal to a float convolution with the integers times their scales, and the other layer as it was."""
    first = Filter("first", 3, 16, kernel=3, seed=1)
    second = Filter("second", 16, 16, kernel=3, depthwise=depthwise, activation="none", seed=2)
    chained = requantize(chain(first, second))
    assert int8_layer_names(chained) == ["first", "second"]
    mixed = float_layers(chained, [name], half=half)
    left = "second" if name == "first" else "first"
    assert int8_layer_names(mixed) == [left]
    assert not any(is_requantized(layer) for layer in mixed)
    expected = first.expected(images()[0], as_float=name == "first")
    expected = second.expected(expected, as_float=name == "second")
    map_ = run(mixed, tmp_path / "o", images())[0][0]
    if not half:
        # ncnn on x86 divides by a depthwise layer's scales with the processor's approximate reciprocal: 1.5 x 2^-12.
        np.testing.assert_allclose(map_, expected, atol=4e-4 if depthwise else 2e-5, rtol=1e-4)
    else:  # weights of 11 bits: most integers of the second layer's input are the same, and the rest one step off
        error = np.abs(map_ - expected)
        assert error.max() < 0.05
        assert error.mean() < 3e-3


def test_chains_elsewhere_are_kept() -> None:
    filters = [Filter(name, 3 if name == "a" else 16, 16, seed=seed) for seed, name in enumerate("abcd")]
    blobs = ["in0", "x", "y", "z", "out0"]
    chained = requantize(network(*(each.layer(*blobs[i : i + 2]) for i, each in enumerate(filters))))
    assert [is_requantized(layer) for layer in chained[1:]] == [True, True, True, False]
    mixed = float_layers(chained, ["b"], half=False)
    assert [is_requantized(layer) for layer in mixed[1:]] == [False, False, True, False]
    assert break_chains(mixed) == mixed
    plain = network(*(each.layer(*blobs[i : i + 2]) for i, each in enumerate(filters)))
    assert not any(is_requantized(layer) for layer in float_layers(plain, ["b"], half=False))


def test_a_name_that_is_no_int8_layer() -> None:
    layers = chain(Filter("first", 3, 16, seed=1), Filter("second", 16, 16, seed=2))
    with pytest.raises(UnknownNameError, match="first"):
        float_layers(layers, ["frist"], half=False)
    with pytest.raises(UnknownNameError):
        float_layers(float_layers(layers, ["first"], half=False), ["first"], half=False)


def test_int8_layers_by_kernel() -> None:
    layers = network(
        Filter("a", 3, 16, kernel=3, seed=1).layer("in0", "x"),
        Filter("b", 16, 16, kernel=3, depthwise=True, seed=2).layer("x", "y"),
        Filter("c", 16, 16, seed=3).layer("y", "z"),
        Filter("d", 16, 16, kernel=3, seed=4).layer("z", "out0"),
    )
    assert group_int8_layers(layers) == {"first layers": ["a"], "depthwise 3x3": ["b"], "1x1": ["c"], "3x3": ["d"]}
    assert "1x1" not in group_int8_layers(float_layers(layers, ["c"], half=False))


def test_layers_are_timed(tmp_path: Path) -> None:
    layers = requantize(chain(Filter("first", 3, 16, seed=1), Filter("second", 16, 16, seed=2), through="split"))
    run(layers, tmp_path / "o", images(), count=2)
    artefact = Artefact(engine="ncnn", engine_version="", precision="int8", files=FILES)
    session = open_artefact(tmp_path / "o", artefact, any_spec(HW, 2), threads=1)
    taken = session.time_layers(images()[0])
    assert list(taken) == ["first", "copies", "second", "third"]
    assert min(taken.values()) > 0
