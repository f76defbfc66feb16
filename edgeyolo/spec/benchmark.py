"""What `edgeyolo bench` gives: times, and everything that says under which conditions they were taken."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from edgeyolo.spec.layers import LayerReport
from edgeyolo.spec.tuning import Tuning


@dataclass(frozen=True)
class Spread:
    """Median, 90th and 99th percentile of one part of the calls, milliseconds."""

    median_ms: float
    p90_ms: float
    p99_ms: float


class Conditions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The state of the computer at one moment; None or empty where it does not tell.

    Attributes:
        temperature_c: of its hottest sensor.
        clock_mhz: of its processors, on average.
        governor: that chooses the clock.
        throttled: what holds the clock down at this moment, such as "under-voltage".
        throttle_count: how often the processors have been throttled since they were started.
    """

    temperature_c: float | None = None
    clock_mhz: float | None = None
    governor: str = ""
    throttled: tuple[str, ...] = ()
    throttle_count: int = 0


class Minute(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One minute of a sustained load, or what was left of the last.

    Attributes:
        calls: that began in it.
        total, network: of these calls.
        conditions: at its end.
    """

    calls: int
    total: Spread
    network: Spread
    conditions: Conditions


class Comparison(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Two bundles in turns on the same picture.

    Attributes:
        other: the bundle that the first one is compared with.
        rounds: in each of which both were loaded and called, several times in turns.
        total, network: median of the other's time / the first one's, for a picture, and the 95 % interval of that
            median.
    """

    other: str
    rounds: int
    total: tuple[float, float, float]
    network: tuple[float, float, float]


class BenchRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One run of `bench`.

    Attributes:
        bundle: path, and sha256 of the file; "" for a folder.
        target: that the bundle was built for.
        engine, precision: of its artefact, the engine with the version that is installed.
        device: the processor, as the system names it.
        machine: see `spec.machine.describe_machine`.
        date: in UTC.
        threads: that were asked for, 0 for the bundle's own.
        runs, warmup: calls that count, and calls before.
        batch: pictures of a call.
        spread: of "pre", "network", "post" and "total", a whole call.
        per_second: calls in a row that are done in a second, what comes between them included.
        load_ms: until the bundle was open.
        first_ms: from the start of loading to the first boxes.
        peak_memory_mib: of the process, Python and all.
        before, after: the warm-up is over, the last call is just done.
        throttled: what slowed the processor down meanwhile; empty where nothing is known to have.
        minutes: of a sustained load.
        max_ms: the limit that was asked for.
        layers: in which precision each layer runs, and how long it takes; None unless it was asked for.
    """

    bundle: str
    bundle_sha256: str = ""
    target: str
    engine: str
    precision: str
    device: str
    machine: dict[str, object]
    date: str
    threads: int
    runs: int
    warmup: int
    batch: int = 1
    picture_hw: tuple[int, int]
    spread: dict[str, Spread]
    per_second: float
    load_ms: float
    first_ms: float
    peak_memory_mib: float | None
    before: Conditions
    after: Conditions
    throttled: tuple[str, ...] = ()
    minutes: tuple[Minute, ...] = ()
    tuning: Tuning | None = None
    comparison: Comparison | None = None
    max_ms: float | None = None
    layers: LayerReport | None = None
