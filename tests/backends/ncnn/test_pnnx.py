"""An operator that ncnn lacks is named when the bundle is built, not when a board runs it."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from any_spec import any_spec
from onnx import TensorProto, helper

from edgeyolo import backends
from edgeyolo.spec.errors import BackendError
from edgeyolo.spec.target import load_target


@pytest.mark.parametrize(
    ("operator", "layer"), [("CumSum", "CumSum_0"), ("Det", "Det_0"), ("ScatterElements", "ScatterElements_0")]
)
def test_the_operator_and_its_layer_are_named(operator: str, layer: str, tmp_path: Path) -> None:
    constants = {
        "CumSum": [helper.make_tensor("a", TensorProto.INT64, [], [1])],
        "ScatterElements": [
            helper.make_tensor("a", TensorProto.INT64, [1, 1, 1, 1], [0]),
            helper.make_tensor("b", TensorProto.FLOAT, [1, 1, 1, 1], [0.0]),
        ],
    }.get(operator, [])
    graph = helper.make_graph(
        [helper.make_node(operator, ["images", *(constant.name for constant in constants)], ["map_0"])],
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("map_0", TensorProto.FLOAT, ["b"] if operator == "Det" else [1, 3, 16, 16])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    onnx.save(model, str(tmp_path / "model.onnx"))
    with pytest.raises(BackendError) as caught:
        backends.build(
            tmp_path / "model.onnx",
            any_spec((16, 16)),
            None,
            load_target("host-ncnn"),
            tmp_path / "out",
            precision="fp32",
        )
    assert caught.value.what == f"ncnn has no layer for {operator} (layer '{layer}')"
    assert caught.value.where == str(tmp_path / "model.onnx")
    assert "--target host-onnx" in caught.value.hint
