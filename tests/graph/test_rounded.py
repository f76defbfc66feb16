"""Outputs of convolutions rounded too: equal above zero and where nothing saturates, and only where VNNI is.

What kernels for processors without VNNI do is emulated: they add pairs of products in 16 bits that saturate.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from any_spec import any_spec
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgeyolo import backends
from edgeyolo.backends import onnxruntime as engine
from edgeyolo.graph.qdq import insert_qdq
from edgeyolo.graph.rounded import round_outputs
from edgeyolo.spec.provenance import sha256_of
from edgeyolo.spec.qparams import CalibrationRecord, LayerPrecision, QParams, TensorGroup, WeightScales
from edgeyolo.spec.target import load_target

SIDE, CHANNELS = 8, 8
STEP = 0.02
ACTIVATIONS = {
    "Relu": [helper.make_node("Relu", ["conv"], ["active"])],
    "LeakyRelu": [helper.make_node("LeakyRelu", ["conv"], ["active"], alpha=0.1)],
    "SiLU": [helper.make_node("Sigmoid", ["conv"], ["gate"]), helper.make_node("Mul", ["conv", "gate"], ["active"])],
}


def write_model(folder: Path, activation: str, spread: float = 0.05) -> tuple[Path, QParams]:
    """Convolution, activation, pooling and Concat, a second int8 convolution, and a float one that gives the map."""
    rng = np.random.default_rng(0)
    shapes = {"first": (CHANNELS, 3, 3, 3), "second": (CHANNELS, 2 * CHANNELS, 1, 1), "head": (4, CHANNELS, 1, 1)}
    weights = {name: rng.normal(0, spread, shape).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("Conv", ["images", "first"], ["conv"], pads=[1] * 4),
        *ACTIVATIONS[activation],
        helper.make_node("MaxPool", ["active"], ["pooled"], kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Concat", ["active", "pooled"], ["both"], axis=1),
        helper.make_node("Conv", ["both", "second"], ["mixed"]),
        helper.make_node("Conv", ["mixed", "head"], ["map_0"]),
    ]
    ends = [("images", [1, 3, SIDE, SIDE]), ("map_0", [1, 4, SIDE, SIDE])]
    inputs, outputs = ([helper.make_tensor_value_info(n, TensorProto.FLOAT, shape)] for n, shape in ends)
    tensors = [numpy_helper.from_array(weight, name) for name, weight in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), path)
    scales = {name: np.abs(weights[name]).max(axis=(1, 2, 3)) / 127 for name in ("first", "second")}
    groups = {"images": ("images", 1 / 127), "both": ("both", STEP)}
    qparams = QParams(
        onnx_sha256=sha256_of(path),
        groups={g: TensorGroup(tensors=(name,), scale=s, bits=8, how="test") for g, (name, s) in groups.items()},
        weights={n: WeightScales(scales=tuple(map(float, s)), axis=0, bits=8, how="max") for n, s in scales.items()},
        layers={
            name: LayerPrecision(precision="int8", weight=name, group=group)
            for name, group in (("first", "images"), ("second", "both"))
        },
        calibration=CalibrationRecord(recipe="hand", method="ptq", count=0, seed=0, pictures={}),
    )
    return path, qparams


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(1).random((1, 3, SIDE, SIDE), dtype=np.float32)


def integers_read(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """The integers that the second convolution reads."""
    (node,) = [node for node in model.graph.node if node.op_type == "QuantizeLinear" and "both/both" in node.name]
    model.graph.output.append(helper.make_tensor_value_info(node.output[0], TensorProto.UINT8, None))
    return ReferenceEvaluator(model).run(None, {"images": images})[-1].astype(np.int32)


@pytest.mark.parametrize(("activation", "farthest"), [("Relu", 0), ("LeakyRelu", 1), ("SiLU", 2)])
def test_what_the_next_convolution_reads(activation: str, farthest: int, tmp_path: Path, images: np.ndarray) -> None:
    """In steps, by ONNX's own evaluator, where nothing saturates; every integer above zero is equal where it can be."""
    path, qparams = write_model(tmp_path, activation)
    exact = insert_qdq(onnx.load(path), qparams, unsigned=True)
    rounded = round_outputs(exact)
    onnx.checker.check_model(rounded, full_check=True)
    wanted, found = integers_read(exact, images), integers_read(rounded, images)
    assert len(np.unique(wanted)) > 15
    assert np.abs(found - wanted).max() <= farthest
    if activation != "SiLU":
        np.testing.assert_array_equal(found[wanted > 128], wanted[wanted > 128])


def test_the_layer_before_a_float_one_keeps_its_output(tmp_path: Path) -> None:
    path, qparams = write_model(tmp_path, "Relu")
    rounded = round_outputs(insert_qdq(onnx.load(path), qparams, unsigned=True))
    readers = {name: node for node in rounded.graph.node for name in node.input}
    assert readers["conv"].op_type == "QuantizeLinear"
    assert readers["mixed"].op_type == "Conv"
    weight = next(numpy_helper.to_array(t) for t in rounded.graph.initializer if t.name == "second")
    steps = np.asarray(qparams.weights["second"].scales, np.float32).reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(np.rint(weight / steps), weight / steps, atol=1e-4)


def open_fast(tmp_path: Path, target: str) -> Any:
    path, qparams = write_model(tmp_path, "LeakyRelu", spread=1.0)
    out = tmp_path / target
    spec = any_spec((SIDE, SIDE), 1)
    artefact = backends.build(path, spec, qparams, load_target(target), out, precision="int8")
    return backends.open_artefact(out, artefact, spec, threads=1)


def test_without_vnni_it_is_the_graph_as_written(
    tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One bundle travels: with VNNI its numbers are other ones, without they are those of host-onnx to the bit."""
    pytest.importorskip("onnxruntime", reason="the engine is not installed")
    (exact,) = open_fast(tmp_path, "host-onnx").run(images)
    monkeypatch.setattr(engine, "saturates_bytes", lambda: False)
    with_vnni = open_fast(tmp_path, "host-onnx-fast")
    monkeypatch.setattr(engine, "saturates_bytes", lambda: True)
    with caplog.at_level(logging.WARNING):
        (without,) = open_fast(tmp_path, "host-onnx-fast").run(images)
    assert "has no VNNI" in caplog.text
    np.testing.assert_array_equal(without, exact)
    assert not np.array_equal(with_vnni.run(images)[0], exact)


def test_pairs_of_products_saturate_with_weights_like_ours(tmp_path: Path) -> None:
    """vpmaddubsw adds two products of an unsigned and a signed byte in 16 bits: 2 x 255 x 127 is twice its range."""
    path, qparams = write_model(tmp_path, "Relu")
    model = insert_qdq(onnx.load(path), qparams, unsigned=True)
    weights = next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "qdq/first/int8")
    rows = np.resize(weights.reshape(CHANNELS, -1).astype(np.int32), (CHANNELS, 26))
    bright = np.full(26, 255)
    pairs = (rows * bright).reshape(CHANNELS, -1, 2).sum(axis=2)
    assert (np.abs(pairs) > 32767).any()
    saturated = np.clip(pairs, -32768, 32767).sum(axis=1)
    assert (saturated != pairs.sum(axis=1)).any()
