"""An ONNX graph that says how large its own values become, one number per tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto

_FLOAT = 1  # TensorProto.FLOAT
_PREFIX = "largest/"


def watch_largest(model: ModelProto) -> tuple[ModelProto, list[str]]:
    """A copy of `model` whose outputs are the largest magnitude of each float32 tensor that a node gives, as scalars.

    Returns:
        The model, and the names of the tensors in the order of its outputs.
    """
    import onnx
    from onnx import helper

    result = onnx.shape_inference.infer_shapes(model)
    graph = result.graph
    kinds = {entry.name: entry.type.tensor_type.elem_type for entry in (*graph.value_info, *graph.output)}
    names = [name for node in graph.node for name in node.output if kinds.get(name) == _FLOAT]
    for name in names:
        graph.node.append(helper.make_node("Abs", [name], [f"{_PREFIX}{name}/abs"]))
        graph.node.append(helper.make_node("ReduceMax", [f"{_PREFIX}{name}/abs"], [_PREFIX + name], keepdims=0))
    del graph.output[:]
    graph.output.extend(helper.make_tensor_value_info(_PREFIX + name, _FLOAT, []) for name in names)
    return result, names
