"""Threads that follow the machine, against every fixed number of threads: on an idle machine, and on a busy one.

    python benchmarks/busy.py [cells.eyb ...] [--seconds 12] [--situations idle busy] [--alone]

Without a bundle, some are made of random weights, for the times do not depend on them.

Situations: idle; one core taken by a plain loop; that loop for two seconds in every four. In each, single calls and a
live stream, contestants in turns on a picture of noise. Goals against the best fixed number of the same situation:
idle median at most 1.1; busy p90 at most 1.5 and worst at most 3 times.

On a computer that others use too, `--alone` runs everything in a scheduling group of the highest weight, with rests,
and counts no load but that of this script. What a contestant does in the first second after the situation changed is
kept apart, as "first_worst_ms". Writes benchmarks/results/busy.json and prints a Markdown table.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from record import RESULTS, save_result

from edgeyolo import models, verbs
from edgeyolo.export import export_model
from edgeyolo.nn.fold import fold_model
from edgeyolo.runtime import Detector
from edgeyolo.runtime.capture import Source
from edgeyolo.runtime.load_meter import LoadMeter
from edgeyolo.runtime.pipeline import StreamRun
from edgeyolo.spec.detections import Image
from edgeyolo.spec.errors import DataError
from edgeyolo.spec.model import ModelSpec

TURN_S, SETTLE_S, FIRST_S = 1.5, 0.2, 1.0
STREAM_FPS = 20.0
REST_S = 10.0  # with `--alone`, so that others get on
MODELS = (("yolov7-tiny", 320, "host-cpu"), ("yolov7-nano", 256, "host-cpu"), ("yolov7-tiny", 320, "host-onnx"))
GOALS = {"idle": {"median_ms": 1.1}, "busy": {"p90_ms": 1.5, "worst_ms": 3.0}, "on and off": {}}
BURN = {
    "busy": "while True: pass",
    "on and off": "import time\nwhile True:\n e=time.monotonic()+2\n while time.monotonic()<e: pass\n time.sleep(2)",
}
OURS = "as the machine is"


def main() -> None:
    """Measure every bundle in every situation, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="*")
    parser.add_argument("--situations", nargs="+", choices=list(GOALS), default=list(GOALS))
    parser.add_argument("--seconds", type=float, default=12.0, help="of each contestant in each situation and mode")
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS / "busy.json")
    arguments = parser.parse_args()
    if arguments.alone:
        _take_precedence()  # before anything has threads, which a fork would not copy
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="edgeyolo-") as work:
        bundles = arguments.bundles or make_bundles(Path(work))
        for path in bundles:
            rows += measure(path, arguments.situations, arguments.seconds, arguments.alone)
        save_result(arguments.out, {"alone": arguments.alone, "seconds": arguments.seconds, "rows": rows})
        sys.stdout.write(markdown(rows))


def make_bundles(work: Path) -> list[Path]:
    """Float bundles of `MODELS` for this computer, with random weights."""
    made = []
    for name, side, target in MODELS:
        network = models.create(name, 3).eval()
        spec = ModelSpec(
            name=name,
            activation=network.config.activation,
            class_names=("a", "b", "c"),
            input=network.make_input_spec((side, side)),
            decode=network.decode,
        )
        export_model(fold_model(network), spec, work / name, checkpoint_sha256="")
        made.append(work / f"{name}-{target}.eyb")
        verbs.deploy(work / name, target, made[-1], precision="fp32")
    return made


def measure(path: Path, situations: list[str], seconds: float, alone: bool) -> list[dict[str, Any]]:
    """Rows of one bundle."""
    burners: list[subprocess.Popen[bytes]] = []
    rows: list[dict[str, Any]] = []
    with contextlib.ExitStack() as closing:
        if alone:
            make = functools.partial(ScriptMeter, burners)
            closing.enter_context(mock.patch("edgeyolo.runtime.thread_choice.make_load_meter", make))
        cores = len(os.sched_getaffinity(0))
        detectors = {f"{n} thread{'s' * (n > 1)}": Detector.load(path, threads=n) for n in range(1, cores + 1)}
        detectors[OURS] = Detector.load(path)
        for detector in detectors.values():
            closing.callback(detector.close)
        for situation in situations:
            for mode, turn in (("calls", _call_for), ("stream", _stream_for)):
                time.sleep(REST_S if alone else 0)
                with _burning(situation, burners):
                    times = _take_turns(detectors, turn, seconds)
                rows += _rows(times, bundle=_describe(detectors[OURS]), situation=situation, mode=mode)
    return rows


class ScriptMeter(LoadMeter):
    """A meter that sees no load but this script's."""

    def __init__(self, burners: list[subprocess.Popen[bytes]]) -> None:
        self._burners = burners
        super().__init__()
        METERS.append(self)

    def busy_seconds(self) -> float:
        """See `LoadMeter.busy_seconds`."""
        burnt = 0
        for burner in list(self._burners):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{burner.pid}/stat").read_text().rpartition(")")[2].split()
                burnt += int(words[11]) + int(words[12])
        return time.process_time() + burnt / os.sysconf("SC_CLK_TCK")


