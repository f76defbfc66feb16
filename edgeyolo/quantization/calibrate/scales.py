"""Real values of one integer step: one per group of tensors, one per output channel of a weight."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from edgeyolo.spec.errors import QuantizationError, UnknownNameError, UsageError
from edgeyolo.spec.recipe import Recipe

logger = logging.getLogger(__name__)

WEIGHT_OBSERVERS = ("max", "mse")
SMALLEST_RANGE = 2.0**-24  # ModelOpt takes a smaller range for zero, so do we: one function everywhere
_GRID = 50  # candidates for a weight's range, in parts of its largest magnitude


@dataclass(frozen=True)
class Scales:
    """Scales for one placement. All are positive and exactly representable in float32.

    Attributes:
        groups: key of `Placement.groups` -> scale of its tensors.
        weights: module path of an int8 layer -> one scale per output channel.
        how, weight_how: what set them, such as "mse" or "max".
        weight_bits: module path of an int8 layer -> bits of its weight's integers; activations have 8.
    """

    groups: dict[str, float]
    weights: dict[str, tuple[float, ...]]
    how: str
    weight_how: str
    weight_bits: dict[str, int]

    def of(self, groups: Iterable[str], layers: Iterable[str]) -> Scales:
        """The same, of these groups and of the weights of these layers only."""
        kept = list(layers)
        return replace(
            self,
            groups={name: self.groups[name] for name in groups},
            weights={path: self.weights[path] for path in kept},
            weight_bits={path: self.weight_bits[path] for path in kept},
        )


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


def choose_weight_bits(module: nn.Module, layers: Iterable[str], recipe: Recipe) -> dict[str, int]:
    """Module path -> bits, for each of `layers`: 3x3 convolutions of stride and dilation 1 have their own.

    Raises:
        UsageError: `weight_bits` or `weight_bits_3x3` of the recipe is not from 2 to 8.
    """
    for field in ("weight_bits", "weight_bits_3x3"):
        bits = getattr(recipe, field)
        if not 2 <= bits <= 8:
            raise UsageError(f"{field} is {bits}; it must be from 2 to 8", where="recipe")
    return {
        path: recipe.weight_bits_3x3 if _is_plain_3x3(module.get_submodule(path)) else recipe.weight_bits
        for path in layers
    }


def weight_scales(layer: nn.Module, bits: int, how: str = "max", *, where: str) -> tuple[float, ...]:
    """One scale per output channel; a channel of zeros gets the layer's largest, or 1.0.

    Args:
        how: "max" covers the largest magnitude; "mse" takes the part of it, in steps of 1 / 50 from 1 / 5 on, that
            has the least squared error of rounding and clipping.

    Raises:
        QuantizationError: a weight is not finite. UnknownNameError: no such `how`.
    """
    if how not in WEIGHT_OBSERVERS:
        raise UnknownNameError("weight observer", how, WEIGHT_OBSERVERS, where="recipe")
    weight = layer.weight
    if not isinstance(weight, Tensor) or not bool(torch.isfinite(weight).all()):
        raise QuantizationError("a weight is not a finite number", where=where, hint="Train or load the model again")
    rows = weight.detach().flatten(1)
    ranges = rows.abs().amax(1).double()
    dead = ranges <= SMALLEST_RANGE
    largest = float(ranges.max())
    if bool(dead.any()):
        logger.info("%s: %d of %d output channels have only zero weights", where, int(dead.sum()), len(dead))
    ranges[dead] = largest if largest > SMALLEST_RANGE else float(integer_limit(bits))
    if how == "mse":
        ranges = _least_error_ranges(rows, ranges, integer_limit(bits))
    return tuple(_float32(value / integer_limit(bits)) for value in ranges.tolist())


def all_weight_scales(module: nn.Module, bits: Mapping[str, int], how: str = "max") -> dict[str, tuple[float, ...]]:
    """Module path -> scales, for each layer of `bits`; arguments and errors as in `weight_scales`."""
    return {path: weight_scales(module.get_submodule(path), count, how, where=path) for path, count in bits.items()}


def _least_error_ranges(rows: Tensor, ranges: Tensor, limit: int) -> Tensor:
    """(O, N) weights, (O,) largest magnitudes -> (O,) the candidate with the least squared error of each row."""
    best, least = ranges.clone(), torch.full_like(ranges, float("inf"))
    for part in range(_GRID, _GRID // 5 - 1, -1):  # the largest range first: it wins a tie
        candidates = ranges * (part / _GRID)
        steps = (candidates / limit).to(rows.dtype)[:, None]
        errors = (rows / steps).round_().clamp_(-limit, limit).mul_(steps).sub_(rows).square_().sum(1).double()
        better = errors < least
        best[better], least[better] = candidates[better], errors[better]
    return best


def _is_plain_3x3(layer: nn.Module) -> bool:
    """Whether an engine may compute it by Winograd's method."""
    return (
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (3, 3)
        and layer.stride == (1, 1)
        and layer.dilation == (1, 1)
    )


def _float32(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float32))
