"""Scales of fx tensors and modules -> `QParams`, by the names of the exported graph."""

from __future__ import annotations

import onnx

from edgeyolo.export.onnx import weight_readers
from edgeyolo.quantization.placement.groups import LayerPlan
from edgeyolo.quantization.quantize import Quantized
from edgeyolo.spec.errors import ExportError
from edgeyolo.spec.qparams import LayerPrecision, QParams, TensorGroup, WeightScales, check_qparams


def make_qparams(quantized: Quantized, model: onnx.ModelProto, onnx_sha256: str) -> QParams:
    """The scales of a quantized model, by the names of `model`, which was exported from its `float_deploy`.

    Raises:
        ExportError: an int8 layer has no node of its own, or one tensor would carry two scales.
    """
    scales, placement = quantized.scales, quantized.placement
    readers = weight_readers(model)
    inputs = {path: _inputs(path, readers) for path in placement.int8_layers()}
    groups = {
        name: TensorGroup(
            tensors=tuple(dict.fromkeys(tensor for path in group.layers for tensor in inputs[path])),
            scale=scales.groups[name],
            how=scales.how,
        )
        for name, group in placement.groups.items()
    }
    _check_disjoint(groups)
    weights = {
        f"{path}.weight": WeightScales(
            scales=scales.weights[path], bits=scales.weight_bits[path], how=scales.weight_how
        )
        for path in placement.int8_layers()
    }
    qparams = QParams(
        onnx_sha256=onnx_sha256,
        groups=groups,
        weights=weights,
        layers={path: _precision(path, plan) for path, plan in placement.layers.items()},
        calibration=quantized.calibration,
    )
    check_qparams(qparams)
    return qparams


def _precision(path: str, plan: LayerPlan) -> LayerPrecision:
    return LayerPrecision(precision=plan.precision, weight=f"{path}.weight", group=plan.group, why=plan.why)


def _inputs(path: str, readers: dict[str, list[onnx.NodeProto]]) -> list[str]:
    """Names of the tensors that the nodes of one layer read."""
    nodes = readers.get(f"{path}.weight", [])
    if not nodes:
        hint = f"Keep it float: float_layers = ['{path}']"
        raise ExportError("an int8 layer has no node under the name of its weight", where=path, hint=hint)
    return [node.input[0] for node in nodes]


def _check_disjoint(groups: dict[str, TensorGroup]) -> None:
    owner: dict[str, str] = {}
    for name, group in groups.items():
        for tensor in group.tensors:
            if owner.setdefault(tensor, name) != name:
                what = f"tensor '{tensor}' is in groups {owner[tensor]} and {name}"
                raise ExportError(what, where="model.onnx", hint="The simplifier merged two tensors of the model")
