"""2:4 sparsity: of every four input channels two weights are zero, and stay so in training.

NVIDIA's tensor cores from Ampere on skip such zeros. The two of least magnitude go; the scales stay, for the greatest
weight of a channel does.
Source: Mishra et al., Accelerating Sparse Deep Neural Networks, arXiv 2104.08378.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, fx, nn

from edgeyolo.quantization.quantize import Quantized
from edgeyolo.spec.errors import QuantizationError

_GROUP, _KEPT = 4, 2


def kept_weights(weight: Tensor) -> Tensor:
    """(O, C, kh, kw) with C a multiple of 4 -> whether a weight is among the two largest of its four."""
    last = weight.detach().abs().movedim(1, -1)
    groups = last.reshape(*last.shape[:-1], -1, _GROUP)  # (O, kh, kw, C / 4, 4)
    best = groups.topk(_KEPT, dim=-1).indices
    return torch.zeros_like(groups, dtype=torch.bool).scatter(-1, best, True).reshape(last.shape).movedim(-1, 1)


def sparse_layers(quantized: Quantized) -> list[str]:
    """Int8 convolutions that can be sparse: not grouped, and with input channels in whole fours.

    Raises:
        QuantizationError: there is none.
    """
    found = []
    for path in quantized.placement.int8_layers():
        layer = quantized.float_deploy.get_submodule(path)
        if isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.in_channels % _GROUP == 0:
            found.append(path)
    if not found:
        raise QuantizationError("no layer can be sparse", hint="Leave out --sparsity")
    return found


@torch.no_grad()
def pruned(quantized: Quantized) -> Quantized:
    """The same with copies whose `sparse_layers` have two weights of every four."""
    layers = sparse_layers(quantized)
    modules = [copy.deepcopy(module) for module in (quantized.fake_quant, quantized.float_deploy)]
    for path in layers:
        kept = kept_weights(modules[1].get_parameter(f"{path}.weight"))
        for module in modules:
            module.get_parameter(f"{path}.weight").mul_(kept)
    return replace(quantized, fake_quant=modules[0], float_deploy=modules[1])


def hold_zeros(module: fx.GraphModule, layers: Iterable[str]) -> None:
    """Let weights of these layers that are zero stay so: their gradients become zero too."""
    for path in layers:
        weight = module.get_parameter(f"{path}.weight")
        kept = weight.detach() != 0
        weight.register_hook(lambda gradient, kept=kept: gradient * kept)  # type: ignore[no-untyped-call]
