"""Two ways to compute the same, timed in turns until it is clear whether one is faster."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MARGIN = 0.02  # what is faster by less is not worth a change, and is seldom found again
LEAST_ROUNDS, MOST_ROUNDS = 8, 24
_LEAST_TURN_SECONDS = 0.01  # shorter ones are repeated, so that the clock and the scheduler weigh little
_Z95 = 1.96


@dataclass(frozen=True)
class Verdict:
    """What a race found.

    Attributes:
        ratio: median of challenger's / holder's time, round by round.
        low, high: 95 % confidence interval of that median.
        rounds: how many were timed.
        holder_ms, challenger_ms: medians.
        is_faster: the whole interval is below 1 by at least the margin.
    """

    ratio: float
    low: float
    high: float
    rounds: int
    holder_ms: float
    challenger_ms: float
    is_faster: bool


def race(holder: Callable[[], object], challenger: Callable[[], object], *, most_rounds: int = MOST_ROUNDS) -> Verdict:
    """Time both in turns until the interval leaves the margin, on either side, or `most_rounds` are over.

    Who goes first changes from round to round, so that neither always follows the other.
    """
    repeats = [_repeats_per_turn(run) for run in (holder, challenger)]
    times_ms: list[tuple[float, float]] = []
    while len(times_ms) < most_rounds:
        runs = [(0, holder), (1, challenger)]
        if len(times_ms) % 2:
            runs.reverse()
        measured = {side: _turn_ms(run, repeats[side]) for side, run in runs}
        times_ms.append((measured[0], measured[1]))
        if len(times_ms) >= LEAST_ROUNDS:
            verdict = judge(times_ms)
            if verdict.is_faster or verdict.low > 1 - MARGIN:
                return verdict
    return judge(times_ms)


def judge(times_ms: Sequence[tuple[float, float]]) -> Verdict:
    """The verdict on rounds of (holder, challenger) milliseconds.

    The interval is that of the sign test, from order statistics, which holds for noise of any distribution.

    Source: Conover, Practical Nonparametric Statistics, 3rd edition, section 3.2.
    """
    ratios = sorted(challenger / holder for holder, challenger in times_ms)
    count = len(ratios)
    outside = max(0, math.floor((count - _Z95 * math.sqrt(count)) / 2))
    low, high = ratios[outside], ratios[count - 1 - outside]
    return Verdict(
        ratio=statistics.median(ratios),
        low=low,
        high=high,
        rounds=count,
        holder_ms=statistics.median(holder for holder, _ in times_ms),
        challenger_ms=statistics.median(challenger for _, challenger in times_ms),
        is_faster=high < 1 - MARGIN,
    )


def _repeats_per_turn(run: Callable[[], object]) -> int:
    run()  # warms up
    return max(1, math.ceil(_LEAST_TURN_SECONDS * 1e3 / _turn_ms(run, 1)))


def _turn_ms(run: Callable[[], object], repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - started) * 1e3 / repeats
