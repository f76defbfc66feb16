"""Medians, p90 and p99 of known timings."""

from __future__ import annotations

from edgeyolo.runtime.clock import Clock, Timing


def test_spread_and_latency_of_known_timings() -> None:
    clock = Clock()
    for i in range(11):  # 0 ... 10: median 5, p90 9
        clock.add(Timing(pre_ms=float(i), network_ms=10.0 + i, post_ms=2.0))
    spread = clock.spread()
    assert (spread["pre"].median_ms, spread["pre"].p90_ms) == (5.0, 9.0)
    assert (spread["network"].median_ms, spread["post"].p90_ms) == (15.0, 2.0)
    assert spread["total"].median_ms == 22.0
    latency = clock.latency(device="board", threads=2)
    assert (latency.runs, latency.total_ms_median, latency.total_ms_p90, latency.network_ms_median) == (
        11,
        22.0,
        30.0,
        15.0,
    )
