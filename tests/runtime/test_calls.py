"""What is told of timed calls: when they are enough, how they are distributed, how they went."""

from __future__ import annotations

import numpy as np
import pytest

from edgeyolo.runtime import bench
from edgeyolo.runtime.calls import LEAST_CALLS, Calls
from edgeyolo.runtime.clock import Timing
from edgeyolo.spec.detecting import BenchOptions
from edgeyolo.spec.progress import SILENT


class Steady:
    """A detector whose calls take what they are told to take."""

    batch, threads = 1, 0

    def __init__(self, noise: float) -> None:
        self._rng, self._noise = np.random.default_rng(0), noise
        self.calls = 0

    def detect_batch(self, _: object) -> None:
        self.calls += 1
        self.timing = Timing(1.0, 10.0 * float(np.exp(self._noise * self._rng.standard_normal())), 2.0)


def call(noise: float, **options: float) -> Calls:
    return bench._call(Steady(noise), np.zeros((2, 2, 3), np.uint8), BenchOptions(**options), SILENT)


def test_calls_go_on_until_the_interval_of_the_median_is_narrow() -> None:
    calm, noisy = call(0.01, seconds=100.0), call(0.1, seconds=100.0)
    assert calm.ended_by == noisy.ended_by == "interval"
    assert len(calm.ends_s) == LEAST_CALLS < len(noisy.ends_s)
    low, high = noisy.intervals()["total"]
    median_ms = noisy.clock.spread()["total"].median_ms
    assert low <= median_ms <= high <= low + 0.02 * median_ms
    assert len(call(0.1, seconds=100.0, width=0.1).ends_s) == LEAST_CALLS


def test_they_end_when_asked_to_or_when_the_time_is_up() -> None:
    assert (len((asked := call(0.1, runs=3)).ends_s), asked.ended_by) == (3, "runs")
    assert asked.intervals() == {}, "three times say nothing"
    assert call(0.5, seconds=0.01).ended_by == "time"
    minutes = call(0.1, minutes=0.0002)
    assert minutes.ended_by == "minutes" and sum(part.calls for part in minutes.minutes) == len(minutes.ends_s)


@pytest.mark.parametrize("count", [3, 7, 200])
def test_all_calls_are_in_the_slices_in_their_order(count: int) -> None:
    calls = Calls()
    for i in range(count):
        calls.add(Timing(1.0, float(i), 2.0))
    slices = calls.slices()
    assert sum(part.calls for part in slices) == count and len(slices) == min(count, 60)
    assert [part.network_ms for part in slices] == sorted(part.network_ms for part in slices)
    assert slices[-1].most_ms == count + 2 and slices[-1].seconds == pytest.approx(calls.ends_s[-1], abs=1e-3)
    percentiles = calls.percentiles()
    assert len(percentiles["network"]) == 101
    assert (percentiles["network"][0], percentiles["network"][100]) == (0, count - 1)
    assert percentiles["total"][50] == pytest.approx(calls.clock.spread()["total"].median_ms)


def test_the_warm_up_lasts_until_threads_have_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are threads to choose, nobody has said how many, and the median is to be sure."""
    monkeypatch.setattr(bench, "SETTLING_S", 0.05)

    def warm_up(used: int, **options: float) -> int:
        detector = Steady(0.1)
        detector.threads = used
        counted = bench._warm_up(detector, np.zeros((2, 2, 3), np.uint8), BenchOptions(**options))
        assert counted == 1 + detector.calls  # the first call was timed by itself
        return counted

    assert warm_up(2, warmup=10) > 100
    assert warm_up(0, warmup=10) == warm_up(2, warmup=10, runs=5) == warm_up(2, warmup=10, threads=2) == 10
    assert warm_up(2, warmup=0) == 1
