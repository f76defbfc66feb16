"""The runtime's own cost: what `Detector.detect` takes beside the network, on a picture of 1280x720 with many objects.

    python benchmarks/overhead.py runs/tiny/run --data ../shared/data/bccd [--runs 200]

The checkpoint is exported at 640x640 and deployed in float for this computer. The picture is a mosaic of photographs of
the data set's test split, as many as give about 50 detections at the thresholds that a user gets. The network runs for
real in every call, so that what comes after it finds the caches as it leaves them. Medians of the parts, and of the
steps inside them over and over, each on its own and on warm caches: the steps add up to less than the parts. Writes
benchmarks/results/overhead.json and prints a Markdown table.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
from record import RESULTS, save_result

from edgeyolo import verbs
from edgeyolo.backends import Session, open_artefact
from edgeyolo.bundle import open_bundle
from edgeyolo.data.dataset import open_dataset
from edgeyolo.export import export_model
from edgeyolo.geometry.letterbox import make_letterbox
from edgeyolo.geometry.network_input import make_batch
from edgeyolo.geometry.nms import class_wise_nms
from edgeyolo.heads import head_of
from edgeyolo.nn.fold import fold_model
from edgeyolo.runtime import Detector
from edgeyolo.runtime.clock import Clock
from edgeyolo.spec.detections import Float32, Image, Int64
from edgeyolo.spec.model import ModelSpec
from edgeyolo.training.checkpoint import load_checkpoint

PICTURE_HW = (720, 1280)
INPUT_HW = (640, 640)
WANTED = 50
GOAL_MS = 2.0
WARMUP = 20
TRIES = 24  # pictures that mosaics are made of


def main() -> None:
    """Deploy, choose the picture, time, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--out", type=Path, default=RESULTS / "overhead.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgeyolo-") as work:
        bundle = deploy_at_size(arguments.checkpoint, Path(work))
        with open_session(bundle) as (session, spec):
            detector = Detector(session, spec)
            picture, count = choose_picture(detector, arguments.data, arguments.split)
            result = {
                "model": spec.name,
                "picture_hw": PICTURE_HW,
                "input_hw": INPUT_HW,
                "detections": count,
                "runs": arguments.runs,
                "goal_ms": GOAL_MS,
                "parts": measure_parts(detector, picture, arguments.runs),
                "steps_median_ms": measure_steps(session, spec, picture, arguments.runs),
            }
    save_result(arguments.out, result)
    print_table(result)


def deploy_at_size(checkpoint: Path, work: Path) -> Path:
    """A float bundle of the checkpoint for this computer, at `INPUT_HW`."""
    loaded = load_checkpoint(checkpoint)
    model = loaded.record.model
    spec = msgspec.structs.replace(model, input=msgspec.structs.replace(model.input, image_hw=INPUT_HW))
    export_model(fold_model(loaded.model), spec, work / "float", checkpoint_sha256=loaded.sha256)
    verbs.deploy(work / "float", "host-ncnn", work / "float.eyb", precision="fp32")
    return work / "float.eyb"


@contextlib.contextmanager
def open_session(path: Path) -> Iterator[tuple[Session, ModelSpec]]:
    """What a bundle runs, and what its maps mean."""
    with open_bundle(path) as bundle:
        spec = bundle.manifest.model
        session = open_artefact(bundle.folder, bundle.manifest.artefact, spec)
        with contextlib.closing(session):
            yield session, spec


def choose_picture(detector: Detector, data: Path, split: str) -> tuple[Image, int]:
    """Of some mosaics of two and of four pictures, the one whose detections come closest to `WANTED`."""
    dataset = open_dataset(data, split)
    best: tuple[Image, int] | None = None
    for columns, rows in ((2, 1), (2, 2)):
        for first in range(0, min(TRIES, len(dataset) - columns * rows), columns * rows):
            tiles = [dataset[first + i].image for i in range(columns * rows)]
            picture = make_mosaic(tiles, columns, rows)
            count = len(detector.detect(picture))
            if best is None or abs(count - WANTED) < abs(best[1] - WANTED):
                best = picture, count
            if count == WANTED:
                return best
    assert best is not None
    return best


def make_mosaic(tiles: list[Image], columns: int, rows: int) -> Image:
    """Pictures side by side, each resized to its place on a canvas of `PICTURE_HW`."""
    height, width = PICTURE_HW[0] // rows, PICTURE_HW[1] // columns
    canvas = np.zeros((*PICTURE_HW, 3), np.uint8)
    for i, tile in enumerate(tiles):
        top, left = i // columns * height, i % columns * width
        canvas[top : top + height, left : left + width] = cv2.resize(tile, (width, height))
    return canvas


def measure_parts(detector: Detector, picture: Image, runs: int) -> dict[str, dict[str, float]]:
    """Median and p90 milliseconds of the parts of `detect`."""
    clock, own_ms = Clock(), []
    for run in range(WARMUP + runs):
        started = time.perf_counter()
        detector.detect(picture)
        total_ms = (time.perf_counter() - started) * 1e3
        if run >= WARMUP:
            clock.add(detector.timing)
            own_ms.append(total_ms - detector.timing.network_ms)
    spread = clock.spread()
    median, p90 = np.percentile(own_ms, (50, 90))
    parts = {name: {"median_ms": s.median_ms, "p90_ms": s.p90_ms} for name, s in spread.items()}
    parts["all but the network"] = {"median_ms": float(median), "p90_ms": float(p90)}
    return parts


def measure_steps(session: Session, spec: ModelSpec, picture: Image, runs: int) -> dict[str, float]:
    """Each step on its own, with the inputs that it has in `detect`."""
    letterbox = make_letterbox(PICTURE_HW, INPUT_HW, alignment=spec.input.letterbox_alignment)
    batch, _ = make_batch([picture], spec.input)
    memory = np.empty_like(batch)
    maps = [level[0] for level in session.run(batch)]
    head = head_of(spec.decode)

    def decode_maps() -> tuple[Float32, Float32, Int64]:
        return head.decode(maps, score_threshold=0.25)

    candidates = decode_maps()
    steps: dict[str, Callable[[], object]] = {
        "letterbox and planes": lambda: make_batch([picture], spec.input, out=memory),
        "decode": decode_maps,
        "nms": lambda: class_wise_nms(*candidates, iou_threshold=0.45, max_detections=300),
        "boxes to the picture": lambda: letterbox.invert(candidates[0][:WANTED]),
    }
    return {name: time_median_ms(step, runs) for name, step in steps.items()} | {"candidates": len(candidates[1])}


def time_median_ms(step: Callable[[], object], runs: int) -> float:
    """Median time of a call."""
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return float(np.median(times) * 1e3)


def print_table(result: dict[str, Any]) -> None:
    """Print parts and steps as Markdown."""
    out = sys.stdout.write
    out(f"{result['model']}, {result['detections']} detections, {result['runs']} runs\n\n")
    out("| part | median ms | p90 ms |\n|---|---|---|\n")
    for name, times in result["parts"].items():
        out(f"| {name} | {times['median_ms']:.2f} | {times['p90_ms']:.2f} |\n")
    out("\n| step | median ms |\n|---|---|\n")
    for name, value in result["steps_median_ms"].items():
        out(f"| {name} | {value:.3f} |\n")


if __name__ == "__main__":
    main()
