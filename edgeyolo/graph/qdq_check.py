"""Does TensorRT run an ONNX graph with Q/DQ as it is meant? Reads any such graph, ours or another tool's.

Rules: "Explicit Quantization" of the TensorRT developer guide. A convolution is int8 when its input and its weight
both come from DequantizeLinear. TensorRT moves QuantizeLinear back across operators that only hand values on, which
works without a reformat only when everything on the way has one scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_HANDS_ON = ("Concat", "MaxPool", "Resize", "Slice", "Split", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten")
_KEEPS = ("QuantizeLinear", "DequantizeLinear", "Cast", "Transpose")  # what a weight may go through
_INT8_READERS = (*_LAYERS, "Add", "GlobalAveragePool", "AveragePool")
_OTHER_INTEGERS = (np.uint8, np.int16, np.uint16)
_FOREIGN = ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear")


@dataclass(frozen=True)
class QdqReport:
    """What the check found.

    Attributes:
        int8: names of the convolutions (and linear layers) that run in int8.
        floats: those that do not -> why.
        problems: faults that cost accuracy, speed or the build; empty for a clean graph.
        crossings: tensors that are read both in int8 and in float: one reformat each, which the float readers need.
    """

    int8: tuple[str, ...]
    floats: dict[str, str]
    problems: tuple[str, ...]
    crossings: tuple[str, ...]


def check_qdq(model: ModelProto) -> QdqReport:
    """Check the Q/DQ of a graph."""
    graph = _Graph(model.graph)
    layers = [node for node in graph.nodes if node.op_type in _LAYERS and graph.has_weight(node)]
    why = {_name(node): graph.why_float(node) for node in layers}
    problems = [
        *graph.no_pairs(),
        *graph.foreign_operators(),
        *graph.one_sided(layers),
        *graph.bad_zero_points(),
        *graph.int32_biases(layers),
        *graph.bad_axes(layers),
        *graph.unequal_pairs(),
        *graph.unread_pairs(),
        *graph.two_scales(),
    ]
    return QdqReport(
        tuple(name for name, reason in why.items() if not reason),
        {name: reason for name, reason in why.items() if reason},
        tuple(dict.fromkeys(problems)),
        tuple(graph.crossings()),
    )


def _name(node: NodeProto) -> str:
    return str(node.name or node.output[0])


class _Graph:
    """Questions about one graph."""

    def __init__(self, graph: GraphProto) -> None:
        from onnx import numpy_helper

        self.nodes = list(graph.node)
        self.values: dict[str, npt.NDArray[np.generic]] = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer
        }
        for node in self.nodes:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
                self.values[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        self.producer = {output: node for node in self.nodes for output in node.output}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.outputs = {entry.name for entry in graph.output}

    def has_weight(self, node: NodeProto) -> bool:
        """Whether its second input is constant, quantized or not: attention multiplies two tensors of a picture."""
        name = node.input[1]
        while (above := self.producer.get(name)) is not None and above.op_type in _KEEPS:
            name = above.input[0]
        return name in self.values

    def why_float(self, layer: NodeProto) -> str:
        """Why a layer is not int8; "" if it is."""
        inputs, weight = (self._is_dequantized(name) for name in layer.input[:2])
        if inputs and weight:
            return ""
        if inputs or weight:
            return "only its input is quantized" if inputs else "only its weight is quantized"
        if self._leads_out(layer):
            return "head output"
        if self._is_pooled(layer.input[0]):
            return "attention: reads a pooled tensor"
        return "neither its input nor its weight is quantized"

    def no_pairs(self) -> Iterator[str]:
        """A float graph."""
        if not any(self._pairs()) and not any(node.op_type in _FOREIGN for node in self.nodes):
            yield "the graph has no QuantizeLinear and no DequantizeLinear: nothing runs in int8"

    def foreign_operators(self) -> Iterator[str]:
        """Operators of other runtimes' quantized form."""
        for node in self.nodes:
            if node.op_type in _FOREIGN:
                yield f"{_name(node)}: TensorRT has no {node.op_type}; it reads QuantizeLinear and DequantizeLinear"

    def one_sided(self, layers: Iterable[NodeProto]) -> Iterator[str]:
        """Layers with one quantized side, which run in float and pay for the Q/DQ as well."""
        for layer in layers:
            reason = self.why_float(layer)
            if reason.startswith("only"):
                yield f"{_name(layer)}: {reason}, so it runs in float"

    def bad_zero_points(self) -> Iterator[str]:
        """TensorRT quantizes symmetrically, to signed integers."""
        for node in self._pairs():
            is_quantize, given = node.op_type == "QuantizeLinear", len(node.input) > 2 and node.input[2]
            zero = self.values.get(node.input[2]) if given else None
            typed = zero if is_quantize or zero is not None else self.values.get(node.input[0])
            if given and zero is None:
                yield f"{_name(node)}: its zero point is not a constant"
            elif is_quantize and zero is None and not _is_signed_by_attribute(node):
                yield f"{_name(node)}: no zero point, which makes it uint8; TensorRT needs int8"
            elif typed is not None and typed.dtype in _OTHER_INTEGERS:
                yield f"{_name(node)}: {typed.dtype}; TensorRT needs int8"
            elif zero is not None and np.any(zero):
                yield f"{_name(node)}: zero point is not 0"

    def int32_biases(self, layers: Iterable[NodeProto]) -> Iterator[str]:
        """ONNX Runtime's quantizer writes them, and TensorRT's parser refuses them."""
        for layer in layers:
            if len(layer.input) > 2 and self._is_dequantized(layer.input[2]):
                yield f"{_name(layer)}: its bias is quantized; TensorRT takes float biases only"

    def bad_axes(self, layers: Iterable[NodeProto]) -> Iterator[str]:
        """Weights have scales per output channel or one; activations have one."""
        for layer in layers:
            node = self.producer.get(layer.input[1])
            if node is not None and node.op_type == "DequantizeLinear" and self._channels(node) > 1:
                axis, wanted = _axis(node), _output_axis(layer)
                if axis != wanted:
                    yield f"{_name(layer)}: weight scales are on axis {axis}, output channels on axis {wanted}"
        for node in self._pairs():
            if not self._is_constant(node.input[0]) and self._channels(node) > 1:
                yield f"{_name(node)}: an activation has {self._channels(node)} scales; TensorRT takes one"

    def unequal_pairs(self) -> Iterator[str]:
        """A Q and the DQ behind it must agree."""
        for node in self._pairs():
            before = self.producer.get(node.input[0])
            own = self.values.get(node.input[1])
            if own is None:
                yield f"{_name(node)}: its scale is not a constant"
            elif node.op_type == "DequantizeLinear" and before is not None and before.op_type == "QuantizeLinear":
                other = self.values.get(before.input[1])
                if other is not None and not np.array_equal(own, other):
                    yield f"{_name(node)}: dequantizes with another scale than {_name(before)} quantizes with"

    def unread_pairs(self) -> Iterator[str]:
        """Pairs that nothing fuses with: they only round, and each is two kernels more."""
        for node in self._pairs():
            if node.op_type == "QuantizeLinear":
                for reader in self._reading(node.output[0]):
                    if reader.op_type != "DequantizeLinear":
                        yield f"{_name(node)}: is read by {reader.op_type}, not by DequantizeLinear"
                continue
            reached, readers = self._final_readers(node.output[0])
            if reached & self.outputs:
                yield f"{_name(node)}: the pair stands at an output of the graph, where nothing fuses with it"
            for reader in readers:
                if not self._takes_int8(reader):
                    yield f"{_name(node)}: is read by {reader.op_type} '{_name(reader)}', which runs in float"

    def two_scales(self) -> Iterator[str]:
        """Tensors that hold the same values, quantized with different scales: requantized in between."""
        root = self._same_values()
        scales: dict[str, dict[float, str]] = {}
        for node in self.nodes:
            value = self.values.get(node.input[1]) if node.op_type == "QuantizeLinear" else None
            if value is not None and value.size == 1 and node.input[0] not in self.values:
                scales.setdefault(root(node.input[0]), {}).setdefault(float(value.reshape(())), node.input[0])
        for found in scales.values():
            if len(found) > 1:
                text = ", ".join(f"'{tensor}' {scale:.6g}" for scale, tensor in sorted(found.items()))
                yield f"one tensor with {len(found)} scales: {text}"

    def crossings(self) -> Iterator[str]:
        """Tensors with int8 and float readers, directly or behind what only hands them on."""
        for tensor, direct in self.readers.items():
            is_handed_on = len(direct) == 1 and self._hands_on(direct[0]) and tensor not in self.outputs
            if tensor in self.values or is_handed_on:  # reported where it is handed on to
                continue
            reached, readers = self._final_readers(tensor)
            kinds = {reader.op_type for reader in readers}
            others = sorted(kinds - {"QuantizeLinear"}) + ["an output"] * bool(reached & self.outputs)
            if "QuantizeLinear" in kinds and others:
                yield f"'{tensor}' is read in int8 and in float by {', '.join(others)}"

    def _pairs(self) -> Iterator[NodeProto]:
        return (node for node in self.nodes if node.op_type in ("QuantizeLinear", "DequantizeLinear"))

    def _reading(self, tensor: str) -> list[NodeProto]:
        return self.readers.get(tensor, [])

    def _hands_on(self, node: NodeProto) -> bool:
        """Its output holds values of its input, and none but these."""
        return node.op_type in _HANDS_ON and (node.op_type != "Resize" or _is_nearest(node))

    def _handed_in(self, node: NodeProto) -> list[str]:
        """The inputs whose values a node of `_HANDS_ON` hands on."""
        return [name for name in (node.input if node.op_type == "Concat" else node.input[:1]) if name]

    def _final_readers(self, tensor: str) -> tuple[set[str], list[NodeProto]]:
        """The tensors that hold values of `tensor`, itself included, and the nodes that compute with any of them."""
        reached, final, pending = {tensor}, [], [tensor]
        while pending:
            name = pending.pop()
            for reader in self._reading(name):
                if not self._hands_on(reader):
                    final.append(reader)
                elif name in self._handed_in(reader):
                    pending += [output for output in reader.output if output not in reached]
                    reached.update(reader.output)
        return reached, final

    def _is_dequantized(self, tensor: str) -> bool:
        """Comes from DequantizeLinear, perhaps through operators that only hand values on."""
        node = self.producer.get(tensor)
        if node is not None and self._hands_on(node):
            return all(self._is_dequantized(name) for name in self._handed_in(node))
        return node is not None and node.op_type == "DequantizeLinear"

    def _takes_int8(self, reader: NodeProto) -> bool:
        return reader.op_type in (*_INT8_READERS, "QuantizeLinear")

    def _is_constant(self, tensor: str) -> bool:
        """Stored in the file, perhaps quantized on the way from there."""
        node = self.producer.get(tensor)
        return tensor in self.values or (
            node is not None and node.op_type == "QuantizeLinear" and node.input[0] in self.values
        )

    def _channels(self, node: NodeProto) -> int:
        value = self.values.get(node.input[1])
        return 1 if value is None else int(value.size)

    def _leads_out(self, layer: NodeProto) -> bool:
        """No other layer reads anything that is computed from it."""
        pending, seen = list(layer.output), set()
        while pending:
            for node in self._reading(pending.pop()):
                if node.op_type in _LAYERS:
                    return False
                if node.output[0] not in seen:
                    seen.update(node.output)
                    pending.extend(node.output)
        return True

    def _is_pooled(self, tensor: str) -> bool:
        """Computed from nothing but what is reduced to one number per channel or per position."""
        pending, seen = [tensor], set[str]()
        while pending:
            node = self.producer.get(pending.pop())
            if node is None:
                return False
            if node.op_type in ("GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax"):
                continue
            live = {name for name in node.input if name and name not in self.values} - seen
            seen |= live
            pending.extend(live)
        return True

    def _same_values(self) -> _Roots:
        roots = _Roots()
        for node in self.nodes:
            if self._hands_on(node):
                names = (*self._handed_in(node), *node.output)
                roots.join([name for name in names if name not in self.values])
            elif node.op_type in ("QuantizeLinear", "DequantizeLinear") and not self._is_constant(node.input[0]):
                roots.join([node.input[0], node.output[0]])
        return roots


class _Roots:
    """Union-find over names."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def __call__(self, name: str) -> str:
        while (above := self._parent.get(name, name)) != name:
            name = above
        return name

    def join(self, names: list[str]) -> None:
        for name in names[1:]:
            one, two = self(names[0]), self(name)
            if one != two:
                self._parent[two] = one


def _is_nearest(node: NodeProto) -> bool:
    mode = next((attribute.s for attribute in node.attribute if attribute.name == "mode"), b"nearest")
    return bool(mode == b"nearest")


def _is_signed_by_attribute(node: NodeProto) -> bool:
    """Opset 21 may state the type as an attribute; 3 is TensorProto.INT8."""
    return any(attribute.name == "output_dtype" and attribute.i == 3 for attribute in node.attribute)


def _axis(node: NodeProto) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "axis"), 1)


def _output_axis(layer: NodeProto) -> int:
    if layer.op_type == "Gemm":
        return 0 if any(attribute.name == "transB" and attribute.i for attribute in layer.attribute) else 1
    return 0 if layer.op_type == "Conv" else 1
