"""A graph for other batches than the one it was exported with: a fixed number of pictures, or any."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeyolo.spec.errors import BackendError
from edgeyolo.spec.tensor import INPUT_NAME

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorShapeProto

_TRIED = (2, 3)


def with_batch(model: ModelProto, batch: tuple[int, int]) -> ModelProto:
    """A graph of one picture as one that takes between `batch[0]` and `batch[1]`; itself for (1, 1).

    Shapes inferred for two and for three pictures show that every output has what it should of each.

    Raises:
        BackendError: a node that works for one picture only; names it.
    """
    if batch == (1, 1):
        return model
    result = type(model)()
    result.CopyFrom(model)
    graph = result.graph
    del graph.value_info[:]  # shapes for one picture
    _free_reshapes(graph)
    axes = _first_axes(graph)
    for axis in axes:
        axis.Clear()
    for count in _TRIED:
        axes[0].dim_value = count
        _check(result, count)
    for axis in axes:
        if batch[0] == batch[1]:
            axis.dim_value = batch[0]
        else:
            axis.dim_param = "batch"
    return result


def _first_axes(graph: GraphProto) -> list[TensorShapeProto.Dimension]:
    """Of the input, and then of every output."""
    entries = [*(entry for entry in graph.input if entry.name == INPUT_NAME), *graph.output]
    if len(entries) == len(graph.output) or not all(entry.type.tensor_type.shape.dim for entry in entries):
        raise BackendError(f"has no input '{INPUT_NAME}', or maps, of a known shape", hint="Export again")
    return [entry.type.tensor_type.shape.dim[0] for entry in entries]


def _free_reshapes(graph: GraphProto) -> None:
    """Let each Reshape to (1, ...) take its first axis from what it reshapes, where that is no constant."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[1] not in constants or node.input[0] in constants:
            continue
        shape = numpy_helper.to_array(constants[node.input[1]]).copy()
        if len(shape) and shape[0] == 1 and 0 not in shape:
            shape[0] = 0  # as it comes in
            name = f"{node.output[0]}/shape"
            graph.initializer.append(numpy_helper.from_array(np.asarray(shape, np.int64), name))
            node.input[1] = name


def _check(model: ModelProto, count: int) -> None:
    """Raise BackendError unless every output has the first axis of the input, which is `count`."""
    from onnx import shape_inference

    try:
        inferred = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    except shape_inference.InferenceError as error:
        raise _only_one(f"shapes do not go together: {' '.join(str(error).split())[:200]}") from None
    firsts = {
        entry.name: entry.type.tensor_type.shape.dim[0].dim_value
        for entry in (*inferred.input, *inferred.value_info, *inferred.output)
        if entry.type.tensor_type.shape.dim
    }
    if any(firsts.get(entry.name) != count for entry in inferred.output):
        losing = (node for node in inferred.node if any(firsts.get(name) == count for name in node.input))
        node = next((n for n in losing if n.op_type != "Shape" and firsts.get(n.output[0]) != count), None)
        raise _only_one(f"{node.op_type} '{node.name}' keeps no batch" if node else "an output has no batch")


def _only_one(why: str) -> BackendError:
    return BackendError(f"the graph works for one picture at a time only ({why})", hint="Deploy it with --batch 1")
