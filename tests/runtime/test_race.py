"""Races: what is clearly faster wins, what is not does not, the interval covers the truth. The clock is the test's."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from edgeyolo.runtime import race as race_module
from edgeyolo.runtime.race import LEAST_ROUNDS, MARGIN, MOST_ROUNDS, judge, race


class Clock:
    """Time that passes only when somebody runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        monkeypatch.setattr(race_module.time, "perf_counter", lambda: self.seconds)

    def runner(self, ms: float, noise: float = 0.0, seed: int = 0) -> Callable[[], None]:
        """Something that takes `ms`, times exp(N(0, noise))."""
        rng = np.random.default_rng(seed)

        def run() -> None:
            self.seconds += ms / 1e3 * math.exp(noise * rng.standard_normal())

        return run


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_clear_difference_is_found_either_way(monkeypatch: pytest.MonkeyPatch, noise: float) -> None:
    clock = Clock(monkeypatch)
    won = race(clock.runner(20, noise), clock.runner(15, noise, seed=1))
    lost = race(clock.runner(15, noise), clock.runner(20, noise, seed=1))
    assert won.is_faster and not lost.is_faster
    assert won.low <= 0.75 <= won.high and lost.low <= 20 / 15 <= lost.high
    assert won.rounds == lost.rounds == LEAST_ROUNDS  # clear at once, so no time is lost
    assert won.holder_ms == pytest.approx(20, rel=0.1) and won.challenger_ms == pytest.approx(15, rel=0.1)


def test_what_is_faster_by_less_than_the_margin_does_not_win(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    verdict = race(clock.runner(20), clock.runner(20 * (1 - MARGIN / 2)))
    assert not verdict.is_faster and verdict.ratio == pytest.approx(1 - MARGIN / 2)


def test_noise_alone_never_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty races of equals under 20 % noise: 95 % intervals and the margin leave at most one or two."""
    clock = Clock(monkeypatch)
    wins = sum(race(clock.runner(20, 0.2, 2 * i), clock.runner(20, 0.2, 2 * i + 1)).is_faster for i in range(20))
    assert wins <= 2


def test_a_race_that_stays_unclear_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    verdict = race(clock.runner(20, 0.5, 3), clock.runner(18, 0.5, 4))
    assert LEAST_ROUNDS <= verdict.rounds <= MOST_ROUNDS


def test_short_runs_are_repeated_until_a_turn_is_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    calls = 0

    def run() -> None:
        nonlocal calls
        calls += 1
        clock.seconds += 1e-3

    verdict = race(run, clock.runner(2))
    assert verdict.ratio == pytest.approx(2) and calls == 2 + 10 * verdict.rounds


def test_the_interval_covers_the_median_as_often_as_it_says() -> None:
    """2000 races of 12 rounds whose ratio has the median 1: the interval misses it in at most 5 % and a little."""
    rng = np.random.default_rng(0)
    times = np.exp(0.3 * rng.standard_normal((2000, 12, 2)))
    misses = 0
    for rounds in times:
        verdict = judge([(float(a), float(b)) for a, b in rounds])
        assert verdict.low <= verdict.ratio <= verdict.high
        misses += not verdict.low <= 1 <= verdict.high
    assert misses / 2000 < 0.06
