"""Observers: from many tensors to the range that 8-bit integers should cover."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from edgeyolo.quantization.calibrate.histogram import Histogram
from edgeyolo.spec.errors import UnknownNameError, UsageError
from edgeyolo.spec.recipe import Recipe

if TYPE_CHECKING:
    from typing_extensions import Self

_TOP = 127  # largest of the symmetric 8-bit integers
_LEVELS = _TOP + 1  # magnitudes they tell apart


class Observer(Protocol):
    """Sees tensors, then chooses a range."""

    def collect(self, x: Tensor, largest: float) -> None:
        """Take a finite tensor of any shape into account; `largest` is its largest magnitude."""

    def merge(self, other: Self) -> None:
        """Take into account what another observer of the kind has seen."""

    def threshold(self) -> float:
        """The magnitude that the largest integer stands for; 0.0 if only zeros were seen."""


class MaxObserver:
    """The largest magnitude seen."""

    def __init__(self) -> None:
        self._largest = 0.0

    def collect(self, x: Tensor, largest: float) -> None:
        """See `Observer`."""
        self._largest = max(self._largest, largest)

    def merge(self, other: MaxObserver) -> None:
        """See `Observer`."""
        self._largest = max(self._largest, other._largest)

    def threshold(self) -> float:
        """See `Observer`."""
        return self._largest


class _HistogramObserver(ABC):
    """What the observers that look at a histogram of magnitudes have in common.

    Args:
        bins: of the histogram; errors as there.
    """

    def __init__(self, bins: int = 2048) -> None:
        self.histogram = Histogram(bins)

    def collect(self, x: Tensor, largest: float) -> None:
        """See `Observer`."""
        self.histogram.add(x, largest)

    def merge(self, other: _HistogramObserver) -> None:
        """See `Observer`."""
        self.histogram.merge(other.histogram)

    def threshold(self) -> float:
        """See `Observer`."""
        return self._choose() if self.histogram.largest > 0.0 else 0.0

    @abstractmethod
    def _choose(self) -> float:
        """The threshold, once something other than zeros was seen."""


class MseObserver(_HistogramObserver):
    """The threshold with the least expected squared error of rounding and clipping.

    Candidates are the upper ends of the bins, and the largest magnitude itself.

    Args:
        clipping_weight: how many times an error of clipping counts against one of rounding, which a sum over many
            values averages away; clipping errs to one side.
    """

    def __init__(self, bins: int = 2048, clipping_weight: float = 1.0) -> None:
        super().__init__(bins)
        self._clipping_weight = clipping_weight

    def _choose(self) -> float:
        candidates = self.histogram.upper_ends()
        occupied = self.histogram.counts.nonzero().flatten()
        centres, weights = self.histogram.centres()[occupied], self.histogram.counts[occupied].double()
        parts = torch.split(candidates, 256)
        errors = torch.cat([_squared_errors(part, centres, weights, self._clipping_weight) for part in parts])
        return float(candidates[int(errors.argmin())])


class PercentileObserver(_HistogramObserver):
    """The least upper end of a bin with at least `percentile` percent of all magnitudes, zeros included, below it.

    Args:
        percentile: in (0, 100]; 100 is the largest magnitude.

    Raises:
        UsageError: `percentile` is outside, or `bins` as in `Histogram`.
    """

    def __init__(self, percentile: float = 99.99, bins: int = 2048) -> None:
        super().__init__(bins)
        if not 0.0 < percentile <= 100.0:  # also refuses NaN
            raise UsageError(f"percentile is {percentile}; it must be above 0 and at most 100", where="recipe")
        self._percentile = percentile

    def _choose(self) -> float:
        below = self.histogram.counts[: self.histogram.used].cumsum(0)
        wanted = self._percentile / 100.0 * float(below[-1])
        position = int(torch.searchsorted(below.double(), wanted))
        return float(self.histogram.upper_ends()[min(position, len(below) - 1)])


class EntropyObserver(_HistogramObserver):
    """The threshold whose 128 magnitudes lose the least information, as Kullback-Leibler divergence.

    A candidate takes the first i bins. The reference P is these bins with everything beyond added to the last; Q is
    these bins, cut into 128 equal parts, each spread evenly over its bins that are not empty.

    Source: Migacz, "8-bit inference with TensorRT", GTC 2017, slides 37-39.
    Differs: Q is not scaled up to the mass of P, so what is clipped costs a candidate -log of the part it keeps; scaled
    up, a candidate of one bin that is not empty would be perfect. What is beyond is added to the last bin that is not
    empty, so that P has mass only where Q has and nothing need be smoothed. The first bin counts for nothing: zero has
    no error under any candidate, and after a ReLU would outweigh the rest.
    """

    def _choose(self) -> float:
        counts = self.histogram.counts[: self.histogram.used].double()
        if len(counts) < _LEVELS:  # all is below the finest range that bins have, and has a magnitude for each anyway
            return self.histogram.largest
        counts[0] = 0.0
        candidates = torch.arange(_LEVELS, len(counts) + 1)  # bins taken by each
        candidates = candidates[counts.cumsum(0)[candidates - 1] > 0]
        if len(candidates) == 0:
            return self.histogram.largest
        best = int(candidates[int(_divergences(counts, candidates).argmin())])
        return float(self.histogram.upper_ends()[best - 1])


def make_observer(recipe: Recipe) -> Observer:
    """The observer of activations that a recipe names.

    Raises:
        UnknownNameError: no such observer. UsageError: its settings cannot be used.
    """
    if recipe.observer == "max":
        return MaxObserver()
    if recipe.observer == "percentile":
        return PercentileObserver(recipe.percentile, recipe.bins)
    if recipe.observer == "entropy":
        return EntropyObserver(recipe.bins)
    if recipe.observer == "mse":
        return MseObserver(recipe.bins, recipe.clipping_weight)
    if recipe.observer == "output":
        return MseObserver(recipe.bins)
    known = ("max", "percentile", "entropy", "mse", "output")
    raise UnknownNameError("observer", recipe.observer, known, where="recipe")


def _squared_errors(thresholds: Tensor, centres: Tensor, weights: Tensor, clipping_weight: float) -> Tensor:
    """(T,), (N,), (N,) -> (T,) summed squared error of each threshold."""
    steps = (thresholds / _TOP)[:, None]
    quantized = (centres / steps).round_().clamp_(max=_TOP).mul_(steps)
    errors = (quantized - centres).square_()
    if clipping_weight != 1.0:
        errors.mul_(torch.where(centres > thresholds[:, None], clipping_weight, 1.0))
    return torch.mv(errors, weights)


def _divergences(counts: Tensor, candidates: Tensor) -> Tensor:
    """KL(P || Q) of candidates that each take some of the first bins, not all of them empty.

    Sum of P log P is a prefix sum over bins. In sum of P log Q, Q has one value per part, so one term per part is
    enough, from prefix sums at the ends of the parts.

    Args:
        counts: (N,) float64 counts of the bins.
        candidates: (T,) int64, from 128 to N.

    Returns:
        (T,) float64.
    """
    total = counts.sum()
    mass, filled, information = (_prefix_sums(values) for values in (counts, counts > 0, torch.xlogy(counts, counts)))
    kept = mass[candidates]
    positions = torch.arange(len(counts))
    last = torch.where(counts > 0, positions, 0).cummax(0).values[candidates - 1]  # not empty
    at_last, with_beyond = counts[last], counts[last] + total - kept
    p_log_p = information[candidates] - torch.xlogy(at_last, at_last) + torch.xlogy(with_beyond, with_beyond)

    ends = (candidates[:, None] * torch.arange(_LEVELS + 1) + _LEVELS - 1) // _LEVELS  # bin j is in part j * 128 // i
    part_mass, part_filled = mass[ends].diff(dim=1), filled[ends].diff(dim=1)  # (T, 128)
    q = part_mass / part_filled.clamp(min=1.0)  # counts of each bin of a part that is not empty
    log_q = q.clamp(min=1.0).log()
    log_q_last = log_q.gather(1, (last * _LEVELS // candidates)[:, None])[:, 0]
    p_log_q = (part_mass * log_q).sum(1) + (total - kept) * log_q_last
    return (p_log_p - p_log_q) / total


def _prefix_sums(values: Tensor) -> Tensor:
    """(N,) -> (N + 1,) float64 sums of the first 0 ... N values."""
    return torch.cat([torch.zeros(1, dtype=torch.float64), values.double().cumsum(0)])
