"""A Q/DQ graph whose convolutions give integers too, for engines that only then compute them in integers.

ONNX Runtime fuses a convolution only where its output is quantized, and qparams.json has scales for what convolutions
read. Here each output gets the scale of what its activation gives, and unsigned integers with zero-point 128. Above
zero that changes nothing for ReLU and LeakyReLU: rounding twice to one scale is rounding once. What lies more than 128
steps below zero saturates, and other activations read rounded values: the numbers are not those of fake-quant any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

# Operators that only pass numbers on, so that what they read and what they give is of one scale.
_CARRIERS = ("Concat", "MaxPool", "Resize", "Split", "Slice", "Identity")
_PREFIX = "rounded/"
_ZERO, _SIGMOID = f"{_PREFIX}zero_point", f"{_PREFIX}sigmoid"


def round_outputs(model: ModelProto) -> ModelProto:
    """A copy of a graph from `insert_qdq(unsigned=True)` with Q/DQ on what its int8 convolutions give, too.

    A convolution whose output has no scale, before a float one, stays float with its rounded weights.
    """
    from onnx import numpy_helper

    result = type(model)()
    result.CopyFrom(model)
    graph = result.graph
    steps = _find_steps(graph)
    _unfold_weights(graph, steps)
    renamed: dict[str, str] = {}
    nodes: list[NodeProto] = []
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = renamed.get(name, name)
        nodes.append(node)
        for name in node.output:
            if name in steps:
                nodes += _pair(name, steps[name])
                renamed[name] = nodes[-1].output[0]
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    for name, value in (
        (_ZERO, np.array(128, np.uint8)),
        (f"{_SIGMOID}/zero_point", np.array(0, np.uint8)),
        (f"{_SIGMOID}/scale", np.array(1 / 255, np.float32)),
    ):
        graph.initializer.append(numpy_helper.from_array(value, name))
    return result


def _find_steps(graph: GraphProto) -> dict[str, str]:
    """Tensor -> name of the scale that it is rounded to."""
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    steps: dict[str, str] = {}
    for node in _int8_convolutions(graph):
        chain = _activation(readers, node.output[0])
        if scale := _scale_after(readers, chain[-1]):
            steps |= dict.fromkeys((chain[0], chain[-1]), scale)
            steps |= dict.fromkeys(chain[1:-1], f"{_SIGMOID}/scale")
    for node in graph.node:
        if node.op_type in _CARRIERS and node.input[0] in steps:
            found = {name: scale for name in node.output if (scale := _scale_after(readers, name))}
            steps |= found
    return steps


def _int8_convolutions(graph: GraphProto) -> Iterator[NodeProto]:
    dequantized = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    yield from (node for node in graph.node if node.op_type == "Conv" and node.input[1] in dequantized)


def _activation(readers: Mapping[str, list[NodeProto]], tensor: str) -> list[str]:
    """What a convolution gives, a sigmoid of it where there is one, and what its activation gives."""
    found = readers.get(tensor, [])
    kinds = sorted(node.op_type for node in found)
    if kinds in (["LeakyRelu"], ["Relu"]):
        return [tensor, found[0].output[0]]
    if kinds == ["Mul", "Sigmoid"]:
        sigmoid, product = sorted(found, key=lambda node: str(node.op_type), reverse=True)
        if sigmoid.output[0] in product.input:
            return [tensor, sigmoid.output[0], product.output[0]]
    return [tensor]


def _scale_after(readers: Mapping[str, list[NodeProto]], tensor: str) -> str:
    """Scale of the QuantizeLinear that reads a tensor, itself or what carriers make of it; "" where none does."""
    for node in readers.get(tensor, []):
        if node.op_type == "QuantizeLinear":
            return str(node.input[1])
    for node in readers.get(tensor, []):
        if node.op_type in _CARRIERS:
            for name in node.output:
                if scale := _scale_after(readers, name):
                    return scale
    return ""


def _unfold_weights(graph: GraphProto, steps: Mapping[str, str]) -> None:
    """Weights of convolutions whose output is not rounded as the float numbers that their integers stand for."""
    from onnx import numpy_helper

    values = {tensor.name: tensor for tensor in graph.initializer}
    makers = {node.output[0]: node for node in graph.node}
    for convolution in [node for node in _int8_convolutions(graph) if node.output[0] not in steps]:
        dequantizer = makers[convolution.input[1]]
        integers, scales = (numpy_helper.to_array(values[name]) for name in dequantizer.input[:2])
        weight = integers.astype(np.float32) * scales.reshape(-1, *[1] * (integers.ndim - 1))
        graph.node.remove(dequantizer)
        graph.initializer.append(numpy_helper.from_array(weight, convolution.input[1]))


def _pair(tensor: str, scale: str) -> list[NodeProto]:
    from onnx import helper

    zero = f"{_SIGMOID}/zero_point" if scale.startswith(_SIGMOID) else _ZERO
    integers, floats = f"{_PREFIX}{tensor}/uint8", f"{_PREFIX}{tensor}/float"
    return [
        helper.make_node("QuantizeLinear", [tensor, scale, zero], [integers], name=integers),
        helper.make_node("DequantizeLinear", [integers, scale, zero], [floats], name=floats),
    ]
