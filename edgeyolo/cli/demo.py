"""`edgeyolo demo`: the whole way on pictures that it draws itself, in some ten minutes on two cores."""

from __future__ import annotations

import json as json_format
import logging
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from edgeyolo.cli.console import Console, ShownProgress
from edgeyolo.spec.atomic import write_file
from edgeyolo.spec.demo import DemoOptions
from edgeyolo.spec.errors import BackendError, OutputError
from edgeyolo.spec.target import Precision

if TYPE_CHECKING:
    from edgeyolo.data.dataset import Dataset
    from edgeyolo.runtime import Detector
    from edgeyolo.spec.model import Score

logger = logging.getLogger(__name__)

PANEL = "The way to a board"

_MODEL = "yolov7-nano"
_IMAGE_SIZE = 256
_RECIPE = "int8-mse"
_SPLIT = "test"
_MARK = "demo.json"  # says that a folder is a demo's, and with what settings
_DRAWN_PICTURES = 12
_TIMED_ROUNDS, _CALLS_PER_ROUND = 5, 10
_WARMUP_CALLS = 3  # at the start of each round: other engines' threads may still be spinning
_FLOAT_TORCH, _FAKE_QUANT = "float torch", "fake-quant torch"


@dataclass(frozen=True)
class Row:
    """One artefact of the table; None where a figure has no meaning.

    Attributes:
        ap, ap50: percent.
        size_kib: of the file.
        latency_ms: median of one `detect` call on this computer.
    """

    artefact: str
    ap: float
    ap50: float
    size_kib: float | None
    latency_ms: float | None


def demo(
    console: Console,
    options: DemoOptions,
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo"),
) -> None:
    """Draw a data set, train, quantize, deploy and measure what ships."""
    _prepare(out, msgspec.structs.asdict(options))
    with console.show_progress() as progress:
        rows = _run(out, options, progress)
    _write_report(out, rows, console)


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


def _run(out: Path, options: DemoOptions, progress: ShownProgress) -> list[Row]:
    from edgeyolo import verbs
    from edgeyolo.data.dataset import open_dataset
    from edgeyolo.data.drawn import draw_dataset
    from edgeyolo.spec.training import AugmentConfig, TrainConfig

    pictures, seed = options.pictures, options.seed
    held_out = max(pictures // 5, 1)
    data = draw_dataset(out / "data", train=pictures, val=held_out, test=held_out, seed=seed, progress=progress)
    config = TrainConfig(
        model=_MODEL,
        epochs=options.epochs,
        image_size=_IMAGE_SIZE,
        batch=8,
        learning_rate=0.002,
        seed=seed,
        evaluate_every=10,
        augment=AugmentConfig(mosaic=0.0, mixup=0.0),  # they slow the start of a run as short as this
    )
    trained = verbs.train(config, data, out / "train", report=False, progress=progress)
    quantized = verbs.quantize(
        trained.best,
        data,
        out / "int8",
        recipe=_RECIPE,
        options=verbs.QuantizeOptions(split=_SPLIT, report=False),
        progress=progress,
    )
    scores: dict[str, Score] = {score.artefact: score for score in quantized.scores}
    files = {_FLOAT_TORCH: trained.best}
    hosts, bundles = _list_bundles()
    for name, (target, precision) in bundles.items():
        source = quantized.folder if precision == "int8" else trained.best
        files[name] = out / f"{target}-{precision}.eyb"
        verbs.deploy(source, target, files[name], precision=precision, progress=progress)
        scores[name] = verbs.evaluate(files[name], data, split=_SPLIT, record=True, progress=progress)
    dataset = open_dataset(data, _SPLIT)
    timed = {name: file for name, file in files.items() if name == _FLOAT_TORCH or bundles[name][0] in hosts}
    latency_ms = _time_interleaved(timed, dataset, progress)
    _draw_pictures(next(file for name, file in timed.items() if name.endswith("int8")), dataset, out / "pictures")
    return [_make_row(name, score, files.get(name), latency_ms.get(name)) for name, score in scores.items()]


def _list_bundles() -> tuple[list[str], dict[str, tuple[str, Precision]]]:
    """The targets that are this computer, and row -> target and precision of each bundle that its engines can run.

    A board's bundle is checked here and not timed here. An engine whose packages are missing is left out, and said so.
    """
    from edgeyolo.backends import list_packages, list_runnable

    hosts: list[str] = []
    rows: list[tuple[str, Precision]] = []
    for runnable in list_runnable():
        if runnable.problems:
            logger.warning("%s is left out: %s", runnable.target, "; ".join(runnable.problems))
            continue
        if runnable.is_host:
            hosts.append(runnable.target)
            rows.append((runnable.target, "fp32"))
        rows.append((runnable.target, "int8"))
    if not hosts:
        names = ", ".join(package.distribution for package in list_packages())
        raise BackendError("no engine runs on this computer", hint=f"Install one of {names}: edgeyolo doctor")
    return hosts, {f"{target} {precision}": (target, precision) for target, precision in rows}


def _make_row(name: str, score: Score, file: Path | None, latency_ms: float | None) -> Row:
    size_kib = file.stat().st_size / 1024 if file is not None else None
    return Row(name, score.ap, score.ap50, size_kib, latency_ms)


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


def _draw_pictures(bundle: Path, dataset: Dataset, folder: Path) -> None:
    import cv2

    from edgeyolo.runtime import Detector
    from edgeyolo.runtime.draw import draw_detections

    with Detector.load(bundle) as detector:
        for i in range(min(_DRAWN_PICTURES, len(dataset))):
            sample = dataset[i]
            drawn = draw_detections(sample.image, detector.detect(sample.image), detector.class_names)
            write_file(folder / f"{i:02d}.jpg", cv2.imencode(".jpg", drawn)[1].tobytes())


def _write_report(out: Path, rows: list[Row], console: Console) -> None:
    from edgeyolo.spec.machine import processor_name

    columns = ["artefact", "AP", "AP50", "size KiB", "latency ms"]
    cells = [[_figure(value) for value in asdict(row).values()] for row in rows]
    table: dict[str, Any] = {
        "model": _MODEL,
        "image_size": _IMAGE_SIZE,
        "recipe": _RECIPE,
        "split": _SPLIT,
        "device": processor_name(),
        "rows": [asdict(row) for row in rows],
    }
    markdown = [columns, ["---", *["---:"] * (len(columns) - 1)], *cells]
    text = "".join(f"| {' | '.join(line)} |\n" for line in markdown)
    write_file(out / "report.json", json_format.dumps(table, indent=2).encode() + b"\n")
    write_file(out / "report.md", text.encode())
    console.show_table(columns, cells, title=f"{_MODEL} on {_SPLIT}, {_IMAGE_SIZE} pixels, {processor_name()}")
    console.say(f"Wrote {out}/report.md, report.json, pictures/ and one .eyb bundle per row")
    shown = next(row.artefact for row in rows if row.artefact.endswith(" int8") and row.latency_ms is not None)
    console.say(f"Next: look at {out}/pictures, or edgeyolo inspect {out}/{shown.replace(' ', '-')}.eyb")
    console.show_json(table)


def _figure(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
