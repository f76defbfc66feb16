"""Runs of `bench` as the page shows them: stages as bars, conditions in words, what was found of the layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeyolo.spec.benchmark import BenchRecord, Minute, Rail, Spread
from edgeyolo.spec.layers import LayerReport, LayerRun, converts
from edgeyolo.spec.scoreboard import TimedRun

STAGES = {"pre": "before the network", "network": "network", "post": "after the network"}
CONDITIONS = ("temperature", "clock", "GPU clock", "governor", "memory", "power", "slowed down by")
_SLOWEST = 12  # layers that are shown one by one
_SPARK_PX = (120.0, 24.0)


@dataclass(frozen=True)
class Slice:
    """A part of a bar: what it is, its number, and its share of the longest bar, percent."""

    name: str
    value: float
    percent: float


@dataclass(frozen=True)
class Layers:
    """What the engine says of its layers.

    Attributes:
        slices: shares of the time, or of the layers where nothing was timed, by precision.
        int8_percent: of these, what is int8.
        slowest: layers in which most of the time is spent, and what they convert; those that convert where not timed.
    """

    report: LayerReport
    slices: list[Slice]
    int8_percent: float
    is_timed: bool
    slowest: list[tuple[LayerRun, str]]


@dataclass(frozen=True)
class ShownRun:
    """One run.

    Attributes:
        stages: medians of one picture, milliseconds.
        conditions: before and after, in words.
        spark: corners of a line of the medians of each minute; "" for less than two.
    """

    name: str
    device: str
    record: BenchRecord
    stages: list[Slice]
    conditions: dict[str, str]
    spark: str
    layers: Layers | None

    @property
    def total(self) -> Spread:
        """Of one picture."""
        whole, pictures = self.record.spread["total"], self.record.batch
        return Spread(whole.median_ms / pictures, whole.p90_ms / pictures, whole.p99_ms / pictures)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of the median of one picture, milliseconds; None of too few calls."""
        found = self.record.interval_ms.get("total")
        return None if found is None else (found[0] / self.record.batch, found[1] / self.record.batch)

    def stage_ms(self, name: str) -> float | None:
        """The median of a stage, None where it was not timed."""
        return next((stage.value for stage in self.stages if stage.name == name), None)


def describe_runs(runs: Sequence[TimedRun]) -> list[ShownRun]:
    """All runs, the fastest first; their bars have one scale."""
    ordered = sorted(runs, key=lambda run: run.record.spread["total"].median_ms / run.record.batch)
    longest_ms = max((_stage_sum_ms(run.record) for run in ordered), default=0.0) or 1.0
    return [
        ShownRun(
            name=_name_of(run.record),
            device=run.device,
            record=run.record,
            stages=[Slice(stage, ms, 100 * ms / longest_ms) for stage, ms in _stages_ms(run.record).items()],
            conditions=_conditions(run.record),
            spark=_spark(run.record.minutes),
            layers=None if run.record.layers is None else _describe_layers(run.record.layers),
        )
        for run in ordered
    ]


def _name_of(record: BenchRecord) -> str:
    model = record.model or record.bundle.replace("\\", "/").rpartition("/")[2]
    return f"{model} {record.precision}, {record.engine.partition(' ')[0]}"


def _stages_ms(record: BenchRecord) -> dict[str, float]:
    return {stage: record.spread[stage].median_ms / record.batch for stage in STAGES if stage in record.spread}


def _stage_sum_ms(record: BenchRecord) -> float:
    return sum(_stages_ms(record).values())


def _conditions(record: BenchRecord) -> dict[str, str]:
    """What is known of the computer, as heading and text."""
    before, after = record.before, record.after
    told = (
        _from_to(before.temperature_c, after.temperature_c, "°C"),
        _from_to(before.clock_mhz, after.clock_mhz, "MHz"),
        _from_to(before.gpu_clock_mhz, after.gpu_clock_mhz, "MHz"),
        after.governor,
        f"{record.peak_memory_mib:.0f} MiB" if record.peak_memory_mib else "",
        "; ".join(_power_text(rail) for rail in record.power),
        "; ".join(record.throttled),
    )
    return {name: text for name, text in zip(CONDITIONS, told, strict=True) if text}


def _power_text(rail: Rail) -> str:
    return f"{rail.name} {rail.mean_w:.1f} W, {rail.joules_per_call:.3g} J a call"


def _from_to(before: float | None, after: float | None, unit: str) -> str:
    known = dict.fromkeys(f"{value:.0f}" for value in (before, after) if value is not None)
    return f"{' to '.join(known)} {unit}" if known else ""


def _spark(minutes: Sequence[Minute]) -> str:
    """Corners of a line through the medians, pixels; the lowest is at the bottom, the scale starts at 0."""
    if len(minutes) < 2:
        return ""
    medians = [minute.total.median_ms for minute in minutes]
    width, height = _SPARK_PX
    step, most = width / (len(medians) - 1), max(medians)
    return " ".join(f"{i * step:.1f},{height - 2 - (height - 4) * ms / most:.1f}" for i, ms in enumerate(medians))


def _describe_layers(report: LayerReport) -> Layers:
    is_timed = bool(report.time_shares)
    whole = sum(report.counts.values()) or 1
    shares = report.time_shares or {name: count / whole for name, count in report.counts.items()}
    slices = [Slice(name, 100 * share, 100 * share) for name, share in sorted(shares.items(), key=lambda s: -s[1])]
    rows = [(row, converts(row)) for row in report.rows]
    if is_timed:
        told = sorted(rows, key=lambda pair: -(pair[0].ms or 0.0))[:_SLOWEST]
    else:
        told = [pair for pair in rows if pair[1] or pair[0].is_conversion][:_SLOWEST]
    return Layers(report, slices, 100 * shares.get("int8", 0.0), is_timed, told)
