"""Where the time of a `detect` call goes: before, in and after the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from edgeyolo.spec.benchmark import Spread
from edgeyolo.spec.model import Latency


@dataclass(frozen=True)
class Timing:
    """One call, milliseconds for all its pictures together."""

    pre_ms: float
    network_ms: float
    post_ms: float

    @property
    def total_ms(self) -> float:
        """The whole call."""
        return self.pre_ms + self.network_ms + self.post_ms


@dataclass
class Clock:
    """Collects timings, one per call: `clock.add(detector.timing)`.

    Attributes:
        timings: in the order of the calls.
    """

    timings: list[Timing] = field(default_factory=list)

    def add(self, timing: Timing) -> None:
        """Count one more call."""
        self.timings.append(timing)

    def spread(self) -> dict[str, Spread]:
        """Of "pre", "network", "post" and "total"; at least one timing must have been added."""
        return {
            "pre": spread_of([t.pre_ms for t in self.timings]),
            "network": spread_of([t.network_ms for t in self.timings]),
            "post": spread_of([t.post_ms for t in self.timings]),
            "total": spread_of([t.total_ms for t in self.timings]),
        }

    def latency(self, *, device: str, threads: int) -> Latency:
        """The record that a manifest keeps; at least one timing must have been added."""
        spread = self.spread()
        return Latency(
            device=device,
            threads=threads,
            runs=len(self.timings),
            total_ms_median=round(spread["total"].median_ms, 3),
            total_ms_p90=round(spread["total"].p90_ms, 3),
            network_ms_median=round(spread["network"].median_ms, 3),
        )


def spread_of(values_ms: Sequence[float]) -> Spread:
    """Median, p90 and p99 of at least one time."""
    median, p90, p99 = np.percentile(np.asarray(values_ms, np.float64), (50, 90, 99))
    return Spread(float(median), float(p90), float(p99))
