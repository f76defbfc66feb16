"""A graph for programs that read old operator sets only: opset 13, and float weights before QuantizeLinear."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeyolo.spec.errors import BackendError

if TYPE_CHECKING:
    from onnx import ModelProto

_OLD_OPSET, _OLD_IR = 13, 7  # the first with per-channel Q/DQ
# Operators that mean the same at opset 13 and in the exporter's opset, though they were defined anew in between, and
# attributes that came after it with the value that says "as before".
_SAME = (
    *("Conv", "LeakyRelu", "Relu", "Sigmoid", "HardSigmoid", "Clip", "Mul", "Add", "Sub", "Div", "Concat"),
    *("MaxPool", "GlobalAveragePool", "GlobalMaxPool", "ConvTranspose", "Transpose", "Constant", "Gemm", "MatMul"),
    *("Softmax", "Flatten", "DequantizeLinear", "Identity", "Where", "Pow", "Exp", "Min"),
)
_AXES_BY_INPUT = ("ReduceMean", "ReduceMax")  # since opset 18; an attribute before
_UNCHANGED: dict[str, dict[str, object]] = {
    **{operator: {} for operator in _SAME},
    "Reshape": {"allowzero": 0},
    "AveragePool": {"dilations": [1, 1]},
    "Resize": {"antialias": 0, "keep_aspect_ratio_policy": b"stretch"},
    "QuantizeLinear": {"saturate": 1},
    **{operator: {"noop_with_empty_axes": 0} for operator in _AXES_BY_INPUT},
}


def float_weights(model: ModelProto) -> ModelProto:
    """A copy whose weights are float32 with QuantizeLinear and DequantizeLinear in the place of stored int8.

    They lie on the grid, so that quantizing them again gives the same integers.
    """
    from onnx import NodeProto, helper, numpy_helper

    result = type(model)()
    result.CopyFrom(model)
    tensors = {tensor.name: tensor for tensor in result.graph.initializer}
    nodes: list[NodeProto] = []
    for node in result.graph.node:
        weight = node.input[0] if node.input else ""
        if node.op_type == "DequantizeLinear" and weight in tensors:
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
            integers = numpy_helper.to_array(tensors[weight])
            shape = [1] * integers.ndim
            shape[axis] = -1
            values = integers * numpy_helper.to_array(tensors[node.input[1]]).reshape(shape)
            tensors[weight].CopyFrom(numpy_helper.from_array(np.asarray(values, np.float32), weight))
            quantized = f"{weight}/quantized"
            name = f"{node.name}/quantize"
            nodes.append(helper.make_node("QuantizeLinear", list(node.input), [quantized], name, axis=axis))
            node.input[0] = quantized
        nodes.append(node)
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del result.graph.node[:]
    result.graph.node.extend(copies)
    return result


def reduces_by_input(model: ModelProto) -> bool:
    """Whether a graph has a reduction whose axes are an input, which opset 18 brought."""
    return any(node.op_type in _AXES_BY_INPUT and len(node.input) > 1 for node in model.graph.node)


def lower_opset(model: ModelProto) -> ModelProto:
    """A copy at opset 13, of operators that mean the same there.

    Raises:
        BackendError: an operator or attribute that opset 13 does not have.
    """
    import onnx

    result = type(model)()
    result.CopyFrom(model)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in result.graph.initializer}
    for node in result.graph.node:
        where = f"{node.op_type} '{node.name}'"
        if node.op_type not in _UNCHANGED and not _is_as_old(node.op_type):
            raise BackendError(
                "is an operator that opset 13 does not have, or defines differently",
                where=where,
                hint="Train the model with another activation (leaky_relu, silu or relu)",
            )
        later = _UNCHANGED.get(node.op_type, {})
        kept = [attribute for attribute in node.attribute if attribute.name not in later]
        for attribute in node.attribute:
            if attribute.name in later and onnx.helper.get_attribute_value(attribute) != later[attribute.name]:
                raise BackendError(f"attribute {attribute.name} is newer than opset 13", where=where)
        copies = [onnx.AttributeProto.FromString(attribute.SerializeToString()) for attribute in kept]
        del node.attribute[:]
        node.attribute.extend(copies)
        if node.op_type in _AXES_BY_INPUT and len(node.input) > 1:
            if node.input[1] not in constants:
                raise BackendError("reduces axes that are computed, which opset 13 cannot", where=where)
            node.attribute.append(onnx.helper.make_attribute("axes", constants[node.input.pop()].tolist()))
    del result.opset_import[:]
    result.opset_import.append(onnx.helper.make_opsetid("", _OLD_OPSET))
    result.ir_version = _OLD_IR
    try:
        onnx.checker.check_model(result, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BackendError(f"the graph has no form at opset 13 ({error})") from None
    return result


def _is_as_old(operator: str) -> bool:
    """Whether it has been defined since opset 13 as it is now."""
    from onnx import defs

    try:
        return bool(defs.get_schema(operator).since_version <= _OLD_OPSET)
    except defs.SchemaError:
        return False
