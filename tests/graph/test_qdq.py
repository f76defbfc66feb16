"""The Q/DQ graph: what is where, checked on the graph and by ONNX's own reference evaluator."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgeyolo.graph.qdq import insert_qdq, quantize_weight
from edgeyolo.spec.errors import BackendError
from edgeyolo.spec.qparams import WeightScales


def test_reference_evaluator_agrees_with_integers(one_layer, tmp_path: Path) -> None:
    layer = one_layer(activation="Relu", opset=19)
    path, qparams = layer.write(tmp_path)
    model = insert_qdq(onnx.load(path), qparams)
    onnx.checker.check_model(model, full_check=True)
    images = layer.images(1)
    (map_,) = ReferenceEvaluator(model).run(None, {"images": images})
    np.testing.assert_allclose(map_, layer.expected(images), atol=1e-5)


def test_unsigned_activations_are_the_same_numbers(one_layer, tmp_path: Path) -> None:
    """Each integer is 128 more, those that saturate included, and the maps are equal to the bit."""
    layer = one_layer(activation="Relu", opset=19)
    path, qparams = layer.write(tmp_path)
    images = 3 * layer.images(1) - 1  # beyond the range on both sides
    integers, maps = [], []
    for unsigned in (False, True):
        model = insert_qdq(onnx.load(path), qparams, unsigned=unsigned)
        onnx.checker.check_model(model, full_check=True)
        (name,) = [node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
        kind = onnx.TensorProto.UINT8 if unsigned else onnx.TensorProto.INT8
        model.graph.output.append(helper.make_tensor_value_info(name, kind, None))
        map_, found = ReferenceEvaluator(model).run(None, {"images": images})
        integers.append(found.astype(np.int32))
        maps.append(map_)
    assert integers[0].min() == -128 and integers[0].max() == 127
    np.testing.assert_array_equal(integers[1], integers[0] + 128)
    np.testing.assert_array_equal(maps[1], maps[0])


def test_one_pair_per_tensor_and_bias_stays_float(one_layer, tmp_path: Path) -> None:
    layer = one_layer()
    path, qparams = layer.write(tmp_path)
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(layer.weight[::-1].copy(), "second.weight"))
    model.graph.node.append(helper.make_node("Conv", ["images", "second.weight"], ["map_1"], pads=[1] * 4))
    model.graph.node.append(helper.make_node("Relu", ["images"], ["map_2"]))
    for name in ("map_1", "map_2"):
        model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, None, None, None]))
    scales = qparams.weights["body.conv.weight"]
    both = msgspec.structs.replace(
        qparams,
        weights=qparams.weights | {"second.weight": msgspec.structs.replace(scales, scales=scales.scales[::-1])},
        layers=qparams.layers
        | {"second": msgspec.structs.replace(qparams.layers["body.conv"], weight="second.weight")},
    )
    graph = insert_qdq(model, both).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("QuantizeLinear") == 1
    assert kinds.count("DequantizeLinear") == 3  # the input, and two weights
    assert next(node for node in graph.node if node.op_type == "Relu").input[0] == "images"
    stored = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert stored["body.conv.bias"] == onnx.TensorProto.FLOAT
    assert "body.conv.weight" not in stored
    assert model.graph.node[0].input[0] == "images"  # the given model is as it was


def test_gemm_with_either_layout(tmp_path: Path) -> None:
    from edgeyolo.spec.qparams import CalibrationRecord, LayerPrecision, QParams, TensorGroup

    random = np.random.default_rng(0)
    weight, rows = random.normal(size=(5, 7)).astype(np.float32), random.normal(size=(2, 7)).astype(np.float32)
    scales = np.abs(weight).max(axis=1) / 127
    wanted = (np.clip(np.rint(rows / 0.05), -128, 127) * 0.05) @ (np.rint(weight / scales[:, None]) * scales[:, None]).T
    for transposed in (0, 1):
        stored = weight if transposed else weight.T.copy()
        node = helper.make_node("Gemm", ["rows", "fc.weight"], ["y"], transB=transposed)
        shapes = (("rows", [2, 7]), ("y", [2, 5]))
        values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes]
        graph = helper.make_graph([node], "g", values[:1], values[1:], [numpy_helper.from_array(stored, "fc.weight")])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
        qparams = QParams(
            onnx_sha256="",
            groups={"a": TensorGroup(tensors=("rows",), scale=0.05, how="hand")},
            weights={"fc.weight": WeightScales(scales=tuple(scales.tolist()), axis=1 - transposed, how="hand")},
            layers={"fc": LayerPrecision(precision="int8", weight="fc.weight", group="a")},
            calibration=CalibrationRecord(recipe="hand", method="ptq", count=0, seed=0, pictures={}),
        )
        (given,) = ReferenceEvaluator(insert_qdq(model, qparams)).run(None, {"rows": rows})
        np.testing.assert_allclose(given, wanted, atol=1e-4)


def test_old_opset_and_other_readers_are_refused(one_layer, tmp_path: Path) -> None:
    path, qparams = one_layer(opset=12).write(tmp_path)
    with pytest.raises(BackendError, match="opset 12"):
        insert_qdq(onnx.load(path), qparams)
    path, qparams = one_layer().write(tmp_path)
    model = onnx.load(path)
    model.graph.node.append(helper.make_node("Relu", ["body.conv.weight"], ["x"]))
    with pytest.raises(BackendError, match="read by"):
        insert_qdq(model, qparams)


def test_weights_round_half_to_even_within_their_bits() -> None:
    weight = np.array([[0.5, 1.5, -2.5, 300, -300]], np.float32)
    for bits, limit in ((8, 127), (6, 31)):
        scales = WeightScales(scales=(1.0,), bits=bits, how="hand")
        assert quantize_weight(weight, scales, where="w").tolist() == [[0, 2, -2, limit, -limit]]
    for wrong in (WeightScales(scales=(1.0, 1.0), how=""), WeightScales(scales=(1.0,), bits=9, how="")):
        with pytest.raises(BackendError):
            quantize_weight(weight, wrong, where="w")
