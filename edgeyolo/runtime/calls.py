"""Calls that were timed, in their order, and what is told of them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np

from edgeyolo.runtime.clock import Clock, Timing
from edgeyolo.runtime.conditions import read_conditions
from edgeyolo.runtime.interval import median_interval
from edgeyolo.spec.benchmark import EndedBy, Minute, Slice

LEAST_CALLS = 100  # before an interval can be called tight

_LEAST_FOR_INTERVAL = 6  # fewer times have no interval of 95 %
_SLICES = 60
_DIGITS = 4


@dataclass
class Calls:
    """Add each call as it ends; the first one began when this was made.

    Attributes:
        ends_s: of each call, from the beginning.
        minutes: of a sustained load.
        ended_by: see `BenchRecord`.
    """

    clock: Clock = field(default_factory=Clock)
    ends_s: list[float] = field(default_factory=list)
    minutes: list[Minute] = field(default_factory=list)
    ended_by: EndedBy = "runs"
    _begun_s: float = field(default_factory=time.perf_counter)
    _in_minutes: int = 0  # calls of the minutes that are over

    def add(self, timing: Timing) -> None:
        """Count one more call, which has just ended."""
        self.clock.add(timing)
        self.ends_s.append(time.perf_counter() - self._begun_s)

    def end(self, ended_by: EndedBy) -> Calls:
        """That was the last one."""
        self.ended_by = ended_by
        return self

    def end_minute(self) -> float:
        """What came since the last minute is one; the median of its calls, milliseconds."""
        part = Clock(self.clock.timings[self._in_minutes :])
        self._in_minutes = len(self.clock.timings)
        spread = part.spread()
        conditions = read_conditions()
        self.minutes.append(
            Minute(calls=len(part.timings), total=spread["total"], network=spread["network"], conditions=conditions)
        )
        return spread["total"].median_ms

    def intervals(self) -> dict[str, tuple[float, float]]:
        """Of the medians of "total" and "network"."""
        if len(self.ends_s) < _LEAST_FOR_INTERVAL:
            return {}
        return {name: median_interval(times) for name, times in self._times_ms().items()}

    def is_tight(self, width: float) -> bool:
        """Whether the interval of the median of whole calls is no wider than this share of it."""
        times_ms = self._times_ms()["total"]
        low, high = median_interval(times_ms)
        return high - low <= width * float(np.median(times_ms))

    def percentiles(self) -> dict[str, tuple[float, ...]]:
        """From the least to the most, 101 of each."""
        return {
            name: tuple(round(float(value), _DIGITS) for value in np.percentile(times, range(101)))
            for name, times in self._times_ms().items()
        }

    def slices(self) -> tuple[Slice, ...]:
        """The calls in order, in parts of as many each, as near as may be."""
        parts = np.array_split(np.arange(len(self.ends_s)), min(_SLICES, len(self.ends_s)))
        return tuple(self._slice(part) for part in parts)

    def _slice(self, places: np.ndarray) -> Slice:
        timings = [self.clock.timings[place] for place in places]
        medians = {
            name: round(float(np.median([getattr(timing, name) for timing in timings])), _DIGITS)
            for name in ("pre_ms", "network_ms", "post_ms")
        }
        return Slice(
            seconds=round(self.ends_s[places[-1]], _DIGITS),
            calls=len(timings),
            most_ms=round(max(timing.total_ms for timing in timings), _DIGITS),
            **medians,
        )

    def _times_ms(self) -> dict[str, list[float]]:
        timings = self.clock.timings
        return {"total": [t.total_ms for t in timings], "network": [t.network_ms for t in timings]}
