"""What stands between a picture and the network, as ONNX operators before it: channels, scale, mean and std."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from edgeyolo.geometry.network_input import scaling_of
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


def take_bytes(model: ModelProto, spec: InputSpec) -> ModelProto:
    """A copy of `model` that takes letterboxed pictures as they are, (B, H, W, 3) uint8 BGR.

    In float32, in the same steps as `geometry.network_input` on the processor: the same numbers to the bit.
    """
    entry = _open(model)
    entry.add_plain("Cast", to=1)
    entry.add_plain("Transpose", perm=[0, 3, 1, 2])
    if spec.colour_order == "rgb":
        entry.add_reversed()
    factor, offset = scaling_of(spec)
    entry.add("Mul", factor)
    if offset.any():
        entry.add("Sub", offset)
    result = entry.close()
    (given,) = (found for found in result.graph.input if found.name == INPUT_NAME)
    kind = given.type.tensor_type
    batch = kind.shape.dim[0]
    first = batch.dim_value or batch.dim_param or None
    kind.CopyFrom(_bytes_of([first, *spec.image_hw, 3]))
    return result


def _bytes_of(shape: list[int | str | None]) -> Any:
    from onnx import TensorProto, helper

    return helper.make_tensor_type_proto(TensorProto.UINT8, shape).tensor_type


class _Entry:
    """Nodes that stand before all others, one after the other."""

    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._value = INPUT_NAME

    def add(self, operator: str, per_channel: npt.ArrayLike) -> None:
        """Append a node of the value so far and (1, 3, 1, 1) numbers."""
        self._append(operator, [np.asarray(per_channel, np.float32).reshape(1, 3, 1, 1)])

    def add_plain(self, operator: str, **attributes: Any) -> None:
        """Append a node of the value so far."""
        self._append(operator, [], **attributes)

    def add_reversed(self) -> None:
        """The channels, the last one first."""
        self._append("Gather", [np.array([2, 1, 0])], axis=1)

    def _append(self, operator: str, constants: list[npt.NDArray[Any]], **attributes: Any) -> None:
        from onnx import helper, numpy_helper

        name = f"{_PREFIX}{len(self._nodes)}_{operator}"
        names = [f"{name}_{i}" for i in range(len(constants))]
        self._constants += [numpy_helper.from_array(*pair) for pair in zip(constants, names, strict=True)]
        self._nodes.append(helper.make_node(operator, [self._value, *names], [name], name, **attributes))
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
