"""Time a bundle on this computer: whole calls and the network in them, side by side, and the conditions."""

from __future__ import annotations

import datetime
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgeyolo.backends import load_engine
from edgeyolo.bundle import for_this_device, open_bundle
from edgeyolo.data.image_file import read_image
from edgeyolo.geometry.network_input import make_batch
from edgeyolo.runtime.calls import LEAST_CALLS, Calls
from edgeyolo.runtime.compare import Effort, compare, openers_of
from edgeyolo.runtime.conditions import list_throttling, read_conditions
from edgeyolo.runtime.detector import Detector
from edgeyolo.runtime.power import PowerMeter
from edgeyolo.spec.benchmark import BenchRecord, Comparison
from edgeyolo.spec.detecting import BenchOptions
from edgeyolo.spec.detections import Image
from edgeyolo.spec.layers import LayerReport
from edgeyolo.spec.machine import describe_machine, processor_name
from edgeyolo.spec.manifest import Manifest
from edgeyolo.spec.model import InputSpec
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.provenance import sha256_of, tool_versions
from edgeyolo.spec.tuning import Tuning

_MINUTE_S = 60.0
_LOOKED_AFTER = 1.25  # times as many calls as at the look before
_RATIO_WIDTH = 0.03  # of the interval of a comparison; narrower ones would take long
_LAYER_RUNS = 20


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
        picture = _picture_of(options.image, detector.spec.input)
        read_s = time.perf_counter()
        _detect(detector, picture)
        first_s = time.perf_counter() - read_s + loaded_s - started_s
        for _ in range(options.warmup - 1):
            _detect(detector, picture)
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
        runs=len(timings),
        warmup=options.warmup,
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
        layers=_list_layers(bundle, picture, options.threads or threads) if options.layers else None,
    )


def _detect(detector: Detector, picture: Image) -> None:
    """One call: on as many pictures as the bundle takes."""
    detector.detect_batch([picture] * detector.batch)


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
    effort = Effort(rounds=options.runs, width=max(options.width, _RATIO_WIDTH), seconds=options.seconds)
    return compare(openers, picture, effort, other=str(other), threads=threads, progress=progress)


def _list_layers(bundle: Path, picture: Image, threads: int) -> LayerReport:
    """What the engine says of each layer, on this picture."""
    with open_bundle(bundle) as opened:
        manifest = for_this_device(opened.manifest)
        spec = manifest.model
        images, _ = make_batch([picture] * spec.input.batch[1], spec.input)
        engine = load_engine(manifest.artefact.engine)
        return engine.list_layers(
            opened.folder, manifest.artefact, spec, images, runs=_LAYER_RUNS, threads=threads or manifest.threads
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


def _picture_of(path: Path | None, spec: InputSpec) -> Image:
    """The picture at `path`, or noise of the input's size."""
    if path is not None:
        return read_image(path)
    return np.random.default_rng(0).integers(0, 256, (*(spec.frame_hw or spec.image_hw), 3)).astype(np.uint8)
