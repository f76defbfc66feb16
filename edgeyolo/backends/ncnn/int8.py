"""Puts qparams into an ncnn network: int8 weights, weight scales and input scales, by ncnn's own conventions.

A layer of the network is found in model.onnx by the content of its weight, not by its place. ncnn's scale is a
multiplier, 1 / the scale of qparams; it rounds half away from zero and clamps to [-127, 127]. Convolutions read and
multiply int8 and give float; only their inputs are quantized, as in the Q/DQ graph.

Source: github.com/Tencent/ncnn, src/layer/convolution.cpp, convolutiondepthwise.cpp, innerproduct.cpp, modelbin.cpp.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeyolo.backends.ncnn.files import CONVOLUTIONAL, INT8_TERM_KEY, Blob, Layer
from edgeyolo.graph.qdq import int8_layers, quantize_weight, weighted_nodes
from edgeyolo.spec.errors import BackendError
from edgeyolo.spec.qparams import LayerPrecision, QParams, WeightScales

if TYPE_CHECKING:
    from onnx import ModelProto

    Float32 = npt.NDArray[np.float32]


def quantize_network(layers: Sequence[Layer], model: ModelProto, qparams: QParams) -> list[Layer]:
    """`layers` with every int8 layer of `qparams` made int8.

    Raises:
        BackendError: an int8 layer that is not in the network, or two layers that cannot be told apart.
    """
    wanted = int8_layers(model.graph, qparams)
    weights, names = _index_weights(model)
    found: set[str] = set()
    result = []
    for layer in layers:
        candidates = names.get(_digest(layer.weights[0].values), []) if layer.kind in CONVOLUTIONAL else []
        plans = [wanted.get(name) for name in candidates]
        chosen = plans[0] if plans else None
        if any(not _is_same_plan(plan, chosen, qparams) for plan in plans):
            raise BackendError(f"{' and '.join(candidates)} have equal weights and different scales", where=layer.name)
        if chosen is not None:
            found.update(candidates)
            layer = _quantize_layer(layer, weights[candidates[0]], qparams, chosen)
        result.append(layer)
    lost = sorted(set(wanted) - found)
    if lost:
        raise BackendError(
            f"{len(lost)} int8 layers of qparams are not in the converted network, the first is '{lost[0]}'",
            hint="The converter changed its weight; keep that layer float in the recipe",
        )
    return result


def store_half(layers: Sequence[Layer]) -> list[Layer]:
    """`layers` with float weights stored in half precision.

    Raises:
        BackendError: a weight too large for it.
    """
    return [replace(layer, weights=tuple(_as_half(blob, layer.name) for blob in layer.weights)) for layer in layers]


def _as_half(blob: Blob, where: str) -> Blob:
    if not blob.tagged or blob.values.dtype != np.float32:
        return blob
    if np.abs(blob.values).max(initial=0) > np.finfo(np.float16).max:
        raise BackendError("a weight is too large for half precision", where=where, hint="Deploy with fp32")
    return replace(blob, values=blob.values.astype(np.float16))


def _index_weights(model: ModelProto) -> tuple[dict[str, Float32], dict[bytes, list[str]]]:
    """Weights by name; names by digest of the weight in ncnn's order, output channels first."""
    from onnx import numpy_helper

    by_name = {tensor.name: tensor for tensor in model.graph.initializer}
    weights: dict[str, Float32] = {}
    names: dict[bytes, list[str]] = {}
    for name, nodes in weighted_nodes(model.graph).items():
        weights[name] = numpy_helper.to_array(by_name[name])
        gemm_transposed = any(entry.name == "transB" and entry.i for entry in nodes[0].attribute)
        is_out_first = nodes[0].op_type == "Conv" or gemm_transposed
        names.setdefault(_digest(weights[name] if is_out_first else weights[name].T), []).append(name)
    return weights, names


def _digest(weight: npt.NDArray[np.generic]) -> bytes:
    return hashlib.sha256(weight.tobytes()).digest()


def _is_same_plan(plan: LayerPrecision | None, other: LayerPrecision | None, qparams: QParams) -> bool:
    if plan is None or other is None:
        return plan is other
    same_input = qparams.groups[plan.group].scale == qparams.groups[other.group].scale
    return same_input and qparams.weights[plan.weight] == qparams.weights[other.weight]


def _quantize_layer(layer: Layer, weight: Float32, qparams: QParams, plan: LayerPrecision) -> Layer:
    scales = qparams.weights[plan.weight]
    groups = layer.integer(7, 1) if layer.kind == "ConvolutionDepthWise" else 0
    steps = np.asarray(scales.scales, np.float32)
    if groups:  # ncnn has one scale per group there, which for a depthwise convolution is one per channel
        widest = steps.reshape(groups, -1).max(axis=1)
        steps = widest
        scales = WeightScales(
            scales=tuple(np.repeat(widest, len(scales.scales) // groups).tolist()),
            axis=scales.axis,
            bits=scales.bits,
            how=scales.how,
        )
    integers = quantize_weight(weight, scales, where=plan.weight)
    out_first = np.moveaxis(integers, scales.axis, 0)
    is_used = out_first.reshape(len(steps), -1).any(axis=1)
    multipliers = _multiplier(np.where(is_used, steps, np.float32(1)), plan.weight)
    bias = layer.weights[1:2]
    blobs = (
        Blob(np.ascontiguousarray(out_first).reshape(-1), tagged=True),
        *bias,
        Blob(multipliers),
        Blob(_multiplier(np.asarray([qparams.groups[plan.group].scale], np.float32), plan.group)),
    )
    return replace(layer, weights=blobs, params=layer.params | {INT8_TERM_KEY: 1 if groups else 2})


def _multiplier(steps: Float32, where: str) -> Float32:
    with np.errstate(divide="ignore", over="ignore"):
        multipliers = np.float32(1) / steps
    if not np.isfinite(multipliers).all():
        raise BackendError("a scale is too small for the engine", where=where, hint="Calibrate again")
    return multipliers
