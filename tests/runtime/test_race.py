"""Races: what is clearly faster wins, what is not does not, the interval covers the truth. The clock is the test's."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from edgeyolo.runtime import race as race_module
from edgeyolo.runtime.race import FIXED_ROUNDS, MARGIN, Verdict, judge, looks, measure, race


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
    assert won.rounds == lost.rounds == looks(1)[0] == 8  # clear at once, so no time is lost
    assert won.holder_ms == pytest.approx(20, rel=0.1) and won.challenger_ms == pytest.approx(15, rel=0.1)


def test_what_is_faster_by_less_than_the_margin_does_not_win(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    verdict = race(clock.runner(20), clock.runner(20 * (1 - MARGIN / 2)))
    assert not verdict.is_faster and verdict.ratio == pytest.approx(1 - MARGIN / 2)


@pytest.mark.parametrize("noise", [0.1, 0.2])
def test_a_search_among_equals_finds_nothing(monkeypatch: pytest.MonkeyPatch, noise: float) -> None:
    """Thirty searches of thirty choices that change nothing, under noise: hardly any search accepts any of them."""
    clock = Clock(monkeypatch)
    runs = [clock.runner(20, noise, seed) for seed in (0, 1)]
    fooled = sum(any(race(*runs, races=30).is_faster for _ in range(30)) for _ in range(30))
    assert fooled <= 2  # 5 % of 30, and none is expected


def test_a_search_still_finds_what_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    slow, fast = clock.runner(20, 0.05, 0), clock.runner(18, 0.05, 1)
    assert sum(race(slow, fast, races=30).is_faster for _ in range(40)) >= 38


def test_figures_for_the_record_are_not_of_a_lucky_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a change that is 3 % faster only lucky rounds win; rounds that decide nothing tell what it is worth."""
    clock = Clock(monkeypatch)
    slow, fast = clock.runner(20, 0.1, 0), clock.runner(19.4, 0.1, 1)
    deciding, recorded = [], []
    for _ in range(600):
        verdict = measure(slow, fast)
        assert verdict.rounds == FIXED_ROUNDS
        if verdict.is_faster:
            deciding.append(verdict.ratio)
            recorded.append(measure(slow, fast).ratio)
    assert len(deciding) > 10 and np.mean(deciding) < 0.93
    assert np.mean(recorded) == pytest.approx(0.97, abs=3 * 0.14 * 1.25 / (FIXED_ROUNDS * len(recorded)) ** 0.5)


def test_a_race_that_stays_unclear_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    for races in (1, 30, 1000):
        verdict = race(clock.runner(20, 0.5, 3), clock.runner(17, 0.5, 4), races=races)
        assert verdict.rounds in looks(races) and looks(races)[-1] <= 100
        assert math.isfinite(verdict.high) and verdict.low > 0


def test_short_runs_are_repeated_until_a_turn_is_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    calls = 0

    def run() -> None:
        nonlocal calls
        calls += 1
        clock.seconds += 1e-3

    verdict = race(run, clock.runner(2))
    assert verdict.ratio == pytest.approx(2) and calls == 2 + 10 * verdict.rounds


@pytest.mark.parametrize("rounds", [6, 8, 12, 16, 24, 48])
def test_the_interval_covers_the_median_as_often_as_it_says(rounds: int) -> None:
    """4000 races whose ratio has the median 1: the interval misses it in at most 5 %, whatever the number of rounds."""
    rng = np.random.default_rng(0)
    verdicts = [judge([(1.0, float(x)) for x in np.exp(rng.standard_normal(rounds))]) for _ in range(4000)]
    assert all(v.low <= v.ratio <= v.high for v in verdicts)
    misses = sum(not v.low <= 1 <= v.high for v in verdicts)
    assert misses / 4000 < 0.05 + 3 * (0.05 * 0.95 / 4000) ** 0.5


def test_the_interval_is_that_of_the_binomial_table() -> None:
    """Of n ratios, the ranks of the 95 % interval of a median. Source: Conover, table A3 (p = 0.5)."""
    for rounds, (first, last) in {6: (1, 6), 8: (1, 8), 10: (2, 9), 12: (3, 10), 15: (4, 12), 20: (6, 15)}.items():
        verdict = judge([(1.0, float(rank)) for rank in range(1, rounds + 1)])
        assert (verdict.low, verdict.high) == (first, last)
    assert judge([(1.0, 2.0)] * 5) == Verdict(2.0, 0.0, math.inf, 5, 1.0, 2.0, is_faster=False)
