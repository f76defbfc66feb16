"""The largest weights that winograd F(4,3) computes exactly in int8, on the real engine against integers of numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeyolo.backends.ncnn.files import Blob, Layer, format_param, write_bin
from edgeyolo.backends.ncnn.winograd import MOST, is_exact, is_winograd, shrink, without_winograd

CHANNELS, SIZE = 64, 12


def convolution(weight: np.ndarray) -> Layer:
    """int8 3x3 of all the channels of in0, whose input scale is 1."""
    params = {0: len(weight), 1: 3, 4: 1, 5: 0, 6: weight.size, 8: 2}
    scales = (Blob(np.ones(len(weight), np.float32)), Blob(np.ones(1, np.float32)))
    blob = Blob(weight.astype(np.int8).reshape(-1), tagged=True)
    return Layer("Convolution", "c", ("in0",), ("out0",), params, (blob, *scales))


def run(folder: Path, layer: Layer, image: np.ndarray) -> np.ndarray:
    ncnn = pytest.importorskip("ncnn")
    layers = [Layer("Input", "in0", (), ("in0",), {}), layer]
    (folder / "x.param").write_text(format_param(layers))
    (folder / "x.bin").write_bytes(write_bin(layers))
    net = ncnn.Net()
    net.opt.use_fp16_storage = net.opt.use_fp16_packed = net.opt.use_bf16_storage = False
    net.opt.num_threads = 1
    assert net.load_param(str(folder / "x.param")) == net.load_model(str(folder / "x.bin")) == 0
    extractor = net.create_extractor()
    values = np.float32(image)  # outlives the Mat that looks at it
    extractor.input("in0", ncnn.Mat(values).clone())
    return np.array(extractor.extract("out0")[1])


def widest_sum() -> tuple[np.ndarray, np.ndarray]:
    """(16, C, 3, 3) weights whose first channel sums up to exactly MOST, and the worst input."""
    weight = np.random.default_rng(0).integers(-20, 21, (16, CHANNELS, 3, 3))
    flat = np.full(CHANNELS * 9, MOST // (CHANNELS * 9))
    flat[: MOST - flat.sum()] += 1
    weight[0] = flat.reshape(CHANNELS, 3, 3)
    return weight, np.full((CHANNELS, SIZE, SIZE), 127)


def expected(weight: np.ndarray, image: np.ndarray) -> np.ndarray:
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1))).astype(np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return np.einsum("chwij,ocij->ohw", windows, weight)


def test_the_bound_is_the_largest_that_is_exact(tmp_path: Path) -> None:
    weight, image = widest_sum()
    assert is_exact(convolution(weight))
    assert np.array_equal(run(tmp_path, convolution(weight), image), expected(weight, image))
    weight[0, :, 1, 1] += 1
    beyond = convolution(weight)
    assert not is_exact(beyond)
    assert not np.allclose(run(tmp_path, beyond, image), expected(weight, image), rtol=0.01)
    direct = without_winograd(beyond)
    assert is_exact(direct)
    assert not is_winograd(direct)
    assert np.array_equal(run(tmp_path, direct, image), expected(weight, image))


def test_shrunk_weights_are_the_nearest_that_fit(tmp_path: Path) -> None:
    """Only a channel that would overflow changes; its weights differ from the float ones by half a larger step."""
    random = np.random.default_rng(1)
    floats = random.normal(0, 20, (16, CHANNELS, 3, 3)).astype(np.float32)
    floats[3] = random.uniform(60, 127, floats[3].shape)
    layer = convolution(np.rint(floats).clip(-127, 127))
    smaller = shrink(layer, floats.reshape(-1))
    assert is_exact(smaller)
    rows, steps = smaller.weights[0].values.reshape(16, -1), 1 / smaller.weights[-2].values
    assert np.flatnonzero(steps != 1).tolist() == [3]
    assert np.array_equal(np.delete(rows, 3, 0), np.delete(np.rint(floats).reshape(16, -1).clip(-127, 127), 3, 0))
    assert np.abs(rows[3] * steps[3] - floats[3].reshape(-1)).max() <= steps[3] / 2 * 1.0001
    assert steps[3] < 1.01 * np.abs(floats[3]).sum() / MOST
    image = np.full((CHANNELS, SIZE, SIZE), 127)
    wanted = expected(rows.reshape(floats.shape).astype(np.int64), image) * steps[:, None, None]
    assert run(tmp_path, smaller, image) == pytest.approx(wanted, rel=1e-5)
