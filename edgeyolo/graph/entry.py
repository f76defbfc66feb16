"""What stands between a picture and the network, as ONNX operators before it: letterbox, channels, mean and std."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from edgeyolo.geometry.letterbox import Letterbox
from edgeyolo.geometry.network_input import letterbox_for, scaling_of
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
    """A copy of `model` that takes pictures as they are, (B, H, W, 3) uint8 BGR: letterboxed ones, or whole frames.

    In float32, in the same steps as `geometry.network_input` on the processor: the same numbers to the bit from
    letterboxed pictures. OpenCV resizes frames in whole numbers, of which it drops some bits: a tenth of the pixels is
    one step of 255 higher here, and none is further off.
    """
    entry = _open(model)
    entry.add_plain("Cast", to=1)
    entry.add_plain("Transpose", perm=[0, 3, 1, 2])
    if spec.frame_hw:
        _letterbox(entry, letterbox_for(spec.frame_hw, spec), spec.letterbox_value)
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
    kind.CopyFrom(_bytes_of([first, *spec.shape]))
    return result


def _letterbox(entry: _Entry, letterbox: Letterbox, value: int) -> None:
    """(B, 3, h, w) -> (B, 3, H, W): bilinear, in whole steps of a pixel as pictures have them, and grey around it."""
    height, width = letterbox.resized_hw
    if letterbox.image_hw != (height, width):
        factors = [_factor(*pair) for pair in zip(letterbox.image_hw, (height, width), strict=True)]
        scales = np.array([1, 1, *factors], np.float32)
        half_pixel = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        entry.add_plain("Resize", None, scales, **half_pixel)
        entry.add_plain("Add", np.float32(0.5))
        entry.add_plain("Floor")
    top, left = letterbox.pad_top, letterbox.pad_left
    bottom, right = letterbox.input_hw[0] - height - top, letterbox.input_hw[1] - width - left
    if top or left or bottom or right:
        entry.add_plain("Pad", np.array([0, 0, top, left, 0, 0, bottom, right]), np.float32(value), mode="constant")


def _factor(length: int, wanted: int) -> np.float32:
    """The float32 by which `length` pixels become `wanted` ones when what is left over is cut off."""
    factor = np.float32(wanted / length)
    while int(length * float(factor)) < wanted:
        factor = np.nextafter(factor, np.float32(np.inf))
    return factor


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

    def add_plain(self, operator: str, *constants: npt.ArrayLike | None, **attributes: Any) -> None:
        """Append a node of the value so far and constants, None where one is left out."""
        self._append(operator, list(constants), **attributes)

    def add_reversed(self) -> None:
        """The channels, the last one first."""
        self._append("Gather", [np.array([2, 1, 0])], axis=1)

    def _append(self, operator: str, constants: list[npt.ArrayLike | None], **attributes: Any) -> None:
        from onnx import helper, numpy_helper

        name = f"{_PREFIX}{len(self._nodes)}_{operator}"
        names = ["" if constant is None else f"{name}_{i}" for i, constant in enumerate(constants)]
        given = [(constant, name) for constant, name in zip(constants, names, strict=True) if constant is not None]
        self._constants += [numpy_helper.from_array(np.asarray(constant), name) for constant, name in given]
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
