"""`edgeyolo bench`: how long a bundle takes, here; with `--tune`, how it takes least."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from edgeyolo.cli._bench import check_gate, draw, show_record, write_csv
from edgeyolo.cli.console import Console
from edgeyolo.spec.boards import FleetOptions, HostOptions
from edgeyolo.spec.detecting import BenchOptions
from edgeyolo.spec.errors import UsageError

if TYPE_CHECKING:
    from edgeyolo.backends import Session
    from edgeyolo.spec.detections import Image
    from edgeyolo.spec.manifest import Manifest
    from edgeyolo.spec.tuning import Tuning

PANEL = "On the board"

_TUNED_ON = 4  # pictures of --data whose raw maps are compared


def bench(
    console: Console,
    bundles: Annotated[
        list[Path],
        typer.Argument(help="Bundle that `edgeyolo deploy` wrote; with --fleet several, or what deploy takes."),
    ],
    options: BenchOptions,
    hosts: HostOptions,
    fleet: FleetOptions,
) -> None:
    """Time a bundle here, or on boards: whole calls, and what is before, in and after the network."""
    from edgeyolo.cli import _boards

    if options.plot is not None:
        _check_plot(options.plot)
    if options.data is not None and not options.tune:
        raise UsageError("--data is for --tune", hint="Accuracy alone: edgeyolo evaluate")
    if fleet.fleet is not None:
        _boards.bench_on_fleet(console, bundles, options, hosts, fleet)
    elif len(bundles) > 1:
        raise UsageError("several bundles are for --fleet", hint="Two in turns: --compare OTHER.eyb")
    elif hosts.host:
        _boards.bench_on_hosts(console, bundles[0], options, hosts)
    else:
        _bench_here(console, bundles[0], options)


def _check_plot(path: Path) -> None:
    from edgeyolo.report.bench import check_plot

    check_plot(path)


def _bench_here(console: Console, bundle: Path, options: BenchOptions) -> None:
    from edgeyolo.runtime.bench import time_bundle
    from edgeyolo.runtime.layer_runs import check_lists_layers

    _refuse_simulator(bundle)
    if options.layers:
        check_lists_layers(bundle)
    tuning = _tune(bundle, options, console) if options.tune else None
    with console.show_progress() as progress:
        record = time_bundle(bundle, options, tuning=tuning, progress=progress)
    show_record(console, record)
    if options.csv is not None:
        write_csv(options.csv, [msgspec.to_builtins(record)], console)
    if options.plot is not None:
        draw(options.plot, {bundle.name: record}, console)
    console.show_json(msgspec.to_builtins(record))
    check_gate(record.spread["total"], options.max_ms, bundle, console)


def _refuse_simulator(bundle: Path) -> None:
    """Raise UsageError for a bundle that a vendor's simulator would run here: its times say nothing of the board."""
    from edgeyolo.backends import load_engine
    from edgeyolo.bundle.reader import read_manifest

    manifest = read_manifest(bundle)
    if load_engine(manifest.artefact.engine).is_simulated():
        raise UsageError(
            f"the bundle is for {manifest.target}, and a simulator of it has no times",
            where=bundle,
            hint="Run bench on the board; accuracy can be had here: edgeyolo evaluate",
        )


def _tune(bundle: Path, options: BenchOptions, console: Console) -> Tuning | None:
    """Tune, and show the table."""
    from edgeyolo.bundle.reader import read_manifest
    from edgeyolo.data.image_file import read_image
    from edgeyolo.runtime.tuner import tune

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
        return None
    rows = [(r.change, r.ratio, f"{r.ratio_low:.3f}-{r.ratio_high:.3f}", r.kept, r.why) for r in tuning.rows]
    console.show_table(["change", "time", "95 % for all rows", "kept", "why"], rows)
    accuracy = "" if tuning.tuned_ap is None else f", AP {tuning.default_ap:.2f} -> {tuning.tuned_ap:.2f}"
    console.say(
        f"Network alone: {tuning.default_ms:.2f} -> {tuning.tuned_ms:.2f} ms, "
        f"{tuning.ratio:.3f} of it ({tuning.ratio_low:.3f} to {tuning.ratio_high:.3f}){accuracy}"
    )
    console.say(f"Wrote the choice into {bundle}; the runtime uses it on this computer from now on")
    return tuning


def _labelled(manifest: Manifest, data: Path, split: str | None) -> tuple[list[Image], Callable[[Session], float]]:
    """Some pictures of a split, and AP on all of it."""
    from edgeyolo import verbs
    from edgeyolo.evaluation.measure import measure_session

    dataset = verbs.open_measured(data, split, manifest.model)
    pictures = [dataset[i].image for i in range(min(_TUNED_ON, len(dataset)))]
    return (
        pictures,
        lambda session: measure_session(session, manifest.model, dataset, artefact="tuned", nms=manifest.nms).ap,
    )
