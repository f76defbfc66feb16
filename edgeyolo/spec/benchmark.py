"""What `edgeyolo bench` gives: times, and everything that says under which conditions they were taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from edgeyolo.spec.layers import LayerReport
from edgeyolo.spec.model import Score
from edgeyolo.spec.tuning import Tuning

EndedBy = Literal["runs", "minutes", "interval", "time"]


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
        gpu_clock_mhz: of a Jetson's GPU.
        governor: that chooses the clock.
        throttled: what holds the clock down at this moment, such as "under-voltage".
        throttle_count: how often the processors have been throttled since they were started, for heat or for current.
    """

    temperature_c: float | None = None
    clock_mhz: float | None = None
    gpu_clock_mhz: float | None = None
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
        threads: of both, 0 for each bundle's own.
        confidence: of the intervals.
        total, network: the other's time / the first one's, for a picture, and the interval of that ratio.
    """

    other: str
    rounds: int
    threads: int = 0
    confidence: float = 0.95
    total: tuple[float, float, float]
    network: tuple[float, float, float]


class Rail(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one line of the board's supply gave while calls were timed.

    Attributes:
        source: the sensor, such as "ina3221", "battery", "PMIC" or "RAPL".
        name: of the line, such as "VDD_IN"; some lines are part of others.
        mean_w, most_w: watts; no most where energy was counted.
        joules_per_call: of all that the line feeds, idle parts too.
    """

    source: str
    name: str
    mean_w: float
    most_w: float | None = None
    joules_per_call: float


class Slice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Consecutive calls: medians of each part, milliseconds, and the slowest call.

    Attributes:
        seconds: from the start of the first call of all to the end of these.
    """

    seconds: float
    calls: int
    pre_ms: float
    network_ms: float
    post_ms: float
    most_ms: float


class BenchRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One run of `bench`.

    Attributes:
        bundle: path, and sha256 of the file; "" for a folder.
        model, image_hw: of the network, and what it takes; "" and zeros in records of 0.1.0.
        licence: of its weights, as in `spec.figure.ScoreboardRow`.
        scores: of this artefact and of the float model, as the bundle has them.
        target: that the bundle was built for.
        engine, precision: of its artefact, the engine with the version that is installed.
        device: the processor, as the system names it.
        machine: see `spec.machine.describe_machine`.
        date: in UTC.
        threads: that were asked for, 0 for the bundle's own, or fewer as other work leaves cores.
        threads_used: at the end, 0 where the engine has none to choose.
        runs, warmup: calls that count, and calls before.
        batch: pictures of a call.
        spread: of "pre", "network", "post" and "total", a whole call.
        interval_ms: of the medians of "total" and "network", 95 %; none of too few calls.
        ended_by: what ended it: "runs" or "minutes" as asked for, an "interval" that was tight, or "time" that was up.
        percentiles_ms: 101 of "total" and "network": least, each hundredth, most.
        slices: the run in order, at most 60 of them.
        per_second: calls in a row that are done in a second, what comes between them included.
        load_ms: until the bundle was open.
        first_ms: from the start of loading to the first boxes.
        peak_memory_mib: of the process, Python and all.
        before, after: the warm-up is over, the last call is just done.
        throttled: what slowed the processor down meanwhile; empty where nothing is known to have.
        power: what the supply gave meanwhile; empty where the computer does not show it.
        minutes: of a sustained load.
        max_ms: the limit that was asked for.
        layers: in which precision each layer runs, and how long it takes; None unless it was asked for.
    """

    bundle: str
    bundle_sha256: str = ""
    model: str = ""
    image_hw: tuple[int, int] = (0, 0)
    licence: str = ""
    scores: tuple[Score, ...] = ()
    target: str
    engine: str
    precision: str
    device: str
    machine: dict[str, object]
    date: str
    threads: int
    threads_used: int = 0
    runs: int
    warmup: int
    batch: int = 1
    picture_hw: tuple[int, int]
    spread: dict[str, Spread]
    interval_ms: dict[str, tuple[float, float]] = {}
    ended_by: EndedBy = "runs"
    percentiles_ms: dict[str, tuple[float, ...]] = {}
    slices: tuple[Slice, ...] = ()
    per_second: float
    load_ms: float
    first_ms: float
    peak_memory_mib: float | None
    before: Conditions
    after: Conditions
    throttled: tuple[str, ...] = ()
    power: tuple[Rail, ...] = ()
    minutes: tuple[Minute, ...] = ()
    tuning: Tuning | None = None
    comparison: Comparison | None = None
    max_ms: float | None = None
    layers: LayerReport | None = None
