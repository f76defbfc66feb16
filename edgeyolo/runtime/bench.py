"""Time a bundle on this computer: whole calls and the network in them, side by side, and the conditions."""

from __future__ import annotations

import contextlib
import datetime
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgeyolo.backends import load_engine
from edgeyolo.data.image_file import read_image
from edgeyolo.runtime.clock import Clock
from edgeyolo.runtime.conditions import list_throttling, read_conditions
from edgeyolo.runtime.detector import Detector
from edgeyolo.runtime.race import judge
from edgeyolo.spec.benchmark import BenchRecord, Comparison, Minute
from edgeyolo.spec.detecting import BenchOptions
from edgeyolo.spec.detections import Image
from edgeyolo.spec.machine import describe_machine, processor_name
from edgeyolo.spec.manifest import Manifest
from edgeyolo.spec.model import InputSpec
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.provenance import sha256_of, tool_versions
from edgeyolo.spec.tuning import Tuning

_MINUTE_S = 60.0
_CALLS = 3  # of each bundle in a round of a comparison


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
        begun_s = time.perf_counter()
        clock, minutes = _call(detector, picture, options, progress)
        seconds = time.perf_counter() - begun_s
        after = read_conditions()
        return BenchRecord(
            **_describe(bundle, detector.manifest),
            threads=options.threads,
            runs=len(clock.timings),
            warmup=options.warmup,
            batch=detector.batch,
            picture_hw=(picture.shape[0], picture.shape[1]),
            spread=clock.spread(),
            per_second=len(clock.timings) / seconds,
            load_ms=(loaded_s - started_s) * 1e3,
            first_ms=first_s * 1e3,
            peak_memory_mib=_peak_memory_mib(),
            before=before,
            after=after,
            throttled=list_throttling(before, after),
            minutes=minutes,
            tuning=tuning,
            comparison=compare(bundle, options.compare, picture, options, progress) if options.compare else None,
            max_ms=options.max_ms,
        )


def _detect(detector: Detector, picture: Image) -> None:
    """One call: on as many pictures as the bundle takes."""
    detector.detect_batch([picture] * detector.batch)


def _call(
    detector: Detector, picture: Image, options: BenchOptions, progress: Progress
) -> tuple[Clock, tuple[Minute, ...]]:
    """The calls that count: so many, or all that fit in so many minutes."""
    clock, minutes = Clock(), []
    if not options.minutes:
        for run in range(options.runs):
            _detect(detector, picture)
            clock.add(detector.timing)
            progress.step("bench", run + 1, options.runs)
        return clock, ()
    end_s = time.perf_counter() + options.minutes * _MINUTE_S
    while (now_s := time.perf_counter()) < end_s:
        part, part_end_s = Clock(), min(now_s + _MINUTE_S, end_s)
        while not part.timings or time.perf_counter() < part_end_s:
            _detect(detector, picture)
            part.add(detector.timing)
        spread = part.spread()
        minutes.append(
            Minute(
                calls=len(part.timings), total=spread["total"], network=spread["network"], conditions=read_conditions()
            )
        )
        clock.timings += part.timings
        progress.step("minutes", len(minutes), math.ceil(options.minutes), f"{spread['total'].median_ms:.2f} ms")
    return clock, tuple(minutes)


def compare(bundle: Path, other: Path, picture: Image, options: BenchOptions, progress: Progress) -> Comparison:
    """The other bundle's time over the first one's.

    In each round both are loaded anew, since where a network lies in memory makes a difference of its own, and called
    in turns; the least time of each counts, which other work on the computer hardly touches. Who is first changes from
    round to round. Were both the same, every ratio would be as likely above 1 as below, whatever the noise.
    """
    least: dict[str, list[tuple[float, float]]] = {"total": [], "network": []}
    for round_ in range(options.runs):
        sides = (0, 1) if round_ % 2 else (1, 0)
        with contextlib.ExitStack() as opened:
            loaded = {
                side: opened.enter_context(Detector.load((bundle, other)[side], threads=options.threads))
                for side in sides
            }
            clocks = (Clock(), Clock())
            for call in range(1 + _CALLS):
                for side in sides:
                    loaded[side].detect(picture)
                    if call:
                        clocks[side].add(loaded[side].timing)
        first, second = (clock.timings for clock in clocks)
        least["total"].append((min(t.total_ms for t in first), min(t.total_ms for t in second)))
        least["network"].append((min(t.network_ms for t in first), min(t.network_ms for t in second)))
        progress.step("compare", round_ + 1, options.runs)
    total, network = judge(least["total"]), judge(least["network"])
    return Comparison(
        other=str(other),
        rounds=options.runs,
        total=(total.ratio, total.low, total.high),
        network=(network.ratio, network.low, network.high),
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