def _take_turns(detectors: dict[str, Detector], turn: Any, seconds: float) -> dict[str, dict[str, list[float]]]:
    """Milliseconds of every call by contestant, those of its first second after the change of situation apart."""
    times: dict[str, dict[str, list[float]]] = {name: {"first": [], "later": []} for name in detectors}
    for name, detector in detectors.items():
        times[name]["first"] = [taken for _, taken in turn(detector, FIRST_S)]
    order = list(detectors)
    for number in range(round(seconds / TURN_S)):
        for name in order if number % 2 else reversed(order):
            taken = turn(detectors[name], SETTLE_S + TURN_S)
            times[name]["later"] += [ms for since_s, ms in taken if since_s >= SETTLE_S]
    return times


def _begin_turn() -> float:
    """The time; what the others did in their turns is no load of this one's."""
    for meter in METERS:
        meter.read()
    return time.perf_counter()


def _call_for(detector: Detector, seconds: float) -> list[tuple[float, float]]:
    """(seconds since the turn began, milliseconds) of each call."""
    taken, started = [], _begin_turn()
    while (since_s := time.perf_counter() - started) < seconds:
        detector.detect(PICTURE)
        taken.append((since_s, detector.timing.total_ms))
    return taken


def _stream_for(detector: Detector, seconds: float) -> list[tuple[float, float]]:
    """The same of a live source, whose thread is new each time, and whose end is an error."""
    taken, started = [], _begin_turn()
    source = Source("noise", "noise", lambda: Camera(started + seconds), True, "")
    with StreamRun(detector, source, reconnect_s=0.0) as run, contextlib.suppress(DataError):
        for _ in run:
            taken.append((time.perf_counter() - started, run.timing.total_ms))
    return taken


class Camera:
    """A live source of one picture, at `STREAM_FPS` until its end."""

    def __init__(self, end_s: float) -> None:
        self._end_s = end_s
        self._pause = threading.Event()

    def read(self) -> tuple[bool, Image | None]:
        """The picture, after as long as a camera takes."""
        self._pause.wait(1 / STREAM_FPS)
        return (True, PICTURE) if time.perf_counter() < self._end_s else (False, None)

    def get(self, propId: int) -> float:
        """Nothing is known of it."""
        return 0.0

    def release(self) -> None:
        """Nothing is held."""


@contextlib.contextmanager
def _burning(situation: str, burners: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """One core of other work, where the situation has some."""
    if situation in BURN:
        burners.append(subprocess.Popen([sys.executable, "-c", BURN[situation]]))
        time.sleep(0.3)
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
        burners.clear()


def _take_precedence() -> None:
    """A session, and with it a scheduling group, of the highest weight (Linux, root)."""
    child = os.fork()
    if child:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    os.setsid()
    Path("/proc/self/autogroup").write_text("-20")


def _describe(detector: Detector) -> str:
    manifest = detector.manifest
    assert manifest is not None
    size = "x".join(map(str, detector.spec.input.image_hw))
    return f"{detector.spec.name} {size} {manifest.artefact.engine} {manifest.artefact.precision}"


def _rows(times: dict[str, dict[str, list[float]]], **keys: str) -> list[dict[str, Any]]:
    rows = [
        keys
        | {
            "threads": name,
            "calls": len(taken["later"]),
            "median_ms": float(np.median(taken["later"])),
            "p90_ms": float(np.percentile(taken["later"], 90)),
            "worst_ms": max(taken["later"]),
            "first_worst_ms": max(taken["first"]),
        }
        for name, taken in times.items()
    ]
    for row in rows:
        for name in ("median_ms", "p90_ms", "worst_ms"):
            best = min(other[name] for other in rows if other["threads"] != OURS)
            row[name.replace("_ms", "_of_best")] = round(row[name] / best, 3)
    return [{key: round(v, 3) if isinstance(v, float) else v for key, v in row.items()} for row in rows]


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    head = (
        "bundle",
        "situation",
        "mode",
        "threads",
        "median ms",
        "p90 ms",
        "worst ms",
        "first s worst",
        "of best fixed",
    )
    lines = ["| " + " | ".join(head) + " |", "|---|---|---|---|---:|---:|---:|---:|---:|"]
    for row in rows:
        numbers = " | ".join(f"{row[name]:.1f}" for name in ("median_ms", "p90_ms", "worst_ms", "first_worst_ms"))
        ratios = " / ".join(f"{row[name]:.2f}" for name in ("median_of_best", "p90_of_best", "worst_of_best"))
        words = " | ".join(row[name] for name in ("bundle", "situation", "mode", "threads"))
        lines.append(f"| {words} | {numbers} | {ratios} |")
    return "\n".join(lines) + "\n"


METERS: list[LoadMeter] = []
PICTURE = np.random.default_rng(0).integers(0, 256, (360, 640, 3), np.uint8)

if __name__ == "__main__":
    main()
