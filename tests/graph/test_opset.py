"""Graphs for programs that read opset 13 only: the same numbers, or the operator that has no form there by name."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeyolo.graph.opset import lower_opset
from edgeyolo.spec.errors import BackendError


def make_model(*nodes: onnx.NodeProto, **constants: list[int]) -> onnx.ModelProto:
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 8, 8])
    rows = helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None] * 4)
    values = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()]
    graph = helper.make_graph(list(nodes), "graph", [images], [rows], values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    session = pytest.importorskip("onnxruntime").InferenceSession(model.SerializeToString())
    return np.asarray(session.run(None, {"images": images})[0])


def test_what_is_as_old_or_means_the_same_is_kept() -> None:
    model = make_model(
        helper.make_node("Slice", ["images", "starts", "ends", "axes"], ["half"]),
        helper.make_node("Exp", ["half"], ["sides"]),
        helper.make_node("ReduceMean", ["sides", "axes"], ["rows"], keepdims=1),
        starts=[1],
        ends=[3],
        axes=[1],
    )
    lowered = lower_opset(model)
    assert lowered.opset_import[0].version == 13
    images = np.random.default_rng(0).random((1, 3, 8, 8), np.float32)
    np.testing.assert_array_equal(run(lowered, images), run(model, images))
    np.testing.assert_allclose(run(model, images), np.exp(images[:, 1:3]).mean(1, keepdims=True), rtol=1e-6)


@pytest.mark.parametrize("operator", ["HardSwish", "Mish"])
def test_what_came_later_is_named(operator: str) -> None:
    with pytest.raises(BackendError, match=f"{operator} 'late'.*opset 13"):
        lower_opset(make_model(helper.make_node(operator, ["images"], ["rows"], name="late")))
