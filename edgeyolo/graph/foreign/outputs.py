"""The outputs of a foreign graph in the form that its head reads: raw maps where they leave, or rows of one form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgeyolo.graph.foreign.describe import Described
from edgeyolo.spec.tensor import output_names

if TYPE_CHECKING:
    from onnx import ModelProto

_PREFIX = "rows/"


def with_outputs(model: ModelProto, described: Described) -> ModelProto:
    """A copy that ends in "map_0", "map_1" ...; what nothing reads any more is gone."""
    import onnx

    result = type(model)()
    result.CopyFrom(model)
    tensors = described.tensors or (_append_rows(result, described),)
    _rename(result, dict(zip(tensors, output_names(len(tensors)), strict=True)))
    del result.graph.output[:], result.graph.value_info[:]
    names = output_names(len(tensors))
    result.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    _drop_unread(result)
    for key in ("names", "description", "author"):
        _forget(result, key)
    return onnx.shape_inference.infer_shapes(result, data_prop=True)


def _append_rows(model: ModelProto, described: Described) -> str:
    """Nodes that make (1, C, N) of the file's own rows: boxes in pixels, scores as shares; its name."""
    rows = described.rows
    assert rows is not None
    tail = _Tail(model)
    parts = [
        name if last else tail.add("Transpose", name, perm=[0, 2, 1])
        for name, last in zip(rows.outputs, rows.rows_last, strict=True)
    ]
    whole = parts[0] if len(parts) == 1 else tail.add("Concat", *parts, axis=1)
    if not (described.is_share or described.are_logits):
        return whole if whole not in rows.outputs else tail.add("Identity", whole)
    boxes, scores = f"{_PREFIX}boxes", f"{_PREFIX}scores"
    sizes = tail.constant(np.asarray([4, rows.channels - 4], np.int64))
    tail.append("Split", [whole, sizes], [boxes, scores], axis=1)
    if described.is_share:
        height, width = described.input.image_hw
        factors = np.asarray([width, height] * 2, np.float32).reshape(1, 4, 1)
        boxes = tail.add("Mul", boxes, tail.constant(factors))
    if described.are_logits:
        scores = tail.add("Sigmoid", scores)
    return tail.add("Concat", boxes, scores, axis=1)


class _Tail:
    """Appends nodes under names of their own."""

    def __init__(self, model: ModelProto) -> None:
        self._graph, self._count = model.graph, 0

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """One node of one output; its name."""
        self._count += 1
        name = f"{_PREFIX}{self._count}_{operator}"
        self.append(operator, list(inputs), [name], **attributes)
        return name

    def append(self, operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        """One node."""
        from onnx import helper

        self._graph.node.append(helper.make_node(operator, inputs, outputs, f"{outputs[0]}/node", **attributes))

    def constant(self, values: Any) -> str:
        """An initializer; its name."""
        from onnx import numpy_helper

        name = f"{_PREFIX}constant_{len(self._graph.initializer)}"
        self._graph.initializer.append(numpy_helper.from_array(values, name))
        return name


def _rename(model: ModelProto, names: dict[str, str]) -> None:
    """Old -> new; another tensor that has a new name already gets one of its own."""
    taken = {name: f"{name}/other" for name in names.values() if name not in names}
    for node in model.graph.node:
        node.input[:] = [(taken | names).get(name, name) for name in node.input]
        node.output[:] = [(taken | names).get(name, name) for name in node.output]
    for tensor in model.graph.initializer:
        tensor.name = taken.get(tensor.name, tensor.name)


def _drop_unread(model: ModelProto) -> None:
    """Nodes and weights that no output needs any more."""
    graph = model.graph
    needed, kept = {entry.name for entry in graph.output}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(type(node).FromString(node.SerializeToString()))
    weights = [type(t).FromString(t.SerializeToString()) for t in graph.initializer if t.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(weights)


def _forget(model: ModelProto, key: str) -> None:
    kept = [entry for entry in model.metadata_props if entry.key != key]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
