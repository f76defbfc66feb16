"""The theoretical receptive field of each output of an ONNX graph, by kernels, strides and dilations on its ways.

Along an axis, cell i of a tensor sees the pixels from `i * stride + low` to `i * stride + high`. Where ways meet, it is
from the lowest to the highest of theirs. A global pool, a reshape or a matrix product has no place: what comes of it
knows something of the whole picture.

Source: for single ways, Araujo et al., Computing Receptive Fields of Convolutional Neural Networks, Distill 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from edgeyolo.spec.receptive_field import ReceptiveField

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

_WINDOWS = ("Conv", "MaxPool", "AveragePool")
_PLACELESS = ("GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "MatMul", "Reshape", "Flatten", "Gemm")


@dataclass(frozen=True)
class _Way:
    """Of the cells of a tensor along an axis, in pixels; a sequence of two is for rows and columns."""

    stride: Fraction
    low: Fraction
    high: Fraction

    def through(self, reach: tuple[Fraction, Fraction], step: Fraction) -> _Way:
        """To a tensor whose cell i is made of the cells from `i * step + reach[0]` to `i * step + reach[1]`."""
        return _Way(self.stride * step, self.low + reach[0] * self.stride, self.high + reach[1] * self.stride)


@dataclass(frozen=True)
class _Seen:
    """By the cells of a tensor; no ways where it has no place."""

    ways: tuple[_Way, ...] = ()
    sees_all: bool = False


def receptive_fields(model: ModelProto, strides: Sequence[int]) -> list[ReceptiveField]:
    """Of each stride, the largest of the outputs that have it, such as classes and boxes of a level.

    Args:
        model: with the raw maps as outputs, of a static size.
        strides: finest first; one that no output has is left out, as all are where boxes leave the graph.
    """
    import onnx

    graph = model.graph
    shapes = _shapes_in(graph)
    if any({node.input[0], node.output[0]} - shapes.keys() for node in graph.node if node.op_type == "Resize"):
        shapes = _shapes_in(onnx.shape_inference.infer_shapes(model).graph)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    pixel = _Way(Fraction(1), Fraction(0), Fraction(0))
    seen = {graph.input[0].name: _Seen((pixel, pixel))}
    for node in graph.node:
        found = _seen_by(node, [seen[name] for name in node.input if name in seen], shapes, constants)
        seen.update(dict.fromkeys(node.output, found) if found is not None else {})
    outputs = [seen[value.name] for value in graph.output if value.name in seen and seen[value.name].ways]
    fields = []
    for stride in strides:
        of_level = [one for one in outputs if one.ways[0].stride == stride]
        if of_level:
            height, width = (max(int(one.ways[i].high - one.ways[i].low) + 1 for one in of_level) for i in (0, 1))
            sees_all = any(one.sees_all for one in of_level)
            fields.append(ReceptiveField(stride=stride, theoretical_hw=(height, width), sees_all=sees_all))
    return fields


def _shapes_in(graph: GraphProto) -> dict[str, list[int]]:
    return {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
    }


def _seen_by(
    node: NodeProto, inputs: Sequence[_Seen], shapes: dict[str, list[int]], constants: dict[str, Any]
) -> _Seen | None:
    """None for a node that the picture has no part in."""
    import onnx

    if not inputs:
        return None
    if node.op_type in _PLACELESS:
        return _Seen(sees_all=True)
    joined = _joined(inputs)
    if not joined.ways:
        return joined
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type in (*_WINDOWS, "ConvTranspose"):
        return _through_window(joined, attributes, is_transposed=node.op_type == "ConvTranspose")
    if node.op_type == "Slice":
        return _through_slice(joined, [constants[name] for name in node.input[1:]])
    if node.op_type == "Resize":
        factors = [Fraction(*pair) for pair in zip(shapes[node.output[0]][2:], shapes[node.input[0]][2:], strict=True)]
        return _Seen(
            tuple(way.through((1 / f - 1, Fraction(0)), 1 / f) for way, f in zip(joined.ways, factors, strict=True)),
            joined.sees_all,
        )
    return joined


def _joined(inputs: Sequence[_Seen]) -> _Seen:
    placed = [one.ways for one in inputs if one.ways]
    ways = tuple(
        _Way(axis[0].stride, min(way.low for way in axis), max(way.high for way in axis))
        for axis in zip(*placed, strict=True)
    )
    return _Seen(ways, any(one.sees_all for one in inputs))


def _through_window(seen: _Seen, attributes: dict[str, Any], *, is_transposed: bool) -> _Seen:
    kernel = attributes["kernel_shape"]
    strides, dilations = (attributes.get(name, [1, 1]) for name in ("strides", "dilations"))
    pads = attributes.get("pads", [0, 0, 0, 0])
    ways = []
    for way, size, stride, dilation, pad in zip(seen.ways, kernel, strides, dilations, pads[:2], strict=True):
        reach = dilation * (size - 1)
        if is_transposed:
            ways.append(way.through((Fraction(pad - reach, stride), Fraction(pad, stride)), Fraction(1, stride)))
        else:
            ways.append(way.through((Fraction(-pad), Fraction(reach - pad)), Fraction(stride)))
    return _Seen(tuple(ways), seen.sees_all)


def _through_slice(seen: _Seen, arguments: Sequence[Any]) -> _Seen:
    """Every n-th row or column, as at the start of some networks; of channels, all."""
    starts, _, axes, *steps = (part.tolist() for part in arguments)
    ways = list(seen.ways)
    for axis, start, step in zip(axes, starts, steps[0] if steps else [1] * len(axes), strict=True):
        if axis in (2, 3):
            ways[axis - 2] = ways[axis - 2].through((Fraction(start), Fraction(start)), Fraction(step))
    return _Seen(tuple(ways), seen.sees_all)
