"""Trace a deploy form into ONNX: float, simplified, inputs, outputs and weights under fixed names."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import onnxslim
import torch
from onnx import numpy_helper
from torch import nn
from torch.onnx import symbolic_helper
from torch.onnx.utils import register_custom_op_symbolic

from edgeyolo.nn import deform
from edgeyolo.spec.errors import ExportError
from edgeyolo.spec.tensor import INPUT_NAME, output_names

OPSET = 19  # the first whose QuantizeLinear takes fp16 scales; pnnx reads it too


def trace_onnx(
    module: nn.Module, image_hw: tuple[int, int], output_count: int, *, dynamic_batch: bool = False
) -> onnx.ModelProto:
    """The graph of a deploy form in eval mode. The same weights give the same bytes.

    Weights are initializers under their module paths, such as "backbone.stem.conv.weight".

    Raises:
        ExportError: the module cannot be traced, or simplification loses a convolution or a name.
    """
    images = torch.zeros(1, 3, *image_hw)
    with _told_apart(module) as values:
        simplified = onnxslim.slim(_trace(module.eval(), images, output_names(output_count), dynamic_batch))
    if not isinstance(simplified, onnx.ModelProto):
        raise ExportError("the simplifier did not return a graph", where=type(module).__name__)
    for tensor in simplified.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name].numpy(), tensor.name))
    _check_layers(module, simplified)
    return simplified


@contextmanager
def _told_apart(module: nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """Random weights in convolutions whose own are one number throughout, and these by name.

    Of a new network the batch norms that no convolution is before have such weights when folded, and tensors that are
    equal are merged, by the exporter and by the simplifier.
    """
    found = {
        f"{name}.weight": conv
        for name, conv in module.named_modules()
        if isinstance(conv, nn.Conv2d) and (conv.weight == conv.weight.flatten()[0]).all()
    }
    values = {name: conv.weight.data for name, conv in found.items()}
    random = torch.Generator().manual_seed(0)
    for conv in found.values():
        conv.weight.data = torch.rand(conv.weight.shape, generator=random).to(conv.weight)
    try:
        yield values
    finally:
        for name, conv in found.items():
            conv.weight.data = values[name]


def weight_readers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """Initializer name -> the nodes that use it as their weight (second input)."""
    initializers = {tensor.name for tensor in model.graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") and node.input[1] in initializers:
            readers.setdefault(node.input[1], []).append(node)
    return readers


def _trace(module: nn.Module, images: torch.Tensor, outputs: list[str], dynamic_batch: bool) -> onnx.ModelProto:
    axes = {name: {0: "batch"} for name in (INPUT_NAME, *outputs)} if dynamic_batch else None
    try:
        with tempfile.TemporaryDirectory(prefix="edgeyolo-") as work, warnings.catch_warnings(), torch.no_grad():
            path = Path(work) / "traced.onnx"
            warnings.simplefilter("ignore", DeprecationWarning)  # the TorchScript exporter keeps the names of weights
            register_custom_op_symbolic(deform.TORCH_NAME, _deform_conv, OPSET)
            torch.onnx.export(
                module,
                (images,),
                path,
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT_NAME],
                output_names=outputs,
                dynamic_axes=axes,
            )
            return onnx.load(path)
    except (RuntimeError, TypeError, ValueError) as error:
        where = f"{type(module).__name__} at {images.shape[2]}x{images.shape[3]}"
        raise ExportError(f"cannot be traced to ONNX ({error})", where=where) from error


@symbolic_helper.parse_args("v", "v", "v", "v", "v", "i")
def _deform_conv(graph: Any, x: Any, weight: Any, bias: Any, moves: Any, masks: Any, stride: int) -> Any:
    """The node of a deformable convolution, which is padded by half of its kernel."""
    side = weight.type().sizes()[2]
    options = {"kernel_shape_i": [side, side], "pads_i": [side // 2] * 4, "strides_i": [stride, stride]}
    return graph.op("DeformConv", x, weight, moves, bias, masks, **options)


def _check_layers(module: nn.Module, model: onnx.ModelProto) -> None:
    """Every convolution that runs must be there under its name, and no other."""
    convolutions = {name: m for name, m in module.named_modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)}
    readers = weight_readers(model)
    missing = sorted(name for name in convolutions if f"{name}.weight" not in readers)
    extra = sum(node.op_type in ("Conv", "ConvTranspose") for node in model.graph.node) - sum(
        len(readers.get(f"{name}.weight", [])) for name in convolutions
    )
    if missing or extra:
        what = f"convolutions without a node: {', '.join(missing) or 'none'}; nodes without a module: {extra}"
        raise ExportError(what, where="model.onnx", hint="Two layers with equal weights on one tensor are merged")
