"""`edgeyolo demo`: the whole way on pictures that it draws itself, in under three minutes on two cores."""

from __future__ import annotations

import json as json_format
import logging
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from edgeyolo.cli.console import Console, ShownProgress
from edgeyolo.spec.atomic import write_file
from edgeyolo.spec.demo import DemoOptions
from edgeyolo.spec.errors import BackendError, OutputError
from edgeyolo.spec.figure import SIMULATED_MARK
from edgeyolo.spec.target import Precision

if TYPE_CHECKING:
    from edgeyolo.data.dataset import Dataset
    from edgeyolo.report.demo import DemoRow
    from edgeyolo.runtime import Detector
    from edgeyolo.spec.model import Score
    from edgeyolo.spec.training import TrainConfig

logger = logging.getLogger(__name__)

PANEL = "The way to a board"

_MODEL = "yolov7-nano"
_IMAGE_SIZE = 160
_DRAWN_HW = (320, 320)
_RECIPE = "int8-mse"
_SPLIT = "test"
_MARK = "demo.json"  # says that a folder is a demo's, and with what settings
_SHOWN_PICTURES = 12
_TIMED_ROUNDS, _CALLS_PER_ROUND = 5, 10
_WARMUP_CALLS = 3  # at the start of each round: other engines' threads may still be spinning
_FLOAT_TORCH = "float torch"
# What happens, and how long it took on two cores, s.
_STAGES = {
    "draw pictures": 3.0,
    "train": 35.0,
    "quantize": 8.0,
    "build for each target and score": 10.0,
    "time": 4.0,
    "draw what was found": 2.0,
}


