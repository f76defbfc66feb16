"""Decode as standard ONNX operators behind the raw head maps: for our own runtime, and for other programs.

For our own, what leaves the GPU are the best candidates, some kilobytes instead of megabytes; class-wise NMS is the
runtime's, as it is for raw maps. In float32, also behind a float16 network: float16 tells pixels above 1024 apart in
whole ones only. The decode of each kind of head is in its file of `heads`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from edgeyolo.heads import maps_head_of
from edgeyolo.spec.errors import BackendError, UsageError
from edgeyolo.spec.model import Decode, RowsDecode
from edgeyolo.spec.tensor import INPUT_NAME, ROW_NAMES, ROWS_NAME

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

    from edgeyolo.heads import MapsHead

MOST_CANDIDATES = 3840  # the largest k of TensorRT's TopK
_MIN_OPSET = 18  # ReduceMax and ReduceSum with axes as an input
_PREFIX = "postprocess/"


def append_postprocess(
    model: ModelProto, decode: Decode, *, num_classes: int, candidates: int
) -> tuple[ModelProto, int]:
    """A copy of `model` with the outputs of `spec.model.GraphDecode` in the place of its raw maps.

    Args:
        candidates: how many of the best predictions leave the graph, at least 1; all, where there are fewer.

    Returns:
        The model, and how many candidates leave it.

    Raises:
        UsageError: a number of candidates that TopK does not take.
        BackendError: an opset before 18, an input of unknown size, outputs that are not those raw maps, or a model that
            is decoded inside its graph already.
    """
    if not 1 <= candidates <= MOST_CANDIDATES:
        raise UsageError(f"candidates is {candidates}", hint=f"Give a number from 1 to {MOST_CANDIDATES}")
    result, tail, head = _open(model, decode)
    image_hw = _image_hw(result.graph)
    boxes_xyxy, scores = head.append_rows(tail, head.output_names(), num_classes=num_classes, image_hw=image_hw)
    best, class_ids = _best_class(tail, scores)
    kept = min(candidates, head.count_rows(image_hw))
    _select_best(tail, boxes_xyxy, best, class_ids, kept)
    _declare_outputs(result.graph, dict(zip(ROW_NAMES, ([kept, 4], [kept], [kept]), strict=True)), (1, 1, 6))
    return result, kept


def append_rows(
    model: ModelProto, decode: Decode, layout: Literal["class-scores", "best-class"], *, num_classes: int
) -> tuple[ModelProto, RowsDecode]:
    """A copy of `model` with the output of `spec.model.RowsDecode` in the place of its raw maps, and what describes it.

    Raises:
        BackendError: as in `append_postprocess`.
    """
    result, tail, head = _open(model, decode)
    image_hw = _image_hw(result.graph)
    count = head.count_rows(image_hw)
    boxes_xyxy, scores = head.append_rows(tail, head.output_names(), num_classes=num_classes, image_hw=image_hw)
    if layout == "class-scores":
        corners = tail.split(boxes_xyxy, 2, 2, axis=2)
        middle = tail.add("Mul", tail.add("Add", *corners), tail.constant(0.5))
        cxcywh = tail.add("Concat", middle, tail.add("Sub", *reversed(corners)), axis=2)
        turned = tail.add("Transpose", cxcywh, perm=[0, 2, 1])
        tail.add_named("Concat", turned, scores, outputs=[ROWS_NAME], axis=1)
        shape = [4 + num_classes, count]
    else:
        best, class_ids = _best_class(tail, scores)
        columns = [tail.add("Unsqueeze", part, tail.shape(2)) for part in (best, tail.add("Cast", class_ids, to=1))]
        tail.add_named("Concat", boxes_xyxy, *columns, outputs=[ROWS_NAME], axis=2)
        shape = [count, 6]
    _declare_outputs(result.graph, {ROWS_NAME: shape}, (1,))
    return result, RowsDecode(strides=decode.strides, layout=layout, predictions=count)


def _open(model: ModelProto, decode: Decode) -> tuple[ModelProto, _Nodes, MapsHead]:
    """A copy of the model to append to, and the head that reads its maps; errors as in `append_postprocess`."""
    head = maps_head_of(decode)
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < _MIN_OPSET:
        raise BackendError(f"opset {opset} is too old", hint=f"Export with opset {_MIN_OPSET} or later")
    result = type(model)()
    result.CopyFrom(model)
    found = [entry.name for entry in result.graph.output]
    if found != head.output_names():
        raise BackendError(f"the model gives {found}, and the decode reads {head.output_names()}")
    return result, _Nodes(result.graph), head


class _Nodes:
    """The `Tail` of a graph."""

    def __init__(self, graph: GraphProto) -> None:
        self._graph = graph
        self._count = 0

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Append a node of one output and return its name."""
        return self.add_named(operator, *inputs, outputs=[self._free_name(operator)], **attributes)

    def add_named(self, operator: str, *inputs: str, outputs: list[str], **attributes: Any) -> str:
        """Append a node of these outputs and return the first one's name."""
        from onnx import helper

        self._graph.node.append(
            helper.make_node(operator, list(inputs), outputs, self._free_name(operator), **attributes)
        )
        return outputs[0]

    def split(self, value: str, *sizes: int, axis: int) -> list[str]:
        """Append a Split and return the names of its outputs."""
        parts = [self._free_name("part") for _ in sizes]
        self.add_named("Split", value, self.shape(*sizes), outputs=parts, axis=axis)
        return parts

    def constant(self, values: npt.ArrayLike) -> str:
        """Append a float32 constant and return its name."""
        return self._initializer(np.asarray(values, np.float32))

    def shape(self, *sizes: int) -> str:
        """Append an int64 constant, for Reshape and the like, and return its name."""
        return self._initializer(np.asarray(sizes, np.int64))

    def _initializer(self, values: npt.NDArray[Any]) -> str:
        from onnx import numpy_helper

        name = self._free_name("constant")
        self._graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def _free_name(self, kind: str) -> str:
        self._count += 1
        return f"{_PREFIX}{self._count}_{kind}"


