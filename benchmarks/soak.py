"""A long day in short: a stream that is lost every minute, a busy core, and two detectors in threads, for 30 minutes.

    python benchmarks/soak.py runs/cells/best.safetensors --data ../shared/data/bccd --minutes 30

The stream is Motion JPEG over HTTP, from a server that is gone for some seconds of every minute. Beside it two threads
call a detector each, one of ncnn, one of ONNX Runtime, and a plain loop takes one core. Every answer is compared with
what a quiet run of one thread gave for the same pixels. Findings, with which the exit status is 1: an answer that
differs, a frame that is none of those sent, memory, files or threads that grow, a loss without a return. Writes
benchmarks/results/soak.json.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.server
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from record import RESULTS, save_result

from edgeyolo import verbs
from edgeyolo.data.dataset import open_dataset
from edgeyolo.runtime import Detector
from edgeyolo.runtime.pipeline import StreamRun
from edgeyolo.spec.detections import Detections, Image

PICTURES, FPS = 40, 10.0
AWAY_S, PERIOD_S = 6.0, 60.0  # of the stream
PAUSE_S = 0.1  # of the two detectors, between calls
SAMPLE_S = 10.0
SCORE = 0.25
BOX_PX, SCORE_OFF = 0.05, 1e-3  # by which sums in another order, of another number of threads, may differ
MOST_GROWTH_MIB = 8.0


def main() -> None:
    """Soak, judge, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--out", type=Path, default=RESULTS / "soak.json")
    arguments = parser.parse_args()
    data = open_dataset(arguments.data, "test")
    with tempfile.TemporaryDirectory(prefix="edgeyolo-") as work:
        bundles = {}
        for name, target in (("ncnn", "host-ncnn"), ("onnxruntime", "host-onnx")):
            bundles[name] = Path(work) / f"{name}.eyb"
            verbs.deploy(arguments.model, target, bundles[name], precision="fp32")
        result = soak(bundles, [data[i].image for i in range(min(PICTURES, len(data)))], 60 * arguments.minutes)
    save_result(arguments.out, {"minutes": arguments.minutes, **result})
    sys.stdout.write("".join(f"{key}: {value}\n" for key, value in result.items() if key != "samples"))
    sys.exit(1 if result["findings"] else 0)


