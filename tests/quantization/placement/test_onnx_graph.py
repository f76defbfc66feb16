"""Scales of an ONNX graph are placed as those of the network of torch that it was made of."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgeyolo import models
from edgeyolo.export.onnx import trace_onnx
from edgeyolo.export.qparams import make_qparams
from edgeyolo.quantization import quantize
from edgeyolo.quantization.placement.groups import find_placement
from edgeyolo.quantization.placement.onnx_graph import read_structure, unsupported_operators
from edgeyolo.spec.recipe import Recipe


@pytest.mark.parametrize(
    "name", ["yolov7-nano", "yolov8n", pytest.param("ppyoloe-s", marks=pytest.mark.slow),
             pytest.param("damo-ns", marks=pytest.mark.slow), pytest.param("yolov5n", marks=pytest.mark.slow)]
)  # fmt: skip
def test_groups_and_layers_are_those_of_torch(name: str) -> None:
    model = models.create(name, num_classes=2).eval()
    pictures = [torch.rand(1, 3, 64, 64)]
    quantized = quantize(model, pictures, Recipe(title="max", observer="max"), recipe_name="max", picture_hashes={})
    graph = trace_onnx(quantized.float_deploy, (64, 64), model.decode.output_count)
    wanted = make_qparams(quantized, graph, "")
    structure = read_structure(graph)
    found = find_placement(structure.graph_module)
    groups = {frozenset(structure.tensors[node] for node in group.tensors) for group in found.groups.values()}
    assert groups == {frozenset(group.tensors) for group in wanted.groups.values()}
    layers = {structure.weights[path]: (plan.precision, plan.why) for path, plan in found.layers.items()}
    assert layers == {layer.weight: (layer.precision, layer.why) for layer in wanted.layers.values()}


def make_graph(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "graph",
        [value("images", TensorProto.FLOAT, [1, 3, 32, 32])],
        [value("map_0", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def conv(source: str, result: str, weight: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node("Conv", [source, weight], [result], f"/{result}/Conv", pads=[1, 1, 1, 1], **attributes)


def test_unknown_operators_and_grouped_layers_stay_float_and_are_named() -> None:
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=(8, 8, 3, 3)).astype(np.float32) for name in ("b", "c", "e", "f")}
    weights |= {"a": rng.normal(size=(8, 3, 3, 3)).astype(np.float32), "d": np.ones((8, 1, 3, 3), np.float32)}
    nodes = [
        conv("images", "a_out", "a"),
        helper.make_node("Selu", ["a_out"], ["strange"], "the_strange"),
        conv("strange", "b_out", "b"),
        conv("b_out", "c_out", "c"),
        conv("c_out", "d_out", "d", group=8),
        helper.make_node("Add", ["c_out", "d_out"], ["sum"], "sum"),
        helper.make_node("GlobalAveragePool", ["sum"], ["pooled"], "pooled"),
        conv("sum", "e_out", "e"),
        conv("e_out", "map_0", "f"),
    ]
    structure = read_structure(make_graph(nodes, weights))
    placement = find_placement(structure.graph_module)
    precisions = {structure.weights[path]: plan.precision for path, plan in placement.layers.items()}
    assert precisions == {"a": "int8", "b": "float", "c": "int8", "d": "float", "e": "int8", "f": "float"}
    assert unsupported_operators(structure, placement.unsupported) == ("Selu 'strange'",)
    assert next(iter(placement.layers)) == "a_out.Conv"
