"""FP8 in the graph: bytes against a list of all numbers, Q/DQ in two evaluators against a convolution of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from one_layer import OneLayer
from onnx.reference import ReferenceEvaluator

from edgeyolo.graph.fp8 import encode_e4m3, insert_fp8
from edgeyolo.graph.qdq import insert_qdq, load_onnx
from edgeyolo.graph.qdq_check import check_qdq
from edgeyolo.spec.errors import BackendError
from edgeyolo.spec.tensor import INPUT_NAME


def number_of(code: int) -> float:
    """What a byte of E4M3 stands for, from its bits as the paper has them."""
    sign, exponent, mantissa = code >> 7, code >> 3 & 15, code & 7
    size = (1 + mantissa / 8) * 2.0 ** (exponent - 7) if exponent else mantissa / 8 * 2.0**-6
    return -size if sign else size


NUMBERS = np.array([number_of(code) for code in range(127)])  # 127 stands for none


def nearest(value: float) -> float:
    """By looking at all of them; of two the one whose byte is even."""
    apart = np.abs(NUMBERS - abs(value))
    best = np.flatnonzero(apart == apart.min())
    return float(np.copysign(NUMBERS[best[best % 2 == 0][0] if len(best) > 1 else best[0]], value))


def test_bytes_are_the_nearest_numbers() -> None:
    middles = (NUMBERS[:-1] + NUMBERS[1:]) / 2
    values = np.concatenate([NUMBERS, middles, np.nextafter(np.float32(middles), 1e9), np.geomspace(1e-5, 1e4, 500)])
    values = np.concatenate([values, -values]).astype(np.float32)
    found = [number_of(int(code)) for code in encode_e4m3(values)]
    np.testing.assert_array_equal(found, [nearest(float(value)) for value in values])
    assert max(found) == 448


@pytest.mark.parametrize("bits", [8, 6])
def test_the_graph_multiplies_such_numbers(bits: int, tmp_path: Path) -> None:
    layer = OneLayer(image_hw=(6, 7), out_chs=4, bits=bits, opset=19)
    path, qparams = layer.write(tmp_path)
    graph = insert_fp8(load_onnx(path), qparams)
    onnx.checker.check_model(graph, full_check=True)
    assert not check_qdq(graph).problems
    images = layer.images(1) * 1.2  # some beyond the range
    step = float(np.float16(layer.step * 127 / 448))
    steps = np.float16(layer.weight_steps() * (2 ** (bits - 1) - 1) / 448).astype(np.float64)
    inputs = np.vectorize(nearest)(images / step) * step
    weights = np.vectorize(nearest)(layer.weight / steps[:, None, None, None]) * steps[:, None, None, None]
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(inputs, ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), (2, 3))
    wanted = np.einsum("bchwij,ocij->bohw", windows, weights) + layer.bias[:, None, None]
    for evaluator in (ReferenceEvaluator(graph), onnxruntime.InferenceSession(graph.SerializeToString())):
        (found,) = evaluator.run(None, {INPUT_NAME: images})
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.abs(wanted - layer.expected(images)).max() > 1e-3  # int8 is something else


def test_the_integers_of_int8_are_not_touched(tmp_path: Path) -> None:
    path, qparams = OneLayer(opset=19).write(tmp_path)
    model = load_onnx(path)
    before = insert_qdq(model, qparams).SerializeToString()
    insert_fp8(model, qparams)
    assert insert_qdq(model, qparams).SerializeToString() == before


def test_an_opset_without_fp8_says_so(tmp_path: Path) -> None:
    path, qparams = OneLayer(opset=17).write(tmp_path)
    with pytest.raises(BackendError, match="FP8 needs opset 19"):
        insert_fp8(load_onnx(path), qparams)
