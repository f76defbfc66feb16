"""`edgeyolo bench`: how long a bundle takes, here; with `--tune`, how it takes least."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeyolo.cli.console import Console
from edgeyolo.spec.detecting import BenchOptions
from edgeyolo.spec.errors import GateError

if TYPE_CHECKING:
    from edgeyolo.backends import Session
    from edgeyolo.runtime.clock import Spread
    from edgeyolo.spec.detections import Image
    from edgeyolo.spec.manifest import Manifest

PANEL = "On the board"

_TUNED_ON = 4  # pictures of --data whose raw maps are compared


def bench(
    console: Console,
    bundle: Annotated[Path, typer.Argument(help="Bundle that `edgeyolo deploy` wrote.")],
    options: BenchOptions,
) -> None:
    """Time a bundle on this computer: before, in and after the network."""
    from edgeyolo.runtime import Detector
    from edgeyolo.runtime.clock import Clock
    from edgeyolo.spec.errors import UsageError
    from edgeyolo.spec.machine import processor_name

    if options.data is not None and not options.tune:
        raise UsageError("--data is for --tune", hint="Accuracy alone: edgeyolo evaluate")
    _refuse_simulator(bundle)
    tuned = _tune(bundle, options, console) if options.tune else None
    runs, warmup, threads = options.runs, options.warmup, options.threads
    with console.show_progress() as progress, Detector.load(bundle, threads=threads, progress=progress) as detector:
        picture = _read_picture(options.image, detector.spec.input.image_hw)
        clock = Clock()
        for run in range(warmup + runs):
            detector.detect(picture)
            if run >= warmup:
                clock.add(detector.timing)
            progress.step("bench", run + 1, warmup + runs)
    spread = clock.spread()
    rows = [(part, times.median_ms, times.p90_ms) for part, times in spread.items()]
    console.show_table(["part", "median ms", "p90 ms"], rows)
    threads_text = f"{threads} threads" if threads else "the bundle's own threads"
    console.say(f"{runs} runs after {warmup} of warm-up, {threads_text}, on {processor_name()}")
    console.show_json(
        {
            "bundle": str(bundle),
            "device": processor_name(),
            "threads": threads,
            "runs": runs,
            "warmup": warmup,
            "picture_hw": [picture.shape[0], picture.shape[1]],
            "spread": {part: asdict(times) for part, times in spread.items()},
            "tuning": tuned,
            "max_ms": options.max_ms,
        }
    )
    if options.max_ms is not None:
        _check_gate(spread["total"], options.max_ms, bundle, console)


def _refuse_simulator(bundle: Path) -> None:
    """Raise UsageError for a bundle that a vendor's simulator would run here: its times say nothing of the board."""
    from edgeyolo.backends import load_engine
    from edgeyolo.bundle.reader import read_manifest
    from edgeyolo.spec.errors import UsageError

    manifest = read_manifest(bundle)
    if load_engine(manifest.artefact.engine).is_simulated():
        raise UsageError(
            f"the bundle is for {manifest.target}, and a simulator of it has no times",
            where=bundle,
            hint="Run bench on the board; accuracy can be had here: edgeyolo evaluate",
        )


def _check_gate(total: Spread, max_ms: float, bundle: Path, console: Console) -> None:
    """Exit with the code of a gate where a whole call takes too long; the figures are out already."""
    figures = f"median {total.median_ms:.2f} ms, p90 {total.p90_ms:.2f} ms, at most {max_ms:g} ms"
    if max(total.median_ms, total.p90_ms) <= max_ms:
        console.say(f"Within the limit: {figures}")
        return
    hint = "Tune it here (--tune), deploy a smaller model or fewer bits, or leave the processor to it alone"
    console.fail(GateError(f"a call takes too long: {figures}", where=bundle, hint=hint))


def _tune(bundle: Path, options: BenchOptions, console: Console) -> dict[str, object]:
    """Tune, show the table, and give it for `--json`."""
    import msgspec

    from edgeyolo.bundle.reader import read_manifest
    from edgeyolo.data.image_file import read_image
    from edgeyolo.runtime.tuner import tune
    from edgeyolo.spec.errors import UsageError

    manifest = read_manifest(bundle)
    score = None
    if options.data is not None:
        pictures, score = _labelled(manifest, options.data, options.split)
    elif options.image is not None:
        pictures = [read_image(options.image)]
    else:
        raise UsageError(
            "there is no picture to compare numbers on",
            hint="Give --data, a labelled folder, or --image, a photo such as the board will see",
        )
    with console.show_progress() as progress:
        tuned = tune(bundle, pictures, score=score, max_drop=options.max_drop, progress=progress)
    tuning = tuned.tuning
    if tuning is None:
        return {}
    rows = [(r.change, r.ratio, f"{r.ratio_low:.3f}-{r.ratio_high:.3f}", r.kept, r.why) for r in tuning.rows]
    console.show_table(["change", "time", "95 % for all rows", "kept", "why"], rows)
    accuracy = "" if tuning.tuned_ap is None else f", AP {tuning.default_ap:.2f} -> {tuning.tuned_ap:.2f}"
    console.say(
        f"Network alone: {tuning.default_ms:.2f} -> {tuning.tuned_ms:.2f} ms, "
        f"{tuning.ratio:.3f} of it ({tuning.ratio_low:.3f} to {tuning.ratio_high:.3f}){accuracy}"
    )
    console.say(f"Wrote the choice into {bundle}; the runtime uses it on this computer from now on")
    return dict(msgspec.to_builtins(tuning))


def _labelled(manifest: Manifest, data: Path, split: str | None) -> tuple[list[Image], Callable[[Session], float]]:
    """Some pictures of a split, and AP on all of it."""
    from edgeyolo import verbs
    from edgeyolo.data.dataset import open_dataset
    from edgeyolo.evaluation.measure import measure_session

    dataset = open_dataset(data, split or verbs.validation_split(data))
    pictures = [dataset[i].image for i in range(min(_TUNED_ON, len(dataset)))]
    return (
        pictures,
        lambda session: measure_session(session, manifest.model, dataset, artefact="tuned", nms=manifest.nms).ap,
    )


def _read_picture(path: Path | None, input_hw: tuple[int, int]) -> Image:
    """The picture at `path`, or noise of the input's size."""
    import numpy as np

    from edgeyolo.data.image_file import read_image

    if path is not None:
        return read_image(path)
    return np.random.default_rng(0).integers(0, 256, (*input_hw, 3)).astype(np.uint8)
