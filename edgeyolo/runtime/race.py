"""Two ways to compute the same, timed in turns until it is clear whether one is faster.

Everything rests on the sign test: a round counts as one coin, whatever the noise is like. A race is looked at three
times, and one race of many in a search wins only where noise would hardly let any of them win.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MARGIN = 0.02  # what is faster by less is not worth a change, and is seldom found again
FIXED_ROUNDS = 24
ERROR = 0.05  # how often an interval may miss, or all intervals of a search together

_LEAST_ROUNDS = 8
_LOOKS = (1, 2, 4)  # in units of the fewest rounds with which a race can be won at all
_LEAST_TURN_SECONDS = 0.01  # shorter ones are repeated, so that the clock and the scheduler weigh little


@dataclass(frozen=True)
class Verdict:
    """What a race found.

    Attributes:
        ratio: median of challenger's / holder's time, round by round.
        low, high: confidence interval of that median.
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


def race(holder: Callable[[], object], challenger: Callable[[], object], *, races: int = 1) -> Verdict:
    """Time both in turns, look a few times, and stop when the challenger has won or no longer seems to.

    The intervals of all races of a search, and those of every look at them, hold together with 95 %: so the chance that
    a search accepts anything that is not faster by the margin is below 2.5 %, however noisy the computer is.

    Args:
        races: how many the search makes.
    """
    error = ERROR / (races * len(_LOOKS))
    turns = Turns(holder, challenger)
    for rounds in looks(races):
        verdict = judge(turns.play(rounds), error=error)
        if verdict.is_faster or verdict.ratio > 1 - MARGIN:
            break
    return verdict


def looks(races: int) -> tuple[int, ...]:
    """After how many rounds a race of a search is looked at."""
    error = ERROR / (races * len(_LOOKS))
    first = max(_LEAST_ROUNDS, math.ceil(math.log2(2 / error)))
    return tuple(first * times for times in _LOOKS)


def measure(holder: Callable[[], object], challenger: Callable[[], object], *, rounds: int = FIXED_ROUNDS) -> Verdict:
    """Time both in turns, `rounds` times whatever comes out, so that the figures are of no lucky moment."""
    return judge(Turns(holder, challenger).play(rounds))


def judge(times_ms: Sequence[Sequence[float]], *, error: float = ERROR) -> Verdict:
    """The verdict on rounds of (holder, challenger) milliseconds.

    The interval is that of the sign test, from order statistics: exact for noise of any distribution, and wider than
    asked for rather than narrower.

    Args:
        error: how often the interval may miss the true median; with too few rounds for it, it has no end.

    Source: Conover, Practical Nonparametric Statistics, 3rd edition, section 3.2.
    """
    ratios = sorted(challenger / holder for holder, challenger in times_ms)
    outside = _most_outside(len(ratios), error / 2)
    low, high = (ratios[outside], ratios[-1 - outside]) if outside >= 0 else (0.0, math.inf)
    return Verdict(
        ratio=statistics.median(ratios),
        low=low,
        high=high,
        rounds=len(ratios),
        holder_ms=statistics.median(holder for holder, _ in times_ms),
        challenger_ms=statistics.median(challenger for _, challenger in times_ms),
        is_faster=high < 1 - MARGIN,
    )


def _most_outside(rounds: int, error: float) -> int:
    """The largest k such that k heads or fewer of `rounds` fair coins have at most the chance `error`, or -1."""
    chance, outside = 0.0, -1
    while outside + 1 < rounds:
        chance += math.comb(rounds, outside + 1) / 2**rounds
        if chance > error:
            break
        outside += 1
    return outside


class Turns:
    """Rounds of contestants who run one after the other; who goes first changes, so that none always follows another.

    Args:
        runs: the contestants.
    """

    def __init__(self, *runs: Callable[[], object]) -> None:
        self._runs = runs
        self._repeats = [_repeats_per_turn(run) for run in runs]
        self._times_ms: list[tuple[float, ...]] = []

    def play(self, rounds: int) -> list[tuple[float, ...]]:
        """Milliseconds of each contestant in every round so far, once there are so many."""
        count = len(self._runs)
        while len(self._times_ms) < rounds:
            first = len(self._times_ms) % count
            order = [*range(first, count), *range(first)]
            measured = {side: _turn_ms(self._runs[side], self._repeats[side]) for side in order}
            self._times_ms.append(tuple(measured[side] for side in range(count)))
        return self._times_ms


def _repeats_per_turn(run: Callable[[], object]) -> int:
    run()  # warms up
    return max(1, math.ceil(_LEAST_TURN_SECONDS * 1e3 / _turn_ms(run, 1)))


def _turn_ms(run: Callable[[], object], repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - started) * 1e3 / repeats
