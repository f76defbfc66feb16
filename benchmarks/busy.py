"""Threads that follow the machine, against every fixed number of threads: on an idle machine, and on a busy one.

    python benchmarks/busy.py [cells.eyb ...] [--seconds 6] [--situations idle busy "on and off"] [--alone]

Without a bundle, some are made of random weights, for the times do not depend on them: for every engine that is
installed and computes on this processor. Seven minutes for three engines.

Situations: idle; one core taken by a plain loop; that loop for two seconds in every four. In each, single calls and a
live stream, contestants in turns on a picture of noise, each in a thread of its own, as in a program of its own. Goals
against the best fixed number of the same situation: idle median at most 1.1; busy p90 at most 1.5 and worst at most 3
times. Of each goal it is printed whether it was held.

On a computer that others use too, `--alone` runs everything in a scheduling group of the highest weight, with rests,
and counts no load but that of this script. What a contestant does in the first second after the situation changed is
kept apart, as "first_worst_ms". Writes benchmarks/results/busy.json and prints Markdown tables.
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from record import RESULTS, save_result

from edgeyolo import models, verbs
from edgeyolo.backends import list_runnable
from edgeyolo.export import export_model
from edgeyolo.nn.fold import fold_model
from edgeyolo.runtime import Detector
from edgeyolo.runtime.capture import Source
from edgeyolo.runtime.load_meter import LoadMeter, make_load_meter
from edgeyolo.runtime.pipeline import StreamRun
from edgeyolo.spec.detections import Image
from edgeyolo.spec.errors import DataError
from edgeyolo.spec.model import ModelSpec

TURN_S, SETTLE_S, FIRST_S = 1.5, 0.2, 1.0
STREAM_FPS = 20.0
REST_S = 10.0  # with `--alone`, so that others get on
MODEL, SIDE = "yolov7-tiny", 320
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
    parser.add_argument("--situations", nargs="+", choices=list(GOALS), default=["idle", "busy"])
    parser.add_argument("--seconds", type=float, default=6.0, help="of each contestant in each situation and mode")
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
        goals = judge(rows)
        result = {"alone": arguments.alone, "seconds": arguments.seconds, "rows": rows, "goals": goals}
        save_result(arguments.out, result)
        sys.stdout.write(markdown(rows) + "\n" + goals_markdown(goals))


def make_bundles(work: Path) -> list[Path]:
    """A float bundle for this computer by every engine that computes on its processor, with random weights."""
    network = models.create(MODEL, 3).eval()
    spec = ModelSpec(
        name=MODEL,
        activation=network.config.activation,
        class_names=("a", "b", "c"),
        input=network.make_input_spec((SIDE, SIDE)),
        decode=network.decode,
    )
    export_model(fold_model(network), spec, work / MODEL, checkpoint_sha256="")
    made = []
    for runnable in list_runnable():
        if runnable.is_host and not runnable.problems:
            made.append(work / f"{runnable.target}.eyb")
            verbs.deploy(work / MODEL, runnable.target, made[-1], precision="fp32")
    return made


def measure(path: Path, situations: list[str], seconds: float, alone: bool) -> list[dict[str, Any]]:
    """Rows of one bundle."""
    burners: list[subprocess.Popen[bytes]] = []
    rows: list[dict[str, Any]] = []
    with contextlib.ExitStack() as closing:
        make = functools.partial(ScriptMeter, burners) if alone else make_load_meter
        closing.enter_context(mock.patch("edgeyolo.runtime.thread_choice.make_load_meter", lambda: _remember(make())))
        cores = len(os.sched_getaffinity(0))
        counts = {f"{n} thread{'s' * (n > 1)}": n for n in range(1, cores + 1)} | {OURS: 0}
        contestants = {name: closing.enter_context(Contestant(path, threads)) for name, threads in counts.items()}
        for situation in situations:
            for mode, turn in (("calls", _call_for), ("stream", _stream_for)):
                time.sleep(REST_S if alone else 0)
                with _burning(situation, burners):
                    times = _take_turns(contestants, turn, seconds)
                rows += _rows(times, bundle=_describe(contestants[OURS].detector), situation=situation, mode=mode)
    METERS.clear()
    return rows


class Contestant:
    """A detector and the one thread that loads and calls it: engines keep threads for each thread that calls."""

    def __init__(self, path: Path, threads: int) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)
        self.detector = self._thread.submit(Detector.load, path, threads=threads).result()

    def take_turn(self, turn: Any, seconds: float) -> list[tuple[float, float]]:
        """(seconds since the turn began, milliseconds) of each call."""
        taken: list[tuple[float, float]] = self._thread.submit(turn, self.detector, seconds).result()
        return taken

    def __enter__(self) -> Contestant:
        return self

    def __exit__(self, *raised: object) -> None:
        self._thread.submit(self.detector.close).result()
        self._thread.shutdown()


def _remember(meter: LoadMeter | None) -> LoadMeter | None:
    if meter is not None:
        METERS.append(meter)
    return meter


class ScriptMeter(LoadMeter):
    """A meter that sees no load but this script's."""

    def __init__(self, burners: list[subprocess.Popen[bytes]]) -> None:
        self._burners = burners
        super().__init__()

    def busy_seconds(self) -> float:
        """See `LoadMeter.busy_seconds`."""
        burnt = 0
        for burner in list(self._burners):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{burner.pid}/stat").read_text().rpartition(")")[2].split()
                burnt += int(words[11]) + int(words[12])
        return time.process_time() + burnt / os.sysconf("SC_CLK_TCK")


def _take_turns(contestants: dict[str, Contestant], turn: Any, seconds: float) -> dict[str, dict[str, list[float]]]:
    """Milliseconds of every call by contestant, those of its first second after the change of situation apart."""
    times: dict[str, dict[str, list[float]]] = {name: {"first": [], "later": []} for name in contestants}
    for name, contestant in contestants.items():
        times[name]["first"] = [taken for _, taken in contestant.take_turn(turn, FIRST_S)]
    order = list(contestants)
    for number in range(round(seconds / TURN_S)):
        for name in order if number % 2 else reversed(order):
            taken = contestants[name].take_turn(turn, SETTLE_S + TURN_S)
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


def judge(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every goal of our own rows, and whether it was held."""
    return [
        {
            **{key: row[key] for key in ("bundle", "situation", "mode")},
            "goal": f"{name.replace('_ms', '')} at most {most} of the best fixed",
            "reached": row[name.replace("_ms", "_of_best")],
            "held": row[name.replace("_ms", "_of_best")] <= most,
        }
        for row in rows
        if row["threads"] == OURS
        for name, most in GOALS[row["situation"]].items()
    ]


def goals_markdown(goals: list[dict[str, Any]]) -> str:
    """The goals as a table."""
    lines = ["| bundle | situation | mode | goal | reached | held |", "|---|---|---|---|---:|---|"]
    for goal in goals:
        words = " | ".join(goal[key] for key in ("bundle", "situation", "mode", "goal"))
        lines.append(f"| {words} | {goal['reached']:.2f} | {'yes' if goal['held'] else 'NO'} |")
    return "\n".join(lines) + "\n"


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
