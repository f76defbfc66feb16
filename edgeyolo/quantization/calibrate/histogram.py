"""How often each magnitude was seen: exact counts that do not depend on the order, no subsampling."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgeyolo.quantization.calibrate.scales import SMALLEST_RANGE
from edgeyolo.spec.errors import UsageError

_BINS_MAX = 1 << 14
_CHUNK = 1 << 22  # elements at a time, which bounds the memory of the int16 copies


class Histogram:
    """Counts of magnitudes over [0, 2^k) with the smallest k that holds all of them.

    When a larger one comes, the range doubles and neighbouring bins merge; both are exact in binary.

    Args:
        bins: even number of bins.

    Raises:
        UsageError: `bins` is odd or outside 256 ... 16384.
    """

    def __init__(self, bins: int = 2048) -> None:
        if bins % 2 or not 256 <= bins <= _BINS_MAX:
            raise UsageError(f"bins is {bins}; it must be even, from 256 to {_BINS_MAX}", where="recipe")
        self.counts = torch.zeros(bins, dtype=torch.int64)
        self.largest = 0.0
        self._exponent: int | None = None

    @property
    def range(self) -> float:
        """Upper end of the last bin; 0.0 before anything but zeros was seen."""
        return 0.0 if self._exponent is None else 2.0**self._exponent

    @property
    def used(self) -> int:
        """How many bins there are up to the last that is not empty."""
        occupied = self.counts.nonzero()
        return int(occupied.max()) + 1 if len(occupied) else 0

    def add(self, x: Tensor, largest: float) -> None:
        """Count a finite tensor of any shape; `largest` is its largest magnitude."""
        if largest == 0.0:
            self.counts[0] += x.numel()
            return
        self._grow(math.frexp(max(largest, SMALLEST_RANGE))[1])
        self.largest = max(self.largest, largest)
        bins = len(self.counts)
        flat = x.detach().reshape(-1)
        for start in range(0, len(flat), _CHUNK):
            positions = flat[start : start + _CHUNK].abs().mul_(bins / self.range).to(torch.int16)
            self.counts += torch.bincount(positions, minlength=bins).cpu()

    def merge(self, other: Histogram) -> None:
        """Count what another histogram of as many bins has counted."""
        if other._exponent is not None:
            self._grow(other._exponent)
        if self._exponent is not None:
            other._grow(self._exponent)
        self.counts += other.counts
        self.largest = max(self.largest, other.largest)

    def upper_ends(self) -> Tensor:
        """(used,) float64 upper ends of the bins, none above the largest magnitude."""
        width = self.range / len(self.counts)
        return (torch.arange(1, self.used + 1, dtype=torch.float64) * width).clamp_(max=self.largest)

    def centres(self) -> Tensor:
        """(bins,) float64 middles of the bins, none above the largest magnitude."""
        width = self.range / len(self.counts)
        return (torch.arange(len(self.counts), dtype=torch.float64) + 0.5).mul_(width).clamp_(max=self.largest)

    def _grow(self, exponent: int) -> None:
        if self._exponent is None:
            self._exponent = exponent
        while self._exponent < exponent:
            merged = self.counts.view(-1, 2).sum(1)
            self.counts = torch.cat([merged, torch.zeros_like(merged)])
            self._exponent += 1
