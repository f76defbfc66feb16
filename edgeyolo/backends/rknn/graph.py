"""The graph as Rockchip's toolkit must have it, so that layers are int8 on the NPU, and with our numbers.

The toolkit takes any graph with Q/DQ, and runs in float16 every layer whose output carries none, such as a convolution
before its activation. So each tensor that is written in int8 says so here. What the toolkit (2.5.0) then makes of
scales is undone before it happens: see `_TOOLKIT_WIDENS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeyolo.graph.batch import with_batch
from edgeyolo.graph.qdq import insert_qdq, int8_layers, load_onnx, weighted_nodes
from edgeyolo.spec.qparams import QParams

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

# A symmetric scale s is read as the range from -128 s to 127 s, of which a symmetric scale is made again: 128 s / 127.
# Values are then rounded once more, of activations always, of weights in layers that run in int8.
_TOOLKIT_WIDENS = 128 / 127
_KEEPS_SCALE = ("Concat", "MaxPool", "Resize", "Split", "Slice")
# Run together with the convolution before them, in one rounding: the scale in between is read, and changes nothing.
_FUSED = ("LeakyRelu", "Relu", "HardSwish", "Clip")


def make_graph(onnx_path: Path, qparams: QParams | None, batch: tuple[int, int]) -> tuple[ModelProto, dict[str, int]]:
    """The graph of a `model.onnx`, with Q/DQ where there are scales, and how many layers run in each precision.

    A layer with scales is float all the same where its output goes to something that has none, such as a residual sum.

    Raises:
        BackendError: not a usable ONNX file, or scales that do not fit it.
    """
    model = with_batch(load_onnx(onnx_path), batch)
    layers = weighted_nodes(model.graph)
    total = sum(len(readers) for readers in layers.values())
    if qparams is None:
        return model, {"float": total}
    weights = int8_layers(model.graph, qparams)
    model = insert_qdq(model, qparams)
    scales = _spread_scales(model.graph)
    int8 = {weight for weight in weights if all(node.output[0] in scales for node in layers[weight])}
    _requantize(model.graph, scales)
    _prepare_constants(model.graph, int8, set(scales.values()))
    count = sum(len(layers[weight]) for weight in int8)
    return model, {"int8": count, "float": total - count}


def _pairs(graph: GraphProto) -> Iterator[tuple[NodeProto, NodeProto]]:
    """QuantizeLinear and the DequantizeLinear that reads it."""
    dequantizers = {node.input[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            yield node, dequantizers[node.output[0]]


def _spread_scales(graph: GraphProto) -> dict[str, str]:
    """Tensor -> initializer with its scale, for what has Q/DQ and for what has the same scale as that."""
    sources = {dequantize.output[0]: quantize.input[0] for quantize, dequantize in _pairs(graph)}
    scales = {quantize.input[0]: quantize.input[1] for quantize, _ in _pairs(graph)}
    nodes = [node for node in graph.node if node.op_type not in ("QuantizeLinear", "DequantizeLinear")]
    makers = {output: node for node in nodes for output in node.output}
    before = -1
    while before != len(scales):
        before = len(scales)
        for node in nodes:
            alike = [*node.output, *(sources.get(name, name) for name in _alike_inputs(node, makers))]
            known = next((scales[name] for name in alike if name in scales), None)
            if known and (node.op_type in _KEEPS_SCALE or node.output[0] in scales):
                scales |= {name: scales.get(name, known) for name in alike}
    return scales


def _alike_inputs(node: NodeProto, makers: dict[str, NodeProto]) -> list[str]:
    """Inputs that have the scale of the output."""
    if node.op_type == "Concat":
        return list(node.input)
    if node.op_type in (*_KEEPS_SCALE, *_FUSED):
        return [node.input[0]]
    if node.op_type == "Mul":  # x * sigmoid(x)
        for x, gate in (node.input, reversed(node.input)):
            if gate in makers and makers[gate].op_type == "Sigmoid" and makers[gate].input[0] == x:
                return [x]
    return []


def _requantize(graph: GraphProto, scales: dict[str, str]) -> None:
    """One pair on each tensor that has a scale, right behind what writes it.

    It is read by what read one before and by what keeps the scale; float layers read the tensor as it was before.
    """
    from onnx import helper

    old = list(_pairs(graph))
    zero = old[0][0].input[2]
    renamed = {dequantize.output[0]: quantize.input[0] for quantize, dequantize in old}
    ends = {output.name for output in graph.output}
    removed = {name for pair in old for node in pair for name in node.output}
    makers = {output: node for node in graph.node for output in node.output}
    nodes: list[NodeProto] = []

    def add_pair(tensor: str) -> None:
        if tensor not in scales or tensor in ends:
            return
        integers, values = f"rknn/{tensor}/int8", f"rknn/{tensor}/float"
        nodes.append(helper.make_node("QuantizeLinear", [tensor, scales[tensor], zero], [integers]))
        nodes.append(helper.make_node("DequantizeLinear", [integers, scales[tensor], zero], [values]))
        renamed[tensor] = values

    for entry in graph.input:
        add_pair(entry.name)
    for node in graph.node:
        if node.output[0] in removed:
            continue
        kept = type(node)()
        kept.CopyFrom(node)
        keeps_scale = node.op_type == "Sigmoid" or bool(_alike_inputs(node, makers))
        for i, name in enumerate(node.input):
            if name in removed:
                kept.input[i] = renamed.get(renamed[name], renamed[name])
            elif keeps_scale:
                kept.input[i] = renamed.get(name, name)
        nodes.append(kept)
        for output in kept.output:
            add_pair(output)
    del graph.node[:]
    graph.node.extend(nodes)


def _prepare_constants(graph: GraphProto, int8: set[str], activation_scales: set[str]) -> None:
    """Scales and weights of which the toolkit makes ours; a weight of 127 becomes 126, as no int8 gives it.

    Args:
        int8: weights of the layers that run in int8.
        activation_scales: names of initializers.
    """
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}

    def replace(name: str, change: float, kind: type, limits: tuple[float, float]) -> None:
        values = numpy_helper.to_array(constants[name]).astype(np.float64) * change
        values = np.clip(np.rint(values) if kind is np.int8 else values, *limits)
        constants[name].CopyFrom(numpy_helper.from_array(values.astype(kind), name))

    anything = (-np.inf, np.inf)
    for name in activation_scales:
        replace(name, 1 / _TOOLKIT_WIDENS, np.float32, anything)
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.output[0] in int8:
            replace(node.input[0], _TOOLKIT_WIDENS, np.int8, (-128, 127))
            replace(node.input[1], 1 / _TOOLKIT_WIDENS, np.float32, anything)
