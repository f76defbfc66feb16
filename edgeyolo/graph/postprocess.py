"""Decode, best class and the best candidates as standard ONNX operators behind the raw head maps.

What leaves the GPU are some kilobytes instead of megabytes; class-wise NMS of the candidates is the runtime's, as it
is for raw maps. In float32, also behind a float16 network: float16 tells pixels above 1024 apart in whole ones only.
The decode of each kind of head is in its file of `heads`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeyolo.heads import raw_head_of
from edgeyolo.spec.errors import BackendError, UsageError
from edgeyolo.spec.model import Decode
from edgeyolo.spec.tensor import INPUT_NAME, ROW_NAMES

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

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
    head = raw_head_of(decode)
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < _MIN_OPSET:
        raise BackendError(f"opset {opset} is too old", hint=f"Export with opset {_MIN_OPSET} or later")
    result = type(model)()
    result.CopyFrom(model)
    names = head.output_names()
    found = [entry.name for entry in result.graph.output]
    if found != names:
        raise BackendError(f"the model gives {found}, and the decode reads {names}")
    image_hw = _image_hw(result.graph)
    tail = _Nodes(result.graph)
    boxes_xyxy, best, class_ids = head.append_rows(tail, names, num_classes=num_classes, image_hw=image_hw)
    kept = min(candidates, len(head.make_places(image_hw)))
    _select_best(tail, boxes_xyxy, best, class_ids, kept)
    _declare_outputs(result.graph, kept)
    return result, kept


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


def _declare_outputs(graph: GraphProto, count: int) -> None:
    from onnx import TensorProto, helper

    axis = graph.output[0].type.tensor_type.shape.dim[0]
    batch = axis.dim_value or axis.dim_param or "batch"
    shapes = ([batch, count, 4], [batch, count], [batch, count])
    kinds = (TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT32)
    del graph.output[:]
    graph.output.extend(
        helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in zip(ROW_NAMES, kinds, shapes, strict=True)
    )
