"""Real values of one integer step: one per group of tensors, one per output channel of a weight."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgeyolo.spec.errors import QuantizationError, UsageError

logger = logging.getLogger(__name__)

SMALLEST_RANGE = 2.0**-24  # ModelOpt takes a smaller range for zero, so do we: one function everywhere


@dataclass(frozen=True)
class Scales:
    """Scales for one placement. All are positive and exactly representable in float32.

    Attributes:
        groups: key of `Placement.groups` -> scale of its tensors.
        weights: module path of an int8 layer -> one scale per output channel.
        how, weight_how: what set them, such as "mse" or "max".
        weight_bits: bits of the weights' integers; activations have 8.
    """

    groups: dict[str, float]
    weights: dict[str, tuple[float, ...]]
    how: str
    weight_how: str
    weight_bits: int = 8


def integer_limit(bits: int) -> int:
    """Largest integer of a symmetric quantizer, 127 for 8 bits."""
    return int(2 ** (bits - 1)) - 1


def group_scales(thresholds: Mapping[str, float]) -> dict[str, float]:
    """Name of a group -> scale from its range; 1/127, with a warning, for one that held nothing but zeros."""
    empty = [name for name, threshold in thresholds.items() if threshold <= SMALLEST_RANGE]
    if empty:
        logger.warning(
            "calibration saw nothing above %.0e in %d of %d scale groups (%s); their scale is set to 1/127",
            SMALLEST_RANGE,
            len(empty),
            len(thresholds),
            ", ".join(empty),
        )
    limit = integer_limit(8)
    return {name: _float32((1.0 if name in empty else value) / limit) for name, value in thresholds.items()}


def weight_scales(layer: nn.Module, bits: int, *, where: str) -> tuple[float, ...]:
    """One scale per output channel, from the largest magnitude; one of zeros gets the layer's largest, or 1.0.

    Raises:
        QuantizationError: a weight is not finite.
    """
    weight = layer.weight
    if not isinstance(weight, Tensor) or not bool(torch.isfinite(weight).all()):
        raise QuantizationError("a weight is not a finite number", where=where, hint="Train or load the model again")
    ranges = weight.detach().flatten(1).abs().amax(1).double()
    dead = ranges <= SMALLEST_RANGE
    largest = float(ranges.max())
    if bool(dead.any()):
        logger.info("%s: %d of %d output channels have only zero weights", where, int(dead.sum()), len(dead))
    ranges[dead] = largest if largest > SMALLEST_RANGE else float(integer_limit(bits))
    return tuple(_float32(value / integer_limit(bits)) for value in ranges.tolist())


def all_weight_scales(module: nn.Module, layers: Iterable[str], bits: int) -> dict[str, tuple[float, ...]]:
    """Module path -> scales, for each of `layers`; errors as in `weight_scales`.

    Raises:
        UsageError: `bits` is not from 2 to 8.
    """
    if not 2 <= bits <= 8:
        raise UsageError(f"weight_bits is {bits}; it must be from 2 to 8", where="recipe")
    return {path: weight_scales(module.get_submodule(path), bits, where=path) for path in layers}


def _float32(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float32))
