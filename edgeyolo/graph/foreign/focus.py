"""Focus (every other pixel, four times, side by side) and the convolution after it -> one convolution of stride 2.

ncnn has no slices with steps, and the convolution costs the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_CORNERS = {(0, 0), (0, 1), (1, 0), (1, 1)}


def fold_focus(model: ModelProto) -> ModelProto:
    """A copy in which each Focus is part of the convolution that reads it."""
    from onnx import helper, numpy_helper

    result = type(model)()
    result.CopyFrom(model)
    graph = result.graph
    producers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in graph.node:
        joined = producers.get(node.input[0]) if node.op_type == "Conv" else None
        if joined is None or joined.op_type != "Concat" or len(readers[joined.output[0]]) != 1:
            continue
        corners = [_corner(name, producers, constants) for name in joined.input]
        attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        roots = {corner[0] for corner in corners if corner}
        places = [corner[1] for corner in corners if corner]
        weight = constants.get(node.input[1])
        if (
            len(roots) != 1
            or set(places) != _CORNERS
            or len(corners) != 4
            or weight is None
            or not _is_plain(attributes)
        ):
            continue
        values = numpy_helper.to_array(weight)
        weight.CopyFrom(numpy_helper.from_array(_spread(values, places), weight.name))
        node.input[0] = roots.pop()
        del node.attribute[:]
        node.attribute.extend(
            helper.make_attribute(name, value)
            for name, value in (
                ("kernel_shape", [2 * side for side in values.shape[2:]]),
                ("strides", [2, 2]),
                ("pads", [2 * pad for pad in attributes.get("pads", [0] * 4)]),
            )
        )
    return result


def _spread(weight: Any, places: list[tuple[int, int]]) -> Any:
    """(O, 4 x C, k, k) of the joined pixels -> (O, C, 2k, 2k) of the picture."""
    out_chs, in_chs, height, width = weight.shape
    wide = np.zeros((out_chs, in_chs // 4, 2 * height, 2 * width), np.float32)
    for position, (row, column) in enumerate(places):
        part = weight[:, position * in_chs // 4 : (position + 1) * in_chs // 4]
        wide[:, :, row::2, column::2] = part
    return wide


def _is_plain(attributes: Mapping[str, Any]) -> bool:
    ones = all(set(attributes.get(name, [1])) == {1} for name in ("strides", "dilations"))
    return ones and attributes.get("group", 1) == 1 and attributes.get("auto_pad", b"NOTSET") == b"NOTSET"


def _corner(
    name: str, producers: Mapping[str, NodeProto], constants: Mapping[str, Any]
) -> tuple[str, tuple[int, int]] | None:
    """The tensor that every other row and column is taken of, and the first of each; None for anything else."""
    from onnx import numpy_helper

    first: dict[int, int] = {}
    while (node := producers.get(name)) is not None and node.op_type == "Slice":
        if len(node.input) != 5 or not all(given in constants for given in node.input[1:]):
            return None
        starts, ends, axes, steps = (numpy_helper.to_array(constants[given]).tolist() for given in node.input[1:])
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            if axis not in (2, 3) or axis in first or start not in (0, 1) or step != 2 or end < 2**31 - 1:
                return None
            first[axis] = start
        name = node.input[0]
    return (name, (first[2], first[3])) if set(first) == {2, 3} else None
