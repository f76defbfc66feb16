"""What stands between a picture and the network, as ONNX operators before it: scale, mean and std."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from edgeyolo.spec.errors import BackendError
from edgeyolo.spec.model import InputSpec
from edgeyolo.spec.tensor import INPUT_NAME

if TYPE_CHECKING:
    from onnx import ModelProto

_PREFIX = "entry/"


def normalise_inside(model: ModelProto, spec: InputSpec) -> tuple[ModelProto, InputSpec]:
    """A copy of `model` that takes pixel / 255, whatever its mean and std were, and the input that it then has."""
    entry = _open(model)
    mean, std = np.array(spec.mean), np.array(spec.std)
    if (std != 1).any():
        entry.add("Mul", 1 / std)
    if mean.any():
        entry.add("Sub", mean / std)
    return entry.close(), msgspec.structs.replace(spec, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


class _Entry:
    """Nodes that stand before all others, one after the other."""

    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._value = INPUT_NAME

    def add(self, operator: str, per_channel: npt.NDArray[np.float64]) -> None:
        """Append a node of the value so far and (1, 3, 1, 1) numbers."""
        from onnx import helper, numpy_helper

        name = f"{_PREFIX}{len(self._nodes)}_{operator}"
        numbers = per_channel.astype(np.float32).reshape(1, 3, 1, 1)
        self._constants.append(numpy_helper.from_array(numbers, f"{name}_numbers"))
        self._nodes.append(helper.make_node(operator, [self._value, f"{name}_numbers"], [name], name))
        self._value = name

    def close(self) -> ModelProto:
        """Let the network read what the last node gives."""
        graph = self._model.graph
        for node in graph.node:
            for i, name in enumerate(node.input):
                if name == INPUT_NAME:
                    node.input[i] = self._value
        others = [*graph.node]
        del graph.node[:]
        graph.node.extend([*self._nodes, *others])
        graph.initializer.extend(self._constants)
        return self._model


def _open(model: ModelProto) -> _Entry:
    result = type(model)()
    result.CopyFrom(model)
    if INPUT_NAME not in [entry.name for entry in result.graph.input]:
        raise BackendError(f"the graph has no input '{INPUT_NAME}'")
    return _Entry(result)
