"""Decode, best class and the best candidates as standard ONNX operators behind the raw head maps.

What leaves the GPU are some kilobytes instead of megabytes; class-wise NMS of the candidates is the runtime's, as it
is for raw maps. In float32, also behind a float16 network: float16 tells pixels above 1024 apart in whole ones only.
The formulas are those of `spec.model.AnchorDecode` and `DflDecode`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeyolo.spec.errors import BackendError, UsageError
from edgeyolo.spec.model import AnchorDecode, DflDecode, RawDecode
from edgeyolo.spec.tensor import INPUT_NAME, output_names

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

OUTPUTS = ("boxes_xyxy", "scores", "class_ids")
MOST_CANDIDATES = 3840  # the largest k of TensorRT's TopK
_MIN_OPSET = 18  # ReduceMax and ReduceSum with axes as an input
_PREFIX = "postprocess/"
_NO_BOX = 5  # channels of an anchor before its classes


def append_postprocess(
    model: ModelProto, decode: RawDecode, *, num_classes: int, candidates: int
) -> tuple[ModelProto, int]:
    """A copy of `model` with the outputs of `spec.model.GraphDecode` in the place of its raw maps.

    Args:
        candidates: how many of the best predictions leave the graph, at least 1; all, where there are fewer.

    Returns:
        The model, and how many candidates leave it.

    Raises:
        UsageError: a number of candidates that TopK does not take.
        BackendError: an opset before 18, an input of unknown size, or outputs that are not those raw maps.
    """
    if not 1 <= candidates <= MOST_CANDIDATES:
        raise UsageError(f"candidates is {candidates}", hint=f"Give a number from 1 to {MOST_CANDIDATES}")
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < _MIN_OPSET:
        raise BackendError(f"opset {opset} is too old", hint=f"Export with opset {_MIN_OPSET} or later")
    result = type(model)()
    result.CopyFrom(model)
    names = output_names(decode.output_count)
    found = [entry.name for entry in result.graph.output]
    if found != names:
        raise BackendError(f"the model gives {found}, and the decode reads {names}")
    tail = _Tail(result.graph)
    grids = [_grid_hw(result.graph, stride) for stride in decode.strides]
    if isinstance(decode, AnchorDecode):
        boxes_xyxy, best, class_ids = _anchor_rows(tail, names, decode, grids, num_classes)
    else:
        boxes_xyxy, best, class_ids = _dfl_rows(tail, names, decode, grids, num_classes)
    kept = min(candidates, _count(decode, grids))
    _select_best(tail, boxes_xyxy, best, class_ids, kept)
    _declare_outputs(result.graph, kept)
    return result, kept


class _Tail:
    """Appends nodes and constants to a graph, each under a name of its own."""

    def __init__(self, graph: GraphProto) -> None:
        self._graph = graph
        self._count = 0

    def add(self, operator: str, *inputs: str, outputs: tuple[str, ...] = (), **attributes: Any) -> str:
        """Append a node of one output, or of `outputs`, and return the first one's name."""
        from onnx import helper

        self._count += 1
        name = f"{_PREFIX}{self._count}_{operator}"
        self._graph.node.append(helper.make_node(operator, list(inputs), outputs or (name,), name, **attributes))
        return outputs[0] if outputs else name

    def constant(self, values: npt.ArrayLike, kind: type = np.float32) -> str:
        """Append an initializer and return its name."""
        from onnx import numpy_helper

        self._count += 1
        name = f"{_PREFIX}{self._count}_constant"
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(values, kind), name))
        return name

    def shape(self, *sizes: int) -> str:
        """A constant of int64 sizes, for Reshape, Split and the like."""
        return self.constant(sizes, np.int64)


def _grid_hw(graph: GraphProto, stride: int) -> tuple[int, int]:
    entry = next((entry for entry in graph.input if entry.name == INPUT_NAME), None)
    sizes = [axis.dim_value for axis in entry.type.tensor_type.shape.dim] if entry else []
    if len(sizes) != 4 or not all(sizes[2:]):
        raise BackendError(f"input '{INPUT_NAME}' has no fixed height and width", hint="Export with a fixed image size")
    return sizes[2] // stride, sizes[3] // stride


def _count(decode: RawDecode, grids: list[tuple[int, int]]) -> int:
    """Predictions of one picture."""
    anchors = [len(level) for level in decode.anchors_wh] if isinstance(decode, AnchorDecode) else [1] * len(grids)
    return sum(count * height * width for count, (height, width) in zip(anchors, grids, strict=True))


def _cells_xy(height: int, width: int) -> npt.NDArray[np.float32]:
    """(h * w, 2) column and row of each cell."""
    row, column = np.divmod(np.arange(height * width), width)
    return np.stack((column, row), axis=1).astype(np.float32)