class _Story:
    """Says which stage begins, and how long all is still going to take, from how long the stages before it took."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()

    def begin(self, stage: str) -> None:
        names = list(_STAGES)
        before = names.index(stage)
        expected_s, done_s = (sum(_STAGES[name] for name in part) for part in (names[before:], names[:before]))
        if before > 1:  # the first tells nothing of a computer's speed
            expected_s *= (time.monotonic() - self._started) / done_s
        self._console.say(f"{before + 1} of {len(names)}: {stage} (all done in about {_duration(expected_s)})")


def _duration(seconds: float) -> str:
    tens = max(1, round(seconds / 10))
    return f"{10 * tens} s" if tens < 12 else f"{tens / 6:.0f} min"


def demo(
    console: Console,
    options: DemoOptions,
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo"),
) -> None:
    """Draw a data set, train, quantize, deploy and measure what ships."""
    started = time.monotonic()
    _prepare(out, msgspec.structs.asdict(options))
    with console.show_progress() as progress:
        rows = _run(out, options, _Story(console), progress)
    _write_page(out, rows, console, time.monotonic() - started)


def _prepare(out: Path, settings: dict[str, int]) -> None:
    """Make `out`, or empty that of an earlier demo.

    Raises:
        OutputError: `out` holds something else, which is left alone.
    """
    import shutil

    if out.exists() and not (out / _MARK).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError("is not empty and not a demo's", where=out, hint="Choose another --out")
    for name in ("data", "train", "int8", "pictures"):
        shutil.rmtree(out / name, ignore_errors=True)
    write_file(out / _MARK, json_format.dumps(settings).encode() + b"\n")


def _run(out: Path, options: DemoOptions, story: _Story, progress: ShownProgress) -> list[DemoRow]:
    from edgeyolo import verbs
    from edgeyolo.data.dataset import open_dataset

    hosts, bundles = _list_bundles()
    story.begin("draw pictures")
    data = _draw_data(out / "data", options, progress)
    story.begin("train")
    trained = verbs.train(_train_config(options), data, out / "train", report=True, progress=progress)
    story.begin("quantize")
    asked = verbs.QuantizeOptions(split=_SPLIT, report=False)
    quantized = verbs.quantize(trained.best, data, out / "int8", recipe=_RECIPE, options=asked, progress=progress)
    scores: dict[str, Score] = {score.artefact: score for score in quantized.scores}
    files = {_FLOAT_TORCH: trained.best}
    story.begin("build for each target and score")
    for name, (target, precision) in bundles.items():
        source = quantized.folder if precision == "int8" else trained.best
        files[name] = out / f"{target}-{precision}.eyb"
        verbs.deploy(source, target, files[name], precision=precision, progress=progress)
        scores[name] = verbs.evaluate(files[name], data, split=_SPLIT, record=True, progress=progress)
    dataset = open_dataset(data, _SPLIT)
    story.begin("time")
    timed = {name: file for name, file in files.items() if name == _FLOAT_TORCH or bundles[name][0] in hosts}
    latency_ms = _time_interleaved(timed, dataset, progress)
    story.begin("draw what was found")
    shipped = next(file for name, file in timed.items() if name.endswith("int8"))
    _draw_pictures(trained.best, shipped, dataset, out / "pictures")
    return [_make_row(name, score, files.get(name), latency_ms.get(name), out) for name, score in scores.items()]


def _draw_data(folder: Path, options: DemoOptions, progress: ShownProgress) -> Path:
    from edgeyolo.data.drawn import draw_dataset

    held_out = max(options.pictures // 3, 1)
    counts = {"train": options.pictures, "val": held_out, "test": held_out}
    return draw_dataset(folder, counts, image_hw=_DRAWN_HW, seed=options.seed, kind="easy", progress=progress)


def _train_config(options: DemoOptions) -> TrainConfig:
    from edgeyolo.spec.training import AugmentConfig, TrainConfig

    return TrainConfig(
        model=_MODEL,
        epochs=options.epochs,
        image_size=_IMAGE_SIZE,
        batch=4,
        learning_rate=3e-3,
        seed=options.seed,
        workers=0,
        evaluate_every=8,
        # What slows the start of a run as short as this is left out; a colour tells the classes apart.
        augment=AugmentConfig(mosaic=0.0, mixup=0.0, scale=0.2, hsv_h=0.0),
    )


def _list_bundles() -> tuple[list[str], dict[str, tuple[str, Precision]]]:
    """The targets that are this computer, and row -> target and precision of each bundle that its engines can run.

    A board's bundle is checked here and not timed here. An engine whose packages are missing is left out, and said so.
    """
    from edgeyolo.backends import list_packages, list_runnable

    hosts: list[str] = []
    rows: dict[str, tuple[str, Precision]] = {}
    for runnable in list_runnable():
        if runnable.problems:
            logger.warning("%s is left out: %s", runnable.target, "; ".join(runnable.problems))
            continue
        if runnable.is_host:
            hosts.append(runnable.target)
            rows[f"{runnable.target} fp32"] = (runnable.target, "fp32")
        mark = SIMULATED_MARK if runnable.is_simulated else ""
        rows[f"{runnable.target} int8{mark}"] = (runnable.target, "int8")
    if not hosts:
        names = ", ".join(package.distribution for package in list_packages())
        raise BackendError("no engine runs on this computer", hint=f"Install one of {names}: edgeyolo doctor")
    return hosts, rows


def _make_row(name: str, score: Score, file: Path | None, latency_ms: float | None, out: Path) -> DemoRow:
    from edgeyolo.report.demo import DemoRow

    size_bytes = file.stat().st_size if file is not None else None
    link = str(file.relative_to(out)) if file is not None else None
    return DemoRow(name, score.ap, score.ap50, size_bytes, latency_ms, link)


def _time_interleaved(files: dict[str, Path], dataset: Dataset, progress: ShownProgress) -> dict[str, float]:
    """Median time of a `detect` call of each artefact, ms; taken in turns, so that a busy moment hits all alike."""
    from edgeyolo.runtime import Detector
    from edgeyolo.runtime.clock import Clock

    with ExitStack() as stack:
        detectors: dict[str, Detector] = {}
        for name, file in files.items():
            opened = _open_float(file) if name == _FLOAT_TORCH else Detector.load(file)
            detectors[name] = stack.enter_context(opened)
        clocks = {name: Clock() for name in detectors}
        images = [dataset[i % len(dataset)].image for i in range(_WARMUP_CALLS + _CALLS_PER_ROUND)]
        for turn in range(_TIMED_ROUNDS):
            for name, detector in detectors.items():
                for call, image in enumerate(images):
                    detector.detect(image)
                    if call >= _WARMUP_CALLS:
                        clocks[name].add(detector.timing)
            progress.step("time", turn + 1, _TIMED_ROUNDS)
    return {name: clock.spread()["total"].median_ms for name, clock in clocks.items()}


def _open_float(checkpoint: Path) -> Detector:
    """The trained model in torch, folded, behind the runtime that ships."""
    from edgeyolo.nn.fold import fold_model
    from edgeyolo.runtime import Detector
    from edgeyolo.training.checkpoint import load_checkpoint
    from edgeyolo.training.torch_session import TorchSession

    loaded = load_checkpoint(checkpoint)
    return Detector(TorchSession(fold_model(loaded.model)), loaded.record.model)


def _draw_pictures(checkpoint: Path, bundle: Path, dataset: Dataset, folder: Path) -> None:
    """Some pictures of the split, float model left and the int8 bundle that ships right."""
    from edgeyolo.report.pairs import Half, draw_pair, encode_jpeg
    from edgeyolo.runtime import Detector

    with _open_float(checkpoint) as floating, Detector.load(bundle) as shipped:
        for i in range(min(_SHOWN_PICTURES, len(dataset))):
            image = dataset[i].image
            left, right = (
                Half(f"{what}: {len(found)} objects", detections=found)
                for what, found in (("float", floating.detect(image)), ("int8", shipped.detect(image)))
            )
            jpeg = encode_jpeg(draw_pair(image, left, right, dataset.class_names), where=dataset.records[i].image_id)
            write_file(folder / f"{i:02d}.jpg", jpeg)


def _write_page(out: Path, rows: list[DemoRow], console: Console, took_s: float) -> None:
    from edgeyolo.report.demo import DemoRun, write_demo_page
    from edgeyolo.spec.machine import processor_name

    run = DemoRun(_MODEL, _IMAGE_SIZE, _RECIPE, _SPLIT, processor_name(), took_s, tuple(rows))
    write_demo_page(run, out)
    cells = [
        [row.artefact, row.ap, row.ap50, _figure(row.size_bytes and row.size_bytes / 1024), _figure(row.latency_ms)]
        for row in rows
    ]
    title = f"{_MODEL} on {_SPLIT}, {_IMAGE_SIZE} pixels, {run.device}"
    console.show_table(["artefact", "AP", "AP50", "size KiB", "latency ms"], cells, title=title)
    shown = next(row.link for row in rows if row.artefact.endswith(" int8") and row.latency_ms is not None)
    console.say(f"Wrote {out}/index.html, report.json, pictures/ and one .eyb bundle for each target")
    console.say(f"Next: open {out}/index.html, or edgeyolo inspect {out}/{shown}")
    console.show_json(asdict(run))


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
