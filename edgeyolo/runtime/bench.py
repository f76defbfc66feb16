"""Time a bundle on this computer: whole calls and the network in them, side by side, and the conditions."""

from __future__ import annotations

import datetime
import math
import sys
import time
from pathlib import Path
from typing import Any

from edgeyolo.backends import load_engine
from edgeyolo.data.image_file import read_image
from edgeyolo.runtime.calls import LEAST_CALLS, Calls
from edgeyolo.runtime.compare import SETTLING_S, Effort, compare, openers_of
from edgeyolo.runtime.conditions import list_throttling, read_conditions
from edgeyolo.runtime.detector import Detector
from edgeyolo.runtime.layer_runs import list_layers, noise
from edgeyolo.runtime.power import PowerMeter
from edgeyolo.spec.benchmark import BenchRecord, Comparison
from edgeyolo.spec.detecting import BenchOptions
from edgeyolo.spec.detections import Image
from edgeyolo.spec.figure import model_columns
from edgeyolo.spec.machine import describe_machine, processor_name
from edgeyolo.spec.manifest import Manifest
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.provenance import sha256_of, tool_versions
from edgeyolo.spec.tuning import Tuning

_MINUTE_S = 60.0
_LOOKED_AFTER = 1.25  # times as many calls as at the look before


def time_bundle(
    bundle: Path, options: BenchOptions, *, tuning: Tuning | None = None, progress: Progress = SILENT
) -> BenchRecord:
    """Load a bundle and call it: warm-up first, then as often, or as long, as the options say.

    Args:
        tuning: what was found just before, for the record.

    Raises:
        EdgeYoloError: as `Detector.load` and `Detector.detect`.
    """
    started_s = time.perf_counter()
    with Detector.load(bundle, threads=options.threads, progress=progress) as detector:
        loaded_s = time.perf_counter()
        picture = noise(detector.spec.input) if options.image is None else read_image(options.image)
        read_s = time.perf_counter()
        _detect(detector, picture)
        first_s = time.perf_counter() - read_s + loaded_s - started_s
        warmup = _warm_up(detector, picture, options)
        before = read_conditions()
        with PowerMeter() as power:
            calls = _call(detector, picture, options, progress)
        after = read_conditions()
        memory_mib = _peak_memory_mib()
        described = _describe(bundle, detector.manifest)
        batch, threads = detector.batch, detector.threads
    timings = calls.clock.timings
    return BenchRecord(
        **described,
        threads=options.threads,
        threads_used=threads,
        runs=len(timings),
        warmup=warmup,
        batch=batch,
        picture_hw=(picture.shape[0], picture.shape[1]),
        spread=calls.clock.spread(),
        interval_ms=calls.intervals(),
        ended_by=calls.ended_by,
        percentiles_ms=calls.percentiles(),
        slices=calls.slices(),
        per_second=len(timings) / calls.ends_s[-1],
        load_ms=(loaded_s - started_s) * 1e3,
        first_ms=first_s * 1e3,
        peak_memory_mib=memory_mib,
        before=before,
        after=after,
        throttled=list_throttling(before, after),
        power=power.rails(len(timings)),
        minutes=tuple(calls.minutes),
        tuning=tuning,
        comparison=_compare(bundle, options.compare, picture, options, progress) if options.compare else None,
        max_ms=options.max_ms,
        layers=list_layers(bundle, picture, threads=options.threads or threads) if options.layers else None,
    )


def _detect(detector: Detector, picture: Image) -> None:
    """One call: on as many pictures as the bundle takes."""
    detector.detect_batch([picture] * detector.batch)


def _warm_up(detector: Detector, picture: Image, options: BenchOptions) -> int:
    """Call it after the first call; how often it was called in all.

    Where it is to be sure of a median, the number of threads has to have followed the machine first.
    """
    settles = options.warmup and not (options.runs or options.minutes or options.threads) and detector.threads
    settled_s = time.monotonic() + (SETTLING_S if settles else 0.0)
    calls = 1
    while calls < options.warmup or time.monotonic() < settled_s:
        _detect(detector, picture)
        calls += 1
    return calls


def _call(detector: Detector, picture: Image, options: BenchOptions, progress: Progress) -> Calls:
    """The calls that count: so many, all that fit in so many minutes, or as many as make the median sure."""
    calls = Calls()
    limit_s = _MINUTE_S * options.minutes if options.minutes else options.seconds
    next_look, minute_ends_s = LEAST_CALLS, _MINUTE_S
    while True:
        _detect(detector, picture)
        calls.add(detector.timing)
        done, now_s = len(calls.ends_s), calls.ends_s[-1]
        if options.minutes:
            if now_s >= min(minute_ends_s, limit_s):
                minute_ends_s += _MINUTE_S
                median_ms = calls.end_minute()
                progress.step("minutes", len(calls.minutes), math.ceil(options.minutes), f"{median_ms:.2f} ms")
            if now_s >= limit_s:
                return calls.end("minutes")
        elif options.runs:
            progress.step("bench", done, options.runs)
            if done == options.runs:
                return calls.end("runs")
        elif now_s >= limit_s:
            return calls.end("time")
        elif done == next_look:
            next_look = math.ceil(done * _LOOKED_AFTER)
            progress.step("bench", done, done)
            if calls.is_tight(options.width):
                return calls.end("interval")


def _compare(bundle: Path, other: Path, picture: Image, options: BenchOptions, progress: Progress) -> Comparison:
    openers, threads = openers_of((bundle, other), options.threads, picture)
    effort = Effort(rounds=options.runs, width=options.width, seconds=options.seconds)
    may_change = not options.threads
    return compare(
        openers, picture, effort, other=str(other), threads=threads, may_change=may_change, progress=progress
    )


def _describe(bundle: Path, manifest: Manifest | None) -> dict[str, Any]:
    """What was timed, where and when."""
    assert manifest is not None
    packages = load_engine(manifest.artefact.engine).packages
    versions = tool_versions(packages)
    version = next((versions[p.distribution] for p in packages if p.distribution in versions), "")
    return {
        "bundle": str(bundle),
        "bundle_sha256": sha256_of(bundle) if bundle.is_file() else "",
        "model": manifest.model.name,
        "image_hw": manifest.model.input.image_hw,
        "licence": model_columns(manifest.model)["licence"],
        "scores": manifest.scores,
        "target": manifest.target,
        "engine": f"{manifest.artefact.engine} {version}".strip(),
        "precision": manifest.artefact.precision,
        "device": processor_name(),
        "machine": describe_machine(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def _peak_memory_mib() -> float | None:
    """Of this process so far; None on Windows."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
