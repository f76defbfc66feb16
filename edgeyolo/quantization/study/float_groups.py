"""A quantized model with some of its scale groups back in float."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from edgeyolo.quantization.quantize import Quantized
from edgeyolo.quantization.quantizers import insert_quantizers
from edgeyolo.quantization.recover.bias_correction import with_biases
from edgeyolo.spec.errors import UnknownNameError


def with_groups_float(quantized: Quantized, groups: Iterable[str], why: str) -> Quantized:
    """The same model with every layer that reads a tensor of these groups float; other scales and names stay.

    A bias that was corrected for the rounding of a layer that is now float becomes what it was.

    Args:
        why: said of each of these layers.

    Raises:
        UnknownNameError: no such group.
    """
    chosen = list(groups)
    check_groups(quantized, chosen)
    if not chosen:
        return quantized
    layers = [path for group in chosen for path in quantized.placement.groups[group].layers]
    placement = quantized.placement.with_float(dict.fromkeys(layers, why))
    scales = quantized.scales.of(placement.groups, placement.int8_layers())
    biases = uncorrected_biases(quantized, layers)
    deploy = with_biases(quantized.float_deploy, biases) if biases else quantized.float_deploy
    fake_quant = insert_quantizers(deploy, placement, scales)
    return replace(quantized, fake_quant=fake_quant, float_deploy=deploy, placement=placement, scales=scales)


def uncorrected_biases(quantized: Quantized, layers: Iterable[str]) -> dict[str, tuple[float, ...]]:
    """Module path -> bias before bias correction, for those of `layers` that have been corrected and nothing else.

    A layer with other weights than the reference's was equalized or trained, and its bias belongs to those weights.
    """
    biases: dict[str, tuple[float, ...]] = {}
    for path in layers:
        now, before = quantized.float_deploy.get_submodule(path), quantized.reference.get_submodule(path)
        if isinstance(now.bias, Tensor) and _same(now.weight, before.weight) and not _same(now.bias, before.bias):
            plain = before.bias if isinstance(before.bias, Tensor) else torch.zeros_like(now.bias)
            biases[path] = tuple(plain.detach().tolist())
    return biases


def check_groups(quantized: Quantized, groups: Iterable[str]) -> None:
    """Raise UnknownNameError for a name that is no group of the model."""
    for group in groups:
        if group not in quantized.placement.groups:
            raise UnknownNameError("scale group", group, quantized.placement.groups)


def _same(a: object, b: object) -> bool:
    return isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b)
