"""What a Deep Learning Accelerator (Xavier, Orin) can run of a model, and what it must be told of INT8.

DLA has no Q/DQ: TensorRT 8 and 10 give it one range per tensor, and choose the precision of each layer by its time
unless they are told (implicit quantization).
Source: TensorRT developer guide, "Working with DLA", layer support and restrictions;
github.com/NVIDIA/Deep-Learning-Accelerator-SW, tools/qdq-translator/README.md.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from edgeyolo.graph.qdq import weighted_nodes
from edgeyolo.spec.qparams import QParams

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

_RUNS = ("Conv", "ConvTranspose", "Relu", "LeakyRelu", "Sigmoid", "Tanh", "Clip", "Add", "Sub", "Mul", "Concat")
_POOLS = ("MaxPool", "AveragePool")
_HANDS_ON = ("MaxPool", "Concat", "Resize")
_ACTIVATIONS = ("Relu", "LeakyRelu")
_UP_TO_ONE = ("Sigmoid", "HardSigmoid", "Softmax")
_LARGEST_KERNEL, _LARGEST_POOL = 32, 8


@dataclass(frozen=True)
class Implicit:
    """What a network without Q/DQ is told of INT8.

    Attributes:
        ranges: tensor -> largest magnitude.
        precisions: node -> "int8" or "fp16", for each that has a weight.
    """

    ranges: dict[str, float]
    precisions: dict[str, str]


def make_implicit(graph: GraphProto, qparams: QParams) -> Implicit:
    """What the scales say, for a float graph."""
    int8 = {layer.weight for layer in qparams.layers.values() if layer.precision == "int8"}
    precisions = {
        node.name: "int8" if weight in int8 else "fp16"
        for weight, nodes in weighted_nodes(graph).items()
        for node in nodes
        if node.name
    }
    return Implicit(dynamic_ranges(graph, qparams), precisions)


def calibration_cache(ranges: dict[str, float], versions: str) -> str:
    """The same ranges as `trtexec --calib` reads them: a tensor and the hexadecimal float of its scale on each line.

    Args:
        versions: of TensorRT, PEP 440. The first line names the lowest, because TensorRT may leave a cache of another
            release unread.
    """
    bounds = [Version(part.version) for part in SpecifierSet(versions) if part.operator in (">=", ">", "==", "~=")]
    lowest = max(bounds, default=Version("8.5"))
    number = lowest.major * (1000 if lowest.major < 10 else 10000) + lowest.minor * 100 + lowest.micro
    lines = [f"{tensor}: {struct.pack('>f', value / 127).hex()}" for tensor, value in sorted(ranges.items())]
    return "\n".join([f"TRT-{number}-EntropyCalibration2", *lines, ""])


def list_gpu_layers(graph: GraphProto) -> dict[str, str]:
    """Nodes that DLA cannot run -> why; with gpu_fallback they run on the GPU."""
    found = {}
    for node in graph.node:
        reason = _why_not(node)
        if reason and node.op_type != "Constant":
            found[node.name or node.output[0]] = f"{node.op_type}: {reason}"
    return found


def describe_dla(graph: GraphProto) -> list[str]:
    """For people: how much runs where, then each layer that does not run on DLA."""
    on_gpu = list_gpu_layers(graph)
    total = sum(node.op_type != "Constant" for node in graph.node)
    head = f"{total - len(on_gpu)} of {total} nodes can run on DLA, {len(on_gpu)} fall back to the GPU"
    return [head, *(f"GPU: {name} ({reason})" for name, reason in on_gpu.items())]


def dynamic_ranges(graph: GraphProto, qparams: QParams) -> dict[str, float]:
    """Tensor -> largest magnitude, for every tensor whose range the scales tell.

    What int8 layers read has its group's range; so has whatever hands the same values on, and what an activation
    reads: of a value beyond the range of its result, only the negative side is cut, where it is nearly flat. A layer
    with a tensor that is not listed, such as a head output, runs in fp16.
    """
    ranges = {tensor: 127 * group.scale for group in qparams.groups.values() for tensor in group.tensors}
    for node in graph.node:
        if node.op_type in _UP_TO_ONE:
            ranges.setdefault(node.output[0], 1.0)
    nodes = list(graph.node)
    gates = {node.output[0]: str(node.input[0]) for node in nodes if node.op_type == "Sigmoid"}
    changed = True
    while changed:
        before = len(ranges)
        for node in reversed(nodes):
            _spread(node, ranges, gates)
        changed = len(ranges) > before
    return ranges


def _spread(node: NodeProto, ranges: dict[str, float], gates: dict[str, str]) -> None:
    if node.op_type in _HANDS_ON:
        inputs = [name for name in (node.input if node.op_type == "Concat" else node.input[:1]) if name]
        known = [ranges[name] for name in (node.output[0], *inputs) if name in ranges]
        for name in (node.output[0], *inputs) if known else ():
            ranges.setdefault(name, max(known))
    elif node.op_type in _ACTIVATIONS and node.output[0] in ranges:
        ranges.setdefault(node.input[0], ranges[node.output[0]])
    elif node.op_type == "Mul" and node.output[0] in ranges:
        for name in node.input:
            if gates.get(name) in node.input:  # x of x * sigmoid(x)
                ranges.setdefault(gates[name], ranges[node.output[0]])


def _why_not(node: NodeProto) -> str:
    """ "" if DLA runs the node."""
    values = {attribute.name: attribute for attribute in node.attribute}
    kernel = max(values["kernel_shape"].ints) if "kernel_shape" in values else 1
    if node.op_type in _POOLS:
        return f"window {kernel} is over {_LARGEST_POOL}" if kernel > _LARGEST_POOL else ""
    if node.op_type == "Resize":
        return "" if "mode" not in values or values["mode"].s == b"nearest" else "is not nearest"
    if node.op_type == "Concat":
        return "" if values["axis"].i == 1 else "joins another axis than the channels"
    if node.op_type in ("Conv", "ConvTranspose"):
        dilation = int(np.max(values["dilations"].ints)) if "dilations" in values else 1
        if kernel > _LARGEST_KERNEL or dilation > _LARGEST_KERNEL:
            return f"kernel or dilation over {_LARGEST_KERNEL}"
        return ""
    return "" if node.op_type in _RUNS else "is not among the layers that DLA has"