def _image_hw(graph: GraphProto) -> tuple[int, int]:
    entry = next((entry for entry in graph.input if entry.name == INPUT_NAME), None)
    sizes = [axis.dim_value for axis in entry.type.tensor_type.shape.dim] if entry else []
    if len(sizes) != 4 or not all(sizes[2:]):
        raise BackendError(f"input '{INPUT_NAME}' has no fixed height and width", hint="Export with a fixed image size")
    return sizes[2], sizes[3]


def _best_class(tail: _Nodes, scores: str) -> tuple[str, str]:
    """Scores (B, K, N) -> the best of each prediction (B, N), and its class (B, N) int64."""
    best = tail.add("ReduceMax", scores, tail.shape(1), keepdims=0)
    return best, tail.add("ArgMax", scores, axis=1, keepdims=0)


def _select_best(tail: _Nodes, boxes_xyxy: str, best: str, class_ids: str, count: int) -> None:
    """The `count` rows of the highest scores, as the graph's outputs."""
    boxes_name, scores_name, ids_name = ROW_NAMES
    index = f"{_PREFIX}index"
    tail.add_named("TopK", best, tail.shape(count), outputs=[scores_name, index], axis=1, largest=1, sorted=1)
    column = tail.add("Unsqueeze", index, tail.shape(2))
    tail.add_named(
        "GatherElements", boxes_xyxy, tail.add("Concat", *[column] * 4, axis=2), outputs=[boxes_name], axis=1
    )
    tail.add_named("Cast", tail.add("GatherElements", class_ids, index, axis=1), outputs=[ids_name], to=6)  # int32


def _declare_outputs(graph: GraphProto, shapes: dict[str, list[int]], kinds: tuple[int, ...]) -> None:
    """Put these in the place of the graph's outputs: name -> shape without the batch, and ONNX's number of its type."""
    from onnx import helper

    axis = graph.output[0].type.tensor_type.shape.dim[0]
    batch = axis.dim_value or axis.dim_param or "batch"
    del graph.output[:]
    graph.output.extend(
        helper.make_tensor_value_info(name, kind, [batch, *shape])
        for (name, shape), kind in zip(shapes.items(), kinds, strict=True)
    )
