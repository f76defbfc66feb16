"""Mixed precision under an accuracy budget: as few layers float as the deployed artefact allows."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from edgeyolo.quantization.quantize import Quantized
from edgeyolo.quantization.study.float_groups import check_groups, with_groups_float
from edgeyolo.spec.progress import SILENT, Progress

logger = logging.getLogger(__name__)

_WHY = "floated: to meet the accuracy budget"
_RETRIES = 3


class BudgetStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One artefact that was measured.

    Attributes:
        groups: that were floated.
        layers: how many layers that is.
        ap: of the artefact, percent.
        drop: AP points below the float model.
    """

    groups: tuple[str, ...]
    layers: int
    ap: float
    drop: float


@dataclass(frozen=True)
class BudgetResult:
    """What `meet_budget` found.

    Attributes:
        quantized: the model to ship; if the budget is not met, the most accurate one.
        met: whether the artefact of `quantized`, as measured, is within the budget.
        floated: groups of the model given that are float in `quantized`, in the order of the ranking.
        trail: every artefact that was measured, in the order of time.
    """

    quantized: Quantized
    met: bool
    floated: tuple[str, ...]
    trail: tuple[BudgetStep, ...]


def meet_budget(
    quantized: Quantized,
    ranking: Sequence[str],
    *,
    float_ap: float,
    max_drop: float,
    measure_deployed: Callable[[Quantized], float],
    progress: Progress = SILENT,
) -> BudgetResult:
    """Float the most sensitive groups until the deployed artefact is within the budget.

    Nothing floated is tried first, then the first 1, 2, 4 ... groups of the ranking. Once such a prefix is within the
    budget, the shortest one is sought by bisection between it and the longest seen to fail. Last, up to three of its
    groups, those with the most layers first, are given back to int8 one at a time where the budget allows.

    What holds however the measurements jump about: no artefact is measured twice, there are at most
    2 log2(n) + 6 measurements for n groups, the artefact returned as within the budget was measured so itself, and if
    a prefix was floated at all, the prefix one group shorter was measured and failed. Where AP never falls as the
    prefix grows, it is the shortest prefix there is. At least one layer stays int8.

    Args:
        ranking: groups of `quantized.placement`, most sensitive first; those not named stay int8.
        float_ap: AP of the float model on the pictures that `measure_deployed` uses, percent.
        max_drop: AP points that may be lost.
        measure_deployed: builds the artefact and returns its AP, percent.
        progress: told after each measurement.

    Raises:
        UnknownNameError: a name in `ranking` that is no group.
    """
    search = _Search(quantized, ranking, float_ap, max_drop, measure_deployed, progress)
    chosen = search.shortest_prefix()
    if chosen is None:
        best = max(search.trail, key=lambda step: (-math.inf if math.isnan(step.ap) else step.ap, -step.layers))
        logger.warning("no choice of float layers keeps the drop within %.2f AP; the best is %.2f", max_drop, best.drop)
        return BudgetResult(with_groups_float(quantized, best.groups, _WHY), False, best.groups, tuple(search.trail))
    chosen = search.give_back(chosen)
    return BudgetResult(with_groups_float(quantized, chosen, _WHY), True, chosen, tuple(search.trail))


class _Search:
    """Measurements so far, and the next ones to make; arguments as in `meet_budget`."""

    def __init__(
        self,
        quantized: Quantized,
        ranking: Sequence[str],
        float_ap: float,
        max_drop: float,
        measure_deployed: Callable[[Quantized], float],
        progress: Progress,
    ) -> None:
        check_groups(quantized, ranking)
        self._quantized = quantized
        self._ranking = tuple(dict.fromkeys(ranking))
        self._float_ap, self._max_drop = float_ap, max_drop
        self._measure_deployed, self._progress = measure_deployed, progress
        self._longest = min(len(self._ranking), len(quantized.placement.groups) - 1)
        self._most = 2 * self._longest.bit_length() + 1 + _RETRIES
        self.trail: list[BudgetStep] = []

    def shortest_prefix(self) -> tuple[str, ...] | None:
        """Doubling, then bisection; None if no prefix that was tried meets the budget."""
        failing, meeting = -1, 0
        while not self._meets(self._ranking[:meeting]):
            if meeting >= self._longest:
                return None
            failing, meeting = meeting, min(max(1, 2 * meeting), self._longest)
        while meeting - failing > 1:
            middle = (failing + meeting) // 2
            if self._meets(self._ranking[:middle]):
                meeting = middle
            else:
                failing = middle
        return self._ranking[:meeting]

    def give_back(self, floated: tuple[str, ...]) -> tuple[str, ...]:
        """Without the groups that turn out not to matter; the last of the prefix is known to."""
        candidates = sorted(floated[:-1], key=self._layer_count, reverse=True)
        for group in candidates[:_RETRIES]:
            fewer = tuple(name for name in floated if name != group)
            if self._meets(fewer):
                floated = fewer
        return floated

    def _layer_count(self, *groups: str) -> int:
        return sum(len(self._quantized.placement.groups[group].layers) for group in groups)

    def _meets(self, groups: tuple[str, ...]) -> bool:
        ap = self._measure_deployed(with_groups_float(self._quantized, groups, _WHY))
        step = BudgetStep(groups, self._layer_count(*groups), ap, self._float_ap - ap)
        self.trail.append(step)
        self._progress.step(
            "budget", len(self.trail), self._most, f"{step.layers} layers float: AP {ap:.2f}, drop {step.drop:.2f}"
        )
        return step.drop <= self._max_drop