def soak(bundles: dict[str, Path], pictures: list[Image], seconds: float) -> dict[str, Any]:
    """Everything at once for so long; what came of it."""
    with Camera(pictures) as camera:
        known = {name: QuietRun(path) for name, path in bundles.items()}
        frames = known["ncnn"].watch(camera.address, len(pictures))
        for quiet in known.values():
            for picture in pictures:
                quiet.learn(picture)
        ending, samples = threading.Event(), [_sample()]
        callers = [Caller(name, bundles[name], known[name], pictures, ending) for name in bundles]
        with _busy_core():
            for caller in callers:
                caller.start()
            threading.Thread(target=camera.come_and_go, args=(ending,), daemon=True).start()
            stream, summary = _follow(bundles["ncnn"], camera.address, known["ncnn"], seconds, samples)
            ending.set()
            for caller in callers:
                caller.join()
        samples.append(_sample())
    tallies = {"stream, ncnn": stream} | {f"calls, {caller.name}": caller.tally for caller in callers}
    counts = {"losses": camera.losses, "reconnects": summary.reconnects, "captured": summary.captured}
    counts |= {"detected": summary.detected, "dropped": summary.dropped, "pictures": frames}
    return {
        **counts,
        "answers": {name: tally.describe() for name, tally in tallies.items()},
        "findings": _judge(counts, tallies, samples),
        "samples": samples[:: max(1, len(samples) // 60)],
    }


class Camera:
    """A Motion JPEG server on this computer; a context manager.

    Attributes:
        losses: how often it went away.
    """

    def __init__(self, pictures: list[Image]) -> None:
        parts = [cv2.imencode(".jpg", picture)[1].tobytes() for picture in pictures]
        self._away = threading.Event()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(parts, self._away))
        self._server.daemon_threads = True
        self.losses = 0
        self.address = f"http://127.0.0.1:{self._server.server_port}/live.mjpg"

    def come_and_go(self, ending: threading.Event) -> None:
        """Be away at the end of every period, which closes what is connected and refuses what comes."""
        while not ending.wait(PERIOD_S - AWAY_S):
            self.losses += 1
            self._away.set()
            ending.wait(AWAY_S)
            self._away.clear()

    def __enter__(self) -> Camera:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._away.set()
        self._server.shutdown()
        self._server.server_close()


def _handler(parts: list[bytes], away: threading.Event) -> type[http.server.BaseHTTPRequestHandler]:
    """Sends the pictures in turn until `away`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if away.is_set():
                self.send_error(503)
                return
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            number = 0
            with contextlib.suppress(ConnectionError):
                while not away.wait(1 / FPS):
                    part = parts[number % len(parts)]
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(part)}\r\n\r\n"
                    self.wfile.write(head.encode() + part + b"\r\n")
                    number += 1

        def log_message(self, format: str, *args: object) -> None:
            """Nothing is said of a request."""

    return Handler


class QuietRun:
    """What a detector of one thread, alone, found in each picture."""

    def __init__(self, bundle: Path) -> None:
        self._detector = Detector.load(bundle, threads=1, score_threshold=SCORE)
        self._known: dict[str, Detections] = {}

    def learn(self, image: Image) -> None:
        """Detect, unless the very picture is known."""
        if (digest := _digest(image)) not in self._known:
            self._known[digest] = self._detector.detect(image)

    def watch(self, address: str, count: int) -> int:
        """Learn a stream's frames until so many are known: decoders of videos and of pictures differ a little."""
        with StreamRun(self._detector, address, every_frame=True) as run:
            for _, image, found in run:
                self._known.setdefault(_digest(image), found)
                if len(self._known) == count:
                    break
        return len(self._known)

    def tell(self, image: Image, found: Detections) -> str:
        """What is wrong with an answer; empty if nothing is."""
        known = self._known.get(_digest(image))
        if known is None:
            return "a frame that was not sent"
        off = max(_farthest(found, known), _farthest(known, found))
        return f"{len(found.scores)} boxes for {len(known.scores)}, off by {off:.2f}" if off > 1 else ""


def _farthest(found: Detections, other: Detections) -> float:
    """Of every box of one to the nearest of its class in the other, in what may differ; of those that must be found."""
    worst = 0.0
    for box, score, class_id in zip(found.boxes_xyxy, found.scores, found.class_ids, strict=True):
        if score > SCORE + SCORE_OFF:  # at the threshold rounding decides
            boxes_off = np.abs(other.boxes_xyxy - box).max(axis=1) / BOX_PX
            scores_off = np.abs(other.scores - score) / SCORE_OFF
            off = np.maximum(boxes_off, scores_off)[other.class_ids == class_id]
            worst = max(worst, float(off.min(initial=np.inf)))
    return worst


def _digest(image: Image) -> str:
    return hashlib.sha256(np.ascontiguousarray(image)).hexdigest()


@dataclass
class Tally:
    """Answers of one detector."""

    times_ms: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    threads: dict[int, int] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """Counts and percentiles."""
        p50, p90, p99 = np.percentile(self.times_ms, (50, 90, 99))
        times = {"p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "worst_ms": max(self.times_ms)}
        return {"answers": len(self.times_ms), "wrong": len(self.wrong)} | {
            k: round(float(v), 2) for k, v in times.items()
        }


class Caller(threading.Thread):
    """Calls a detector of its own, on one picture after another."""

    def __init__(
        self, name: str, bundle: Path, quiet: QuietRun, pictures: list[Image], ending: threading.Event
    ) -> None:
        super().__init__(name=name)
        self.tally = Tally()
        self._bundle, self._quiet, self._pictures, self._ending = bundle, quiet, pictures, ending

    def run(self) -> None:
        """Until the end."""
        with Detector.load(self._bundle, score_threshold=SCORE) as detector:
            number = 0
            while not self._ending.wait(PAUSE_S):
                image = self._pictures[number % len(self._pictures)]
                found = detector.detect(image)
                self.tally.times_ms.append(detector.timing.total_ms)
                if problem := self._quiet.tell(image, found):
                    self.tally.wrong.append(problem)
                number += 1


def _follow(
    bundle: Path, address: str, quiet: QuietRun, seconds: float, samples: list[dict[str, float]]
) -> tuple[Tally, Any]:
    """The stream, for so long; samples of this process on the way."""
    tally, began = Tally(), time.monotonic()
    with (
        Detector.load(bundle, score_threshold=SCORE) as detector,
        StreamRun(detector, address, reconnect_s=PERIOD_S) as run,
    ):
        for _, image, found in run:
            tally.times_ms.append(run.timing.total_ms)
            if problem := quiet.tell(image, found):
                tally.wrong.append(problem)
            now = time.monotonic() - began
            if now >= SAMPLE_S * len(samples):
                samples.append(_sample())
            if now > seconds:
                break
        return tally, run.summarise()


def _sample() -> dict[str, float]:
    """What this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "rss_mib": round(pages * os.sysconf("SC_PAGESIZE") / 2**20, 1),
        "files": _count("/proc/self/fd"),
        "threads": _count("/proc/self/task"),
    }


def _count(folder: str) -> int:
    return sum(1 for _ in Path(folder).iterdir())


def _judge(counts: dict[str, int], tallies: dict[str, Tally], samples: list[dict[str, float]]) -> list[str]:
    """What must not be."""
    findings = [f"{name}: {problem}" for name, tally in tallies.items() for problem in tally.wrong[:10]]
    if counts["reconnects"] < counts["losses"] - 1:  # the last loss may be going on
        findings.append(f"{counts['losses']} losses, {counts['reconnects']} returns")
    quarter = len(samples) // 4
    for key, most in (("rss_mib", MOST_GROWTH_MIB), ("files", 2), ("threads", 2)):
        early, late = ([s[key] for s in part] for part in (samples[quarter : 2 * quarter], samples[3 * quarter : -1]))
        if early and late and np.median(late) - np.median(early) > most:
            findings.append(f"{key} grew from {np.median(early):.0f} to {np.median(late):.0f}")
    return findings


@contextlib.contextmanager
def _busy_core() -> Iterator[None]:
    burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        burner.kill()
        burner.wait()


if __name__ == "__main__":
    main()
