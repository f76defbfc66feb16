"""Fake quantizers and where they stand: a graph that computes in float what an int8 engine computes.

Integers are symmetric with zero-point 0: 8 bits cover [-127, 127]. Gradients pass inside the range, not outside.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from edgeyolo.quantization.calibrate.scales import Scales, integer_limit
from edgeyolo.quantization.placement.groups import Placement
from edgeyolo.spec.errors import QuantizationError

_FOLDER = "quantizers"


class FakeQuantizer(nn.Module):
    """Rounds each value to a scale times an integer, with torch's own operators.

    Args:
        scale: scalar, or (n, 1, ...) for one scale per index of axis 0.

    Attributes:
        enabled: False passes everything on as it is.
    """

    scale: Tensor

    def __init__(self, scale: Tensor, bits: int) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.bits = bits
        self.enabled = True

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same."""
        if not self.enabled:
            return x
        limit, scale = integer_limit(self.bits), self.scale.flatten()
        zero = torch.zeros_like(scale, dtype=torch.int32)
        if self.scale.dim():
            return torch.fake_quantize_per_channel_affine(x, scale, zero, 0, -limit, limit)
        return torch.fake_quantize_per_tensor_affine(x, scale, zero, -limit, limit)


def make_activation_quantizer(scale: float, bits: int = 8) -> FakeQuantizer:
    """A quantizer with one scale."""
    return FakeQuantizer(torch.tensor(scale), bits)


def make_weight_quantizer(scales: Sequence[float], weight: Tensor, bits: int = 8) -> FakeQuantizer:
    """A quantizer for tensors of the shape of `weight`, with one scale per index of axis 0."""
    shape = (len(scales), *[1] * (weight.dim() - 1))
    return FakeQuantizer(torch.tensor(scales).view(shape).to(weight.device), bits)


class QuantizedConv2d(nn.Conv2d):
    """A convolution whose weight passes a quantizer; the parameters keep their names."""

    weight_quantizer: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H/s, W/s)."""
        weight: Tensor = self.weight_quantizer(self.weight)
        return F.conv2d(input, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class QuantizedLinear(nn.Linear):
    """A linear layer whose weight passes a quantizer; the parameters keep their names."""

    weight_quantizer: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        weight: Tensor = self.weight_quantizer(self.weight)
        return F.linear(input, weight, self.bias)


_QUANTIZED: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: QuantizedConv2d, nn.Linear: QuantizedLinear}


def insert_quantizers(graph_module: fx.GraphModule, placement: Placement, scales: Scales) -> fx.GraphModule:
    """A copy in which int8 layers read quantized tensors and use quantized weights; `graph_module` is left as it is.

    One quantizer object per group, at `quantizers.<group>`; each tensor passes it once, whoever reads it. Parameters
    keep their names, so weights go back and forth by `state_dict`.

    Raises:
        QuantizationError: a layer of a class that cannot be quantized.
    """
    quantized = copy.deepcopy(graph_module)
    quantized.add_submodule(_FOLDER, nn.Module())
    for name in placement.groups:
        quantized.add_submodule(f"{_FOLDER}.{name}", make_activation_quantizer(scales.groups[name]))
    for path in placement.int8_layers():
        _quantize_weight(quantized.get_submodule(path), path, scales)
    _quantize_inputs(quantized, placement)
    quantized.graph.lint()
    quantized.recompile()
    return quantized.to(next(graph_module.parameters()).device)


def _quantize_weight(layer: nn.Module, path: str, scales: Scales) -> None:
    if type(layer) not in _QUANTIZED or not isinstance(layer.weight, Tensor):
        raise QuantizationError(f"{type(layer).__name__} cannot be quantized", where=path, hint="Keep it float")
    layer.__class__ = _QUANTIZED[type(layer)]
    layer.weight_quantizer = make_weight_quantizer(scales.weights[path], layer.weight, scales.weight_bits[path])


def _quantize_inputs(quantized: fx.GraphModule, placement: Placement) -> None:
    int8_layers, groups = set(placement.int8_layers()), placement.group_of_tensor()
    quantized_nodes: dict[fx.Node, fx.Node] = {}
    for call in list(quantized.graph.nodes):
        if call.op != "call_module" or call.target not in int8_layers:
            continue
        tensor = call.all_input_nodes[0]
        if tensor not in quantized_nodes:
            with quantized.graph.inserting_before(call):
                target = f"{_FOLDER}.{groups[tensor.name]}"
                quantized_nodes[tensor] = quantized.graph.call_module(target, (tensor,))
        call.replace_input_with(tensor, quantized_nodes[tensor])


def is_quantizer_call(node: fx.Node) -> bool:
    """Whether a node of a graph with quantizers passes a tensor through the quantizer of its group."""
    return node.op == "call_module" and str(node.target).startswith(f"{_FOLDER}.")


def set_group_enabled(module: nn.Module, placement: Placement, group: str, enabled: bool) -> None:
    """Switch the quantizer of a group and those of its layers' weights, in place.

    Off, `module` gives bit for bit what it would with those layers float.

    Args:
        module: what `insert_quantizers` gave for `placement`, or a copy.
    """
    paths = [f"{_FOLDER}.{group}", *(f"{path}.weight_quantizer" for path in placement.groups[group].layers)]
    for path in paths:
        quantizer = module.get_submodule(path)
        assert isinstance(quantizer, FakeQuantizer)
        quantizer.enabled = enabled
