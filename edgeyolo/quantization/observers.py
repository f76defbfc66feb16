"""Observers: from many tensors to the range that 8-bit integers should cover. Exact counts, no subsampling."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from edgeyolo.spec.errors import UnknownNameError, UsageError
from edgeyolo.spec.recipe import Recipe

_BINS_MAX = 1 << 14
_CHUNK = 1 << 22  # elements at a time, which bounds the memory of the int16 copies


class Observer(Protocol):
    """Sees tensors, then chooses a range."""

    def collect(self, x: Tensor, largest: float) -> None:
        """Take a finite tensor of any shape into account; `largest` is its largest magnitude."""

    def threshold(self) -> float:
        """The magnitude that the largest integer stands for; 0.0 if only zeros were seen."""


class MaxObserver:
    """The largest magnitude seen."""

    def __init__(self) -> None:
        self._largest = 0.0

    def collect(self, x: Tensor, largest: float) -> None:
        """See `Observer`."""
        self._largest = max(self._largest, largest)

    def threshold(self) -> float:
        """See `Observer`."""
        return self._largest


class MseObserver:
    """The threshold with the least expected squared error of rounding and clipping, over a histogram of magnitudes.

    The histogram covers [0, 2^k) with the smallest k that holds all magnitudes seen. When a larger one comes, the range
    doubles and neighbouring bins merge; both are exact in binary, so the counts do not depend on the order.

    Args:
        bins: even number of bins.
        bits: of the integers, which are symmetric: [-(2^(bits-1) - 1), 2^(bits-1) - 1].

    Raises:
        UsageError: `bins` is odd or outside 256 ... 16384.
    """

    def __init__(self, bins: int = 2048, bits: int = 8) -> None:
        if bins % 2 or not 256 <= bins <= _BINS_MAX:
            raise UsageError(f"bins is {bins}; it must be even, from 256 to {_BINS_MAX}", where="recipe")
        self.counts = torch.zeros(bins, dtype=torch.int64)
        self._top = 2 ** (bits - 1) - 1
        self._exponent: int | None = None
        self._largest = 0.0

    @property
    def range(self) -> float:
        """Upper end of the last bin; 0.0 before anything but zeros was seen."""
        return 0.0 if self._exponent is None else 2.0**self._exponent

    def collect(self, x: Tensor, largest: float) -> None:
        """See `Observer`."""
        if largest == 0.0:
            return
        self._grow(math.frexp(largest)[1])
        self._largest = max(self._largest, largest)
        bins = len(self.counts)
        flat = x.detach().reshape(-1)
        for start in range(0, len(flat), _CHUNK):
            positions = flat[start : start + _CHUNK].abs().mul_(bins / self.range).to(torch.int16)
            self.counts += torch.bincount(positions, minlength=bins).cpu()

    def _grow(self, exponent: int) -> None:
        if self._exponent is None:
            self._exponent = exponent
        while self._exponent < exponent:
            merged = self.counts.view(-1, 2).sum(1)
            self.counts = torch.cat([merged, torch.zeros_like(merged)])
            self._exponent += 1

    def threshold(self) -> float:
        """See `Observer`. Candidates are the upper ends of the bins, and the largest magnitude itself."""
        if self._exponent is None:
            return 0.0
        width = self.range / len(self.counts)
        used = int(self.counts.nonzero().max()) + 1
        candidates = (torch.arange(1, used + 1, dtype=torch.float64) * width).clamp_(max=self._largest)
        occupied = self.counts.nonzero().flatten()
        centres = ((occupied.double() + 0.5) * width).clamp_(max=self._largest)
        weights = self.counts[occupied].double()
        errors = torch.cat(
            [self._errors(candidates[i : i + 256], centres, weights) for i in range(0, len(candidates), 256)]
        )
        return float(candidates[int(errors.argmin())])

    def _errors(self, thresholds: Tensor, centres: Tensor, weights: Tensor) -> Tensor:
        """(T,), (N,), (N,) -> (T,) summed squared error of each threshold."""
        steps = (thresholds / self._top)[:, None]
        quantized = (centres / steps).round_().clamp_(max=self._top).mul_(steps)
        return torch.mv((quantized - centres).square_(), weights)


def make_observer(recipe: Recipe) -> Observer:
    """The observer of activations that a recipe names.

    Raises:
        UnknownNameError: no such observer. UsageError: its settings cannot be used.
    """
    if recipe.observer == "max":
        return MaxObserver()
    if recipe.observer == "mse":
        return MseObserver(recipe.bins)
    raise UnknownNameError("observer", recipe.observer, ("max", "mse"), where="recipe")
