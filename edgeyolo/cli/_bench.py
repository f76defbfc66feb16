"""How `bench` tells what it measured, here or on boards: to people, as a gate, and as rows for a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeyolo.cli.console import Console
from edgeyolo.spec.atomic import write_file
from edgeyolo.spec.benchmark import BenchRecord, Spread
from edgeyolo.spec.errors import GateError
from edgeyolo.spec.layers import LayerReport, converts, group_of

_FIELDS = (
    "host",
    "bundle",
    "model",
    "target",
    "engine",
    "precision",
    "device",
    "date",
    "threads",
    "threads_used",
    "runs",
)
_PARTS = ("total", "network", "pre", "post")
_LEVELS = ("median_ms", "p90_ms", "p99_ms")
_FIGURES = ("ended_by", "per_second", "load_ms", "first_ms", "peak_memory_mib")
_INTERVAL = ("total_median_low_ms", "total_median_high_ms")
_CONDITIONS = ("temperature_c", "clock_mhz", "gpu_clock_mhz", "governor")


def show_record(console: Console, record: BenchRecord) -> None:
    """The figures for people: what a whole call takes, and under which conditions."""
    rows = [(part, times.median_ms, times.p90_ms, times.p99_ms) for part, times in record.spread.items()]
    console.show_table(["part", "median ms", "p90 ms", "p99 ms"], rows)
    count = record.threads_used or record.threads
    threads = f"{count} thread{'s' * (count > 1)}" if count else "the engine's own threads"
    console.say(f"{record.runs} runs after {record.warmup} of warm-up, {threads}, on {record.device}")
    if "total" in record.interval_ms:
        low, high = record.interval_ms["total"]
        time_up = "; the time was up before it was narrower" if record.ended_by == "time" else ""
        console.say(f"The median of a whole call is {low:.2f} to {high:.2f} ms (95 %){time_up}")
    if record.batch > 1:
        median_ms = record.spread["total"].median_ms / record.batch
        console.say(f"Each call is of {record.batch} pictures, {median_ms:.2f} ms a picture in the median")
    memory = f", {record.peak_memory_mib:.0f} MiB of memory at most" if record.peak_memory_mib else ""
    console.say(
        f"{record.per_second:.1f} calls per second; first boxes {record.first_ms:.0f} ms after the start{memory}"
    )
    for minute, part in enumerate(record.minutes, start=1):
        console.say(f"minute {minute}: median {part.total.median_ms:.2f} ms, p90 {part.total.p90_ms:.2f} ms")
    _show_conditions(console, record)
    if record.comparison is not None:
        ratio, low, high = record.comparison.total
        console.say(
            f"{record.comparison.other} takes {ratio:.3f} of a whole call's time "
            f"({100 * record.comparison.confidence:.0f} %: {low:.3f} to {high:.3f})"
        )
    if record.layers is not None:
        show_layers(console, record.layers)


def _show_conditions(console: Console, record: BenchRecord) -> None:
    for moment, state in (("before", record.before), ("after", record.after)):
        known = [f"{state.temperature_c:.0f} °C"] if state.temperature_c is not None else []
        known += [f"{state.clock_mhz:.0f} MHz"] if state.clock_mhz is not None else []
        known += [f"GPU {state.gpu_clock_mhz:.0f} MHz"] if state.gpu_clock_mhz is not None else []
        known += [f"governor {state.governor}"] if state.governor else []
        if known:
            console.say(f"{moment}: {', '.join(known)}")
    for rail in record.power:
        most = f", {rail.most_w:.2f} at most" if rail.most_w is not None else ""
        console.say(f"power, {rail.source} {rail.name}: {rail.mean_w:.2f} W{most}, {rail.joules_per_call:.3f} J a call")
    for reason in record.throttled:
        console.warn(f"The processor was slowed down: {reason}")


def show_layers(console: Console, report: LayerReport) -> None:
    """A row for each layer, and what share of layers and time each precision has."""
    rows = [
        (row.name, row.kind, group_of(row), converts(row), "" if row.ms is None else f"{row.ms:.3f}")
        for row in report.rows
    ]
    console.show_table(["layer", "kind", "runs in", "converts", "ms"], rows, title=report.method)
    for group, count in report.counts.items():
        share = f", {report.time_shares[group]:.1%} of the time" if report.time_shares else ""
        console.say(f"{group}: {count} layers{share}")


def check_gate(total: Spread, max_ms: float | None, where: object, console: Console) -> None:
    """Exit with the code of a gate where a whole call takes too long; the figures are out already."""
    if max_ms is None:
        return
    figures = f"median {total.median_ms:.2f} ms, p90 {total.p90_ms:.2f} ms, at most {max_ms:g} ms"
    if max(total.median_ms, total.p90_ms) <= max_ms:
        console.say(f"Within the limit: {figures}")
        return
    hint = "Tune it here (--tune), deploy a smaller model or fewer bits, or leave the processor to it alone"
    console.fail(GateError(f"a call takes too long: {figures}", where=where, hint=hint))


def write_csv(path: Path, records: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Write records as `bench --json` gives them; "host" is empty for this computer.

    Raises:
        OutputError: it cannot be written.
    """
    text = io.StringIO()
    names = [f"{part}_{level}" for part in _PARTS for level in _LEVELS]
    names += [f"{name}_{moment}" for name in _CONDITIONS for moment in ("before", "after")]
    writer = csv.DictWriter(
        text, [*_FIELDS, *names, *_FIGURES, *_INTERVAL, "power", "throttled"], extrasaction="ignore"
    )
    writer.writeheader()
    for record in records:
        row = {name: record.get(name, "") for name in (*_FIELDS, *_FIGURES)}
        row |= {f"{part}_{level}": record["spread"][part][level] for part in _PARTS for level in _LEVELS}
        row |= {f"{name}_{m}": record[m][name] for name in _CONDITIONS for m in ("before", "after")}
        row |= dict(zip(_INTERVAL, record["interval_ms"].get("total", ()), strict=False))
        power = "; ".join(f"{rail['source']} {rail['name']} {rail['mean_w']:.3f} W" for rail in record["power"])
        writer.writerow({**row, "power": power, "throttled": "; ".join(record["throttled"])})
    write_file(path, text.getvalue().encode())
    console.say(f"Wrote {path}")


def draw(path: Path, records: Mapping[str, BenchRecord], console: Console) -> None:
    """Draw records, by what they are called.

    Raises:
        MissingPackageError: matplotlib is not installed. OutputError: it cannot be written.
    """
    from edgeyolo.report.bench import write_plot

    write_plot(path, records)
    console.say(f"Wrote {path}")
