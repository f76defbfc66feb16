"""A folder that `export_model` wrote -> the quantized torch model again, without the checkpoint or any picture."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import fx

from edgeyolo import models
from edgeyolo.export.onnx import weight_readers
from edgeyolo.quantization.calibrate.ranges import trace_deploy_form
from edgeyolo.quantization.calibrate.scales import Scales
from edgeyolo.quantization.placement.groups import Placement, find_placement
from edgeyolo.quantization.quantize import Quantized
from edgeyolo.quantization.quantizers import insert_quantizers
from edgeyolo.spec.errors import ExportError
from edgeyolo.spec.model import ModelRecord, ModelSpec
from edgeyolo.spec.qparams import QParams, load_qparams
from edgeyolo.spec.strict import load_json


def reopen_quantized(folder: Path) -> tuple[Quantized, ModelSpec]:
    """Build the network that `model.json` names, with the weights of `model.onnx` and the scales of `qparams.json`.

    The weights are those that ship, also after a correction or quantization-aware training, and so are those of its
    `reference`: what the model was before is not in the folder.

    Raises:
        FormatError: a file is missing or not valid. ExportError: the files do not belong to this network.
    """
    spec = load_json(folder / "model.json", ModelRecord).model
    qparams = load_qparams(folder / "qparams.json")
    deploy = trace_deploy_form(models.rebuild(spec))
    _load_weights(deploy, onnx.load(folder / "model.onnx"), where=folder)
    placement = _placement(deploy, qparams, where=folder)
    scales = _scales(qparams, placement)
    fake_quant = insert_quantizers(deploy, placement, scales)
    return Quantized(fake_quant, deploy, placement, scales, qparams.calibration, reference=deploy), spec


def _load_weights(deploy: fx.GraphModule, model: onnx.ModelProto, *, where: Path) -> None:
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    readers = weight_readers(model)
    with torch.no_grad():
        for name, parameter in deploy.named_parameters():
            path, _, kind = name.rpartition(".")
            tensor = values.get(name)
            if tensor is None and kind == "bias" and f"{path}.weight" in readers:
                tensor = _bias(readers[f"{path}.weight"][0], values)
            if tensor is None or tuple(tensor.dims) != tuple(parameter.shape):
                found = "not there" if tensor is None else f"of shape {tuple(tensor.dims)}"
                what = f"weight '{name}', {tuple(parameter.shape)} in the network, is {found} in model.onnx"
                raise ExportError(what, where=where, hint="Quantize again")
            parameter.copy_(torch.from_numpy(numpy_helper.to_array(tensor).copy()))


def _bias(node: onnx.NodeProto, values: dict[str, onnx.TensorProto]) -> onnx.TensorProto | None:
    """The bias of a layer by its place: the simplifier keeps one of several equal ones, under the name of the first."""
    return values.get(node.input[2]) if len(node.input) > 2 else None


def _placement(deploy: fx.GraphModule, qparams: QParams, *, where: Path) -> Placement:
    """The placement that the network has by itself, with the layers float that the file keeps float."""
    placement = find_placement(deploy)
    if set(placement.layers) != set(qparams.layers):
        raise ExportError("qparams.json and the network have different layers", where=where, hint="Quantize again")
    kept = {path: layer.why for path, layer in qparams.layers.items() if layer.precision == "float"}
    placement = placement.with_float(kept)
    groups = {path: plan.group for path, plan in placement.layers.items()}
    if groups != {path: layer.group for path, layer in qparams.layers.items()}:
        raise ExportError("qparams.json groups tensors in another way", where=where, hint="Quantize again")
    return placement


def _scales(qparams: QParams, placement: Placement) -> Scales:
    weights = {path: qparams.weights[qparams.layers[path].weight] for path in placement.int8_layers()}
    return Scales(
        groups={name: qparams.groups[name].scale for name in placement.groups},
        weights={path: entry.scales for path, entry in weights.items()},
        how=next(iter(qparams.groups.values())).how,
        weight_how=next(iter(qparams.weights.values())).how,
        weight_bits={path: entry.bits for path, entry in weights.items()},
    )
