"""Instructions of a small network on emulated cores stay what they were: another engine, or another way, shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from counting import COMPILER, count

from edgeyolo.backends.ncnn.files import Blob, Layer, format_param, write_bin
from edgeyolo.backends.ncnn.winograd import without_winograd

SIDE = 48
OPTIONS = {"use_fp16_packed": False, "use_fp16_storage": False, "use_fp16_arithmetic": False, "use_bf16_storage": False}
COUNTED = {
    "cortex-a72": {"first": 221_800, "products": 445_000, "winograd": 1_161_600, "direct": 1_477_900},
    "cortex-a76": {"first": 221_800, "products": 221_600, "winograd": 1_091_100, "direct": 582_000},
}


def convolution(name: str, blobs: tuple[str, str], chs: tuple[int, int], kernel: int, *, int8: bool) -> Layer:
    size = chs[0] * chs[1] * kernel**2
    values = np.random.default_rng(0).integers(-20, 20, size).astype(np.int8 if int8 else np.float32)
    params = {0: chs[1], 1: kernel, 3: 1 if int8 else 2, 4: kernel // 2, 5: 0, 6: size, 8: 2 * int8, 9: 1}
    scales = (Blob(np.full(chs[1], 100, np.float32)), Blob(np.float32([100]))) if int8 else ()
    return Layer("Convolution", name, blobs[:1], blobs[1:], params, (Blob(values, tagged=True), *scales))


def make_network() -> list[Layer]:
    """A first layer in float, then int8 by matrix products, by winograd, and directly."""
    return [
        Layer("Input", "in0", (), ("in0",), {}),
        convolution("first", ("in0", "a"), (3, 32), 3, int8=False),
        convolution("products", ("a", "b"), (32, 64), 1, int8=True),
        convolution("winograd", ("b", "c"), (64, 32), 3, int8=True),
        without_winograd(convolution("direct", ("c", "d"), (32, 32), 3, int8=True)),
    ]


@pytest.mark.skipif(COMPILER is None, reason="no C compiler called cc for the counting plugin")
@pytest.mark.parametrize("cpu", COUNTED)
def test_instructions(python_on_arm: Path, tmp_path: Path, cpu: str) -> None:
    layers = make_network()
    param, weights = tmp_path / "x.param", tmp_path / "x.bin"
    param.write_text(format_param(layers))
    weights.write_bytes(write_bin(layers))
    files = {"engine": "ncnn", "param": str(param), "bin": str(weights)}
    (counted,) = count(python_on_arm, cpu, [{**files, "options": OPTIONS, "input": [3, SIDE, SIDE]}])
    assert counted["counts"] == pytest.approx(COUNTED[cpu], rel=0.02)
