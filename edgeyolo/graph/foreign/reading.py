"""Reads an ONNX file of others, within bounds, and refuses what cannot go the way, by operator and node."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeyolo.graph.qdq import load_onnx
from edgeyolo.spec.errors import BackendError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

_MOST_BYTES = 1 << 30
_MOST_NODES = 20_000
_SUPPRESSIONS = ("NonMaxSuppression", "EfficientNMS_TRT", "BatchedNMS_TRT", "BatchedNMSDynamic_TRT", "multiclass_nms3")
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "ConvInteger",
              "QLinearMatMul", "MatMulInteger")  # fmt: skip
_OWN_DOMAINS = ("", "ai.onnx")
_WRONG_KINDS = {10: "float16", 16: "bfloat16", 11: "float64"}  # of TensorProto.DataType


def node_label(node: NodeProto) -> str:
    """How messages call a node."""
    return f"{node.op_type} '{node.name or node.output[0]}'"


def read_foreign(path: Path) -> ModelProto:
    """Parse and check an ONNX file; nothing in it is run.

    Raises:
        MissingPackageError: no onnx package.
        BackendError: not readable, cut off, too large, with values in other files, or with something that cannot be
            carried: control flow, an unknown operator, suppression of boxes, Q/DQ, half precision, several inputs.
    """
    _check_size(path)
    model = load_onnx(path)
    if len(model.graph.node) > _MOST_NODES:
        raise BackendError(f"has {len(model.graph.node)} nodes, and {_MOST_NODES} is the most", where=path)
    _check_nodes(model, path)
    _check_kinds(model.graph, path)
    _check_inputs(model.graph, path)
    return model


def picture_input(graph: GraphProto) -> str:
    """Name of the one input that is no weight."""
    weights = {tensor.name for tensor in graph.initializer}
    return next(str(entry.name) for entry in graph.input if entry.name not in weights)


def _check_size(path: Path) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise BackendError(f"cannot be read ({error.strerror})", where=path) from None
    if size > _MOST_BYTES:
        raise BackendError(f"has {size >> 20} MiB, and {_MOST_BYTES >> 20} is the most", where=path)


def _check_nodes(model: ModelProto, path: Path) -> None:
    import onnx

    opset = next((entry.version for entry in model.opset_import if entry.domain in _OWN_DOMAINS), 0)
    if model.functions:
        raise BackendError(
            f"defines operators of its own, such as '{model.functions[0].name}'", where=path, hint="Export without them"
        )
    for node in model.graph.node:
        label = node_label(node)
        if node.op_type in _SUPPRESSIONS:
            hint = "Export without NMS: it is the runtime's work here"
            raise BackendError(f"{label} chooses boxes inside the graph", where=path, hint=hint)
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            hint = "Export with a fixed size and without branches or loops that depend on values"
            raise BackendError(f"{label} is control flow", where=path, hint=hint)
        if node.op_type in _QUANTIZED:
            hint = "Import the float graph that it was made of, and let `edgeyolo quantize` choose the scales"
            raise BackendError(f"{label}: the graph is quantized already", where=path, hint=hint)
        if node.domain not in _OWN_DOMAINS or not onnx.defs.has(node.op_type, opset):
            what = f"{label} is no operator of ONNX {opset}" + (f" (domain '{node.domain}')" if node.domain else "")
            raise BackendError(what, where=path, hint="Export with standard operators only")


def _check_kinds(graph: GraphProto, path: Path) -> None:
    hint = "Export in float32; deploy chooses half precision for the boards that have it"
    for tensor in graph.initializer:
        if tensor.data_type in _WRONG_KINDS:
            raise BackendError(f"weight '{tensor.name}' is {_WRONG_KINDS[tensor.data_type]}", where=path, hint=hint)
    for entry in (*graph.input, *graph.output):
        kind = entry.type.tensor_type.elem_type
        if kind in _WRONG_KINDS:
            raise BackendError(f"'{entry.name}' is {_WRONG_KINDS[kind]}", where=path, hint=hint)


def _check_inputs(graph: GraphProto, path: Path) -> None:
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [entry for entry in graph.input if entry.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(f"'{entry.name}'" for entry in inputs) or "none"
        raise BackendError(
            f"has {len(inputs)} inputs ({names}), and one, the picture, is read", where=path, hint="Export only that"
        )
    kind = inputs[0].type.tensor_type
    if kind.elem_type != 1 or len(kind.shape.dim) != 4 or kind.shape.dim[1].dim_value not in (0, 3):
        sizes = [axis.dim_value or axis.dim_param or "?" for axis in kind.shape.dim]
        raise BackendError(
            f"input '{inputs[0].name}' is {sizes}, not (B, 3, H, W) float32",
            where=path,
            hint="Export with the picture as float32, channels first",
        )
