"""A float32 graph, with or without Q/DQ, -> the same graph in float16 between its input and its outputs.

An engine with strong typing runs a network in exactly the types that the graph states: what is to run in half precision
has to say so. Input and outputs stay float32.

Scales of Q/DQ become float16 too (opset 19), because such an engine wants a scale of the type it quantizes from. A
weight must therefore be quantized with scales that float16 holds: `half_scales`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt

from edgeyolo.spec.errors import BackendError
from edgeyolo.spec.qparams import QParams

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

MIN_OPSET = 19  # the first whose QuantizeLinear takes float16 scales
_LARGEST = float(np.finfo(np.float16).max)
_SMALLEST = 2.0**-24  # the least positive float16
_FLOAT, _HALF = 1, 10  # TensorProto.FLOAT, TensorProto.FLOAT16
_FLOAT_INPUTS = {"Resize": (1, 2), "Upsample": (1,)}  # region and scales: ONNX has them in float32 only
_PREFIX = "fp16/"


def half_scales(qparams: QParams) -> QParams:
    """The same scales rounded to what float16 can hold, at least its least positive number.

    Raises:
        BackendError: a range of activations that float16 cannot hold.
    """
    for name, group in qparams.groups.items():
        if group.scale * 127 > _LARGEST:
            raise BackendError(
                f"activations reach {group.scale * 127:.3g}, and float16 ends at {_LARGEST:.0f}",
                where=f"group {name} ({group.tensors[0]})",
            )
    groups = {
        name: msgspec.structs.replace(group, scale=_half_scale(group.scale)) for name, group in qparams.groups.items()
    }
    weights = {
        name: msgspec.structs.replace(entry, scales=tuple(_half_scale(scale) for scale in entry.scales))
        for name, entry in qparams.weights.items()
    }
    return msgspec.structs.replace(qparams, groups=groups, weights=weights)


def cast_to_half(model: ModelProto) -> ModelProto:
    """A copy of `model` that computes in float16; its inputs and outputs keep their names and float32.

    Raises:
        BackendError: an opset before 19, a constant that float16 cannot hold, control flow, or an operator that
            ONNX does not have in float16.
    """
    import onnx

    _check_graph(model)
    result = type(model)()
    result.CopyFrom(model)
    graph = result.graph
    del graph.value_info[:]
    kept = _float_only(graph.node)
    _cast_initializers(graph.initializer, kept)
    for node in graph.node:
        if not kept.intersection(node.output):
            _cast_attributes(node)
    _cast_edges(graph)
    try:
        onnx.checker.check_model(result, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BackendError(f"the graph has no float16 form ({error})") from None
    return result


def _half_scale(scale: float) -> float:
    return float(np.float16(max(scale, _SMALLEST)))


def _check_graph(model: ModelProto) -> None:
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < MIN_OPSET:
        raise BackendError(f"opset {opset} has no float16 scales", hint=f"Export with opset {MIN_OPSET} or later")
    for node in model.graph.node:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise BackendError("control flow cannot be cast to float16", where=f"{node.op_type} '{node.name}'")


def _float_only(nodes: Iterable[NodeProto]) -> set[str]:
    """Names of the tensors that must stay float32."""
    kept: set[str] = set()
    for node in nodes:
        positions = _FLOAT_INPUTS.get(node.op_type, ())
        kept.update(node.input[i] for i in positions if i < len(node.input) and node.input[i])
    return kept


def _cast_initializers(tensors: Iterable[TensorProto], kept: set[str]) -> None:
    from onnx import numpy_helper

    for tensor in tensors:
        if tensor.data_type == _FLOAT and tensor.name not in kept:
            values = half_values(numpy_helper.to_array(tensor), where=tensor.name)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def half_values(values: npt.NDArray[np.float32], *, where: str) -> npt.NDArray[np.float16]:
    """Round to float16.

    Raises:
        BackendError: a value that float16 cannot hold, or one that is not a number.
    """
    if not np.all(np.abs(values) <= _LARGEST):
        raise BackendError(
            f"holds values that float16 does not (it ends at {_LARGEST:.0f})",
            where=where,
        )
    return values.astype(np.float16)


def _cast_attributes(node: NodeProto) -> None:
    """Constants inside a node, and casts to float32."""
    from onnx import numpy_helper

    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == _FLOAT:
            attribute.i = _HALF
        elif attribute.HasField("t") and attribute.t.data_type == _FLOAT:
            values = half_values(numpy_helper.to_array(attribute.t), where=f"{node.op_type} '{node.name}'")
            attribute.t.CopyFrom(numpy_helper.from_array(values, attribute.t.name))


def _cast_edges(graph: GraphProto) -> None:
    """Cast after each float32 input and before each float32 output."""
    from onnx import helper

    inputs = {entry.name for entry in graph.input if entry.type.tensor_type.elem_type == _FLOAT}
    outputs = {entry.name for entry in graph.output if entry.type.tensor_type.elem_type == _FLOAT}
    nodes = [
        helper.make_node("Cast", [name], [_PREFIX + name], f"{_PREFIX}{name}/in", to=_HALF) for name in sorted(inputs)
    ]
    for node in graph.node:
        copy = type(node)()
        copy.CopyFrom(node)
        copy.input[:] = [_PREFIX + name if name in inputs | outputs else name for name in node.input]
        copy.output[:] = [_PREFIX + name if name in outputs else name for name in node.output]
        nodes.append(copy)
    nodes += [
        helper.make_node("Cast", [_PREFIX + name], [name], f"{_PREFIX}{name}/out", to=_FLOAT)
        for name in sorted(outputs)
    ]
    del graph.node[:]
    graph.node.extend(nodes)
