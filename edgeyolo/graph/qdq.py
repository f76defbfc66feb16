"""model.onnx + QParams -> the same graph with QuantizeLinear and DequantizeLinear where the scales say.

Shared by the engines that read ONNX. Activations: one pair per tensor and scale, shared by its int8 consumers.
Weights: stored as int8, one DequantizeLinear per output channel, whose result keeps the initializer's name. Biases
stay float: TensorRT refuses int32 ones. Zero-points are 0, or 128 where an engine wants unsigned activations.

Weights are in [-127, 127] by construction. QuantizeLinear saturates an activation at -128, not -127: one step, and
only below the calibrated range. It is accepted, because a Clip before it would keep engines from fusing it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeyolo.graph.external_data import refuse_external_data
from edgeyolo.spec.errors import BackendError, nearest_name
from edgeyolo.spec.packages import import_package
from edgeyolo.spec.qparams import LayerPrecision, QParams, WeightScales

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

_MIN_OPSET = 13  # the first with per-channel DequantizeLinear
_PREFIX = "qdq/"  # of every name added here
_ZERO = f"{_PREFIX}zero_point"


def load_onnx(path: Path) -> ModelProto:
    """Read an ONNX file.

    Raises:
        MissingPackageError: no onnx package. BackendError: not a readable ONNX file, or one that needs others.
    """
    import_package("onnx", needed_for="building an artefact from model.onnx", extra="onnxruntime")
    import onnx

    decode_error = importlib.import_module("google.protobuf.message").DecodeError
    try:
        raw = path.read_bytes()
        refuse_external_data(raw, where=path)
        model = onnx.load_model_from_string(raw)
        onnx.checker.check_model(model)
    except (OSError, UnicodeDecodeError, decode_error, onnx.checker.ValidationError) as error:
        raise BackendError(f"is not a usable ONNX file ({error})", where=path) from None
    return model


def weighted_nodes(graph: GraphProto) -> dict[str, list[NodeProto]]:
    """Initializer name -> the convolutions and Gemm nodes whose weight it is, in graph order."""
    initializers = {tensor.name for tensor in graph.initializer}
    found: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm") and node.input[1] in initializers:
            found.setdefault(node.input[1], []).append(node)
    return found


def int8_layers(graph: GraphProto, qparams: QParams) -> dict[str, LayerPrecision]:
    """Weight initializer -> its layer, for every layer that is to be int8.

    Raises:
        BackendError: a weight that no Conv or Gemm of the graph reads, or an activation that is not 8 bits.
    """
    known = weighted_nodes(graph)
    layers = {layer.weight: layer for layer in qparams.layers.values() if layer.precision == "int8"}
    for weight, layer in layers.items():
        if weight not in known:
            near = nearest_name(weight, known)
            raise BackendError(
                f"qparams has int8 weight '{weight}', which no Conv or Gemm of the model reads",
                hint=f"The nearest is '{near}'" if near else "Quantize again",
            )
        if qparams.groups[layer.group].bits != 8:
            raise BackendError("activations must be 8 bits", where=f"group {layer.group}", hint="Quantize again")
    return layers


def quantize_weight(weight: npt.NDArray[np.float32], scales: WeightScales, *, where: str) -> npt.NDArray[np.int8]:
    """Integers in [-(2^(bits-1) - 1), 2^(bits-1) - 1], rounded half to even as QAT's fake quantizers do.

    Raises:
        BackendError: not one scale per index of the axis, or a number of bits that does not fit int8.
    """
    if not 2 <= scales.bits <= 8:
        raise BackendError(f"weights of {scales.bits} bits do not fit int8", where=where)
    if not 0 <= scales.axis < weight.ndim or weight.shape[scales.axis] != len(scales.scales):
        raise BackendError(
            f"{len(scales.scales)} scales on axis {scales.axis} do not fit a weight of shape {weight.shape}",
            where=where,
        )
    shape = [1] * weight.ndim
    shape[scales.axis] = -1
    limit = 2 ** (scales.bits - 1) - 1
    steps = np.asarray(scales.scales, np.float32).reshape(shape)
    integers: npt.NDArray[np.int8] = np.clip(np.rint(weight / steps), -limit, limit).astype(np.int8)
    return integers


def insert_qdq(model: ModelProto, qparams: QParams, *, unsigned: bool = False) -> ModelProto:
    """A copy of `model` with Q/DQ on the input and the weight of every int8 layer.

    Args:
        unsigned: activations are uint8 with zero-point 128 instead of int8 with 0: each integer is 128 more, and each
            number that it stands for is the same.

    Raises:
        BackendError: scales that do not fit the graph, or an opset before 13.
    """
    _check_opset(model)
    result = type(model)()
    result.CopyFrom(model)
    graph = result.graph
    layers = int8_layers(graph, qparams)
    _check_weight_readers(graph, layers)

    nodes: list[NodeProto] = [_weight_dequantizer(weight, qparams.weights[weight]) for weight in layers]
    activations: dict[tuple[str, str], str] = {}
    for node in graph.node:
        layer = layers.get(node.input[1]) if len(node.input) > 1 else None
        if layer is not None:
            tensor = node.input[0]
            if (tensor, layer.group) not in activations:
                pair = _activation_pair(tensor, layer.group)
                nodes.extend(pair)
                activations[tensor, layer.group] = pair[-1].output[0]
            node.input[0] = activations[tensor, layer.group]
        nodes.append(node)
    _store_int8_weights(graph, qparams, layers)
    _store_activation_scales(graph, qparams, layers, np.array(128, np.uint8) if unsigned else np.array(0, np.int8))
    copies = [_copy_node(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    return result


def _check_opset(model: ModelProto) -> None:
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < _MIN_OPSET:
        raise BackendError(
            f"opset {opset} has no per-channel DequantizeLinear", hint=f"Export with opset {_MIN_OPSET} or later"
        )


def _check_weight_readers(graph: GraphProto, layers: Iterable[str]) -> None:
    """A weight becomes int8 for all its readers, so each must be a convolution or linear layer."""
    nodes = weighted_nodes(graph)
    for weight in layers:
        readers = sum(list(node.input).count(weight) for node in graph.node)
        if readers != len(nodes[weight]):
            raise BackendError("an int8 weight is read by something that is not a Conv or Gemm", where=weight)


def _weight_dequantizer(weight: str, scales: WeightScales) -> NodeProto:
    from onnx import helper

    inputs = [f"{_PREFIX}{weight}/int8", f"{_PREFIX}{weight}/scale", f"{_PREFIX}{weight}/zero_point"]
    return helper.make_node(
        "DequantizeLinear", inputs, [weight], name=f"{_PREFIX}{weight}/dequantize", axis=scales.axis
    )


def _activation_pair(tensor: str, group: str) -> list[NodeProto]:
    from onnx import helper

    stem, scale = f"{_PREFIX}{tensor}/{group}", f"{_PREFIX}{group}/scale"
    return [
        helper.make_node("QuantizeLinear", [tensor, scale, _ZERO], [f"{stem}/int8"], name=f"{stem}/quantize"),
        helper.make_node(
            "DequantizeLinear", [f"{stem}/int8", scale, _ZERO], [f"{stem}/float"], name=f"{stem}/dequantize"
        ),
    ]


def _store_int8_weights(graph: GraphProto, qparams: QParams, layers: Iterable[str]) -> None:
    from onnx import numpy_helper

    by_name = {tensor.name: tensor for tensor in graph.initializer}
    for weight in layers:
        scales = qparams.weights[weight]
        integers = quantize_weight(numpy_helper.to_array(by_name[weight]), scales, where=weight)
        steps = np.asarray(scales.scales, np.float32)
        zeros = np.zeros(len(steps), np.int8)
        by_name[weight].CopyFrom(numpy_helper.from_array(integers, f"{_PREFIX}{weight}/int8"))
        graph.initializer.append(numpy_helper.from_array(steps, f"{_PREFIX}{weight}/scale"))
        graph.initializer.append(numpy_helper.from_array(zeros, f"{_PREFIX}{weight}/zero_point"))
    # An initializer may also be listed as an input of the graph (IR version 3); its name is a node's output now.
    kept = [entry for entry in graph.input if entry.name not in set(layers)]
    del graph.input[:]
    graph.input.extend(kept)


def _store_activation_scales(
    graph: GraphProto,
    qparams: QParams,
    layers: dict[str, LayerPrecision],
    zero_point: npt.NDArray[np.int8] | npt.NDArray[np.uint8],
) -> None:
    from onnx import numpy_helper

    for group in sorted({layer.group for layer in layers.values()}):
        scale = np.asarray(qparams.groups[group].scale, np.float32)
        graph.initializer.append(numpy_helper.from_array(scale, f"{_PREFIX}{group}/scale"))
    graph.initializer.append(numpy_helper.from_array(zero_point, _ZERO))


def _copy_node(node: NodeProto) -> NodeProto:
    copy = type(node)()
    copy.CopyFrom(node)
    return copy
