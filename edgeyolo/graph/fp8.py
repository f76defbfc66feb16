"""model.onnx + QParams -> the same graph with Q/DQ in FP8 (E4M3), for GPUs that multiply it: Ada, Hopper, Blackwell.

The same ranges as in int8: the largest number of FP8, 448, stands for the end of each. Between zero and there the steps
grow with the numbers, so that small ones keep their digits.

Source: FP8 Formats for Deep Learning, arXiv 2209.05433, section 3: sign, 4 bits of exponent with bias 7, 3 bits of
mantissa, no infinities, one pattern for what is not a number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from edgeyolo.graph.half import MIN_OPSET, half_scales
from edgeyolo.graph.qdq import insert_qdq, int8_layers
from edgeyolo.spec.errors import BackendError
from edgeyolo.spec.qparams import QParams

if TYPE_CHECKING:
    from onnx import ModelProto

LARGEST = 448.0
_INT8, _FP8 = "/int8", "/fp8"  # how names of quantized tensors end


def insert_fp8(model: ModelProto, qparams: QParams) -> ModelProto:
    """A copy of `model` with Q/DQ in FP8 wherever `insert_qdq` has int8; its scales are numbers that float16 holds.

    Raises:
        BackendError: as `insert_qdq` and `half_scales`, or an opset before 19.
    """
    from onnx import TensorProto, helper, numpy_helper

    if next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0) < MIN_OPSET:
        raise BackendError(f"FP8 needs opset {MIN_OPSET}", hint="Export the model again")
    half_scales(qparams)  # which says where a range is too wide
    scales = half_scales(fp8_scales(qparams))
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    result = insert_qdq(model, scales)
    stored = {
        f"qdq/{name}{_INT8}": _scaled(numpy_helper.to_array(weights[name]), scales, name)
        for name in int8_layers(model.graph, qparams)
    }
    for tensor in result.graph.initializer:
        zeros = tensor.name.startswith("qdq/") and tensor.name.endswith("zero_point")
        if tensor.name in stored or zeros:
            numbers = stored.get(tensor.name, np.zeros(tuple(tensor.dims), np.float32))
            raw = encode_e4m3(numbers).tobytes()
            name = _renamed(tensor.name)
            tensor.CopyFrom(helper.make_tensor(name, TensorProto.FLOAT8E4M3FN, tensor.dims, raw, raw=True))
    for node in result.graph.node:
        for names in (node.input, node.output):
            names[:] = [_renamed(name) for name in names]
    return result


def fp8_scales(qparams: QParams) -> QParams:
    """Scales with which FP8 covers the same ranges."""
    groups = {
        name: msgspec.structs.replace(group, scale=group.scale * _ratio(group.bits))
        for name, group in qparams.groups.items()
    }
    weights = {
        name: msgspec.structs.replace(entry, bits=8, scales=tuple(scale * _ratio(entry.bits) for scale in entry.scales))
        for name, entry in qparams.weights.items()
    }
    return msgspec.structs.replace(qparams, groups=groups, weights=weights)


def encode_e4m3(numbers: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """The byte of the nearest FP8 number, of the even one of two that are as near; what is beyond 448 becomes 448."""
    sizes = np.minimum(np.abs(numbers), np.float32(LARGEST))
    below, above = (np.searchsorted(_MIDDLES, sizes, side=side) for side in ("left", "right"))
    codes = np.where(below % 2, above, below) + 128 * np.signbit(numbers)
    return np.asarray(codes, np.uint8)


def _ratio(bits: int) -> float:
    return float((2 ** (bits - 1) - 1) / LARGEST)


def _scaled(weight: npt.NDArray[np.float32], scales: QParams, name: str) -> npt.NDArray[np.float32]:
    entry = scales.weights[name]
    shape = [1] * weight.ndim
    shape[entry.axis] = -1
    return np.asarray(weight / np.asarray(entry.scales, np.float32).reshape(shape), np.float32)


def _renamed(name: str) -> str:
    return f"{name.removesuffix(_INT8)}{_FP8}" if name.startswith("qdq/") and name.endswith(_INT8) else name


def _positive() -> npt.NDArray[np.float32]:
    """The numbers of bytes 0 to 126, in their order, which is that of size: exponent first, then mantissa."""
    exponent, mantissa = np.divmod(np.arange(127), 8)
    return np.where(exponent, (1 + mantissa / 8) * 2.0 ** (exponent - 7), mantissa / 8 * 2.0**-6).astype(np.float32)


_MIDDLES: Any = (_positive()[:-1] + _positive()[1:]) / 2