def _anchor_rows(
    tail: _Tail, maps: list[str], decode: AnchorDecode, grids: list[tuple[int, int]], num_classes: int
) -> tuple[str, str, str]:
    """Names of boxes (B, A, 4), best score (B, A) and its class (B, A)."""
    levels, offsets, strides, anchors = [], [], [], []
    for name, anchors_wh, stride, (height, width) in zip(maps, decode.anchors_wh, decode.strides, grids, strict=True):
        count, cells = len(anchors_wh), height * width
        by_anchor = tail.add("Reshape", name, tail.shape(0, count, _NO_BOX + num_classes, cells))
        by_cell = tail.add("Transpose", by_anchor, perm=[0, 1, 3, 2])
        levels.append(tail.add("Reshape", by_cell, tail.shape(0, count * cells, _NO_BOX + num_classes)))
        offsets.append(np.tile(_cells_xy(height, width) - 0.5, (count, 1)))
        strides.append(np.full((count * cells, 1), stride))
        anchors.append(np.repeat(np.asarray(anchors_wh), cells, axis=0))
    rows = tail.add("Sigmoid", tail.add("Concat", *levels, axis=1))
    parts = tuple(f"{_PREFIX}{name}" for name in ("xy", "wh", "objectness", "classes"))
    xy, wh, objectness, classes = parts
    tail.add("Split", rows, tail.shape(2, 2, 1, num_classes), outputs=parts, axis=2)
    offset = tail.constant(np.concatenate(offsets)[None])
    cells_xy = tail.add("Add", tail.add("Mul", xy, tail.constant(2.0)), offset)
    centre = tail.add("Mul", cells_xy, tail.constant(np.concatenate(strides)[None]))
    half_wh = tail.add("Mul", tail.add("Mul", wh, wh), tail.constant(2.0 * np.concatenate(anchors)[None]))
    boxes_xyxy = tail.add("Concat", tail.add("Sub", centre, half_wh), tail.add("Add", centre, half_wh), axis=2)
    scores = tail.add("Mul", objectness, classes)
    best = tail.add("ReduceMax", scores, tail.shape(2), keepdims=0)
    return boxes_xyxy, best, tail.add("ArgMax", scores, axis=2, keepdims=0)


def _dfl_rows(
    tail: _Tail, maps: list[str], decode: DflDecode, grids: list[tuple[int, int]], num_classes: int
) -> tuple[str, str, str]:
    """As `_anchor_rows`."""
    logits, distances, points, strides = [], [], [], []
    steps = tail.constant(np.arange(decode.bins).reshape(1, 1, -1, 1))
    for level, (stride, (height, width)) in enumerate(zip(decode.strides, grids, strict=True)):
        cells = height * width
        logits.append(tail.add("Reshape", maps[2 * level], tail.shape(0, num_classes, cells)))
        by_side = tail.add("Reshape", maps[2 * level + 1], tail.shape(0, 4, decode.bins, cells))
        weighted = tail.add("Mul", tail.add("Softmax", by_side, axis=2), steps)
        distances.append(tail.add("ReduceSum", weighted, tail.shape(2), keepdims=0))
        points.append(_cells_xy(height, width) + 0.5)
        strides.append(np.full((cells, 1), stride))
    sides = tail.add("Transpose", tail.add("Concat", *distances, axis=2), perm=[0, 2, 1])  # (B, A, 4)
    parts = (f"{_PREFIX}left_top", f"{_PREFIX}right_bottom")
    tail.add("Split", sides, tail.shape(2, 2), outputs=parts, axis=2)
    point = tail.constant(np.concatenate(points)[None])
    corners = tail.add("Concat", tail.add("Sub", point, parts[0]), tail.add("Add", point, parts[1]), axis=2)
    boxes_xyxy = tail.add("Mul", corners, tail.constant(np.concatenate(strides)[None]))
    by_class = tail.add("Concat", *logits, axis=2)  # (B, K, A)
    best = tail.add("Sigmoid", tail.add("ReduceMax", by_class, tail.shape(1), keepdims=0))
    return boxes_xyxy, best, tail.add("ArgMax", by_class, axis=1, keepdims=0)


def _select_best(tail: _Tail, boxes_xyxy: str, best: str, class_ids: str, count: int) -> None:
    """The `count` rows of the highest scores, as the graph's outputs."""
    index = f"{_PREFIX}index"
    tail.add("TopK", best, tail.shape(count), outputs=(OUTPUTS[1], index), axis=1, largest=1, sorted=1)
    column = tail.add("Unsqueeze", index, tail.shape(2))
    tail.add("GatherElements", boxes_xyxy, tail.add("Concat", *[column] * 4, axis=2), outputs=(OUTPUTS[0],), axis=1)
    tail.add("Cast", tail.add("GatherElements", class_ids, index, axis=1), outputs=(OUTPUTS[2],), to=6)  # int32


def _declare_outputs(graph: GraphProto, count: int) -> None:
    from onnx import TensorProto, helper

    axis = graph.output[0].type.tensor_type.shape.dim[0]
    batch = axis.dim_value or axis.dim_param or "batch"
    shapes = ([batch, count, 4], [batch, count], [batch, count])
    kinds = (TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT32)
    del graph.output[:]
    graph.output.extend(
        helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in zip(OUTPUTS, kinds, shapes, strict=True)
    )
