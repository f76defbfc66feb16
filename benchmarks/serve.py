"""What clients cost the detector: `edgeyolo serve` with nobody, and with 50 of whom 40 never read, in turns.

    python benchmarks/serve.py runs/cells-int8 --data ../shared/data/bccd

The command itself runs in a process of its own on videos of the data's pictures, one source and two. `paced` gives 10
frames a second, as a camera does; `flat out` gives more than the detector can take, so that everything else is at its
cost. In each round a window without clients and one with them follow each other, in turns of order; frames per second
are from the counters of /metrics, and beside them stands how many cores the server's process kept busy. The 10 that
read take every picture; the 40 send a request and never read an answer; who is cut off comes again at once. Writes
benchmarks/results/serve.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from record import RESULTS, save_result

from edgeyolo import verbs
from edgeyolo.data.dataset import open_dataset
from edgeyolo.spec.detections import Image

READERS, DEAF = 10, 40
PICTURES, IMAGE_WH = 60, (640, 480)
MODES = {"paced": 10.0, "flat out": 500.0}  # frames a second that a source gives
SETTLE_S = 2.0


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="what `deploy` takes")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--target", default="host-ncnn")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=15.0, help="of a window")
    parser.add_argument("--out", type=Path, default=RESULTS / "serve.json")
    arguments = parser.parse_args()
    data = open_dataset(arguments.data, "test")
    images = [cv2.resize(data[i].image, IMAGE_WH) for i in range(min(PICTURES, len(data)))]
    rows = []
    with tempfile.TemporaryDirectory(prefix="edgeyolo-") as folder:
        bundle = Path(folder) / "model.eyb"
        verbs.deploy(arguments.model, arguments.target, bundle)
        for mode, fps in MODES.items():
            for count in (1, 2):
                videos = [write_video(Path(folder) / f"{mode}-{i}.avi", images, fps) for i in range(count)]
                rows.append({"mode": mode, "sources": count, **measure(bundle, videos, arguments)})
                sys.stdout.write(f"{json.dumps(rows[-1])}\n")
    settings = {"target": arguments.target, "rounds": arguments.rounds, "seconds": arguments.seconds}
    save_result(arguments.out, {**settings, "readers": READERS, "deaf": DEAF, "rows": rows})


def measure(bundle: Path, videos: list[Path], arguments: argparse.Namespace) -> dict[str, Any]:
    """One server; frames per second without and with clients, and the ratio of each round."""
    rates: dict[bool, list[float]] = {False: [], True: []}
    cores: dict[bool, list[float]] = {False: [], True: []}
    with serving(bundle, videos) as (port, process):
        before_mib = memory_mib(process.pid)
        for number in range(arguments.rounds):
            for crowded in (False, True) if number % 2 == 0 else (True, False):
                with crowd(port, len(videos)) if crowded else contextlib.nullcontext():
                    time.sleep(SETTLE_S)
                    before_s = processor_s(process.pid)
                    rates[crowded].append(frame_rate(port, arguments.seconds))
                    cores[crowded].append((processor_s(process.pid) - before_s) / arguments.seconds)
        after_mib = memory_mib(process.pid)
    ratios = np.array(rates[True]) / rates[False]
    low, high = interval_of_median(ratios)
    return {
        "fps_alone": round(float(np.median(rates[False])), 2),
        "fps_crowded": round(float(np.median(rates[True])), 2),
        "cores_alone": round(float(np.median(cores[False])), 3),
        "cores_crowded": round(float(np.median(cores[True])), 3),
        "ratio": round(float(np.median(ratios)), 4),
        "ratio_95": [round(low, 4), round(high, 4)],
        "memory_mib": [before_mib, after_mib],
    }


def interval_of_median(values: np.ndarray) -> tuple[float, float]:
    """95 %, by drawing the rounds anew."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(values, (2000, len(values))), axis=1)
    low, high = np.percentile(medians, (2.5, 97.5))
    return float(low), float(high)


@contextlib.contextmanager
def serving(bundle: Path, sources: list[Any], *more: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """The command; gives its port once frames come."""
    command = [sys.executable, "-m", "edgeyolo", "serve", str(bundle), *map(str, sources), "--port", "0", "--json"]
    command += ["--max-clients", str(READERS + DEAF + 10), *more]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())["port"]
        while not count_frames(port):
            time.sleep(0.2)
        yield port, process
    finally:
        process.terminate()
        process.wait(60)


def metrics(port: int) -> str:
    """The text of /metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text: str = answer.read().decode()
    return text


def count_frames(port: int, name: str = "frames_detected") -> float:
    """A counter, of all sources together."""
    return sum(float(value) for value in re.findall(rf"^edgeyolo_{name}_total{{.*}} (\S+)$", metrics(port), re.M))


def frame_rate(port: int, seconds: float) -> float:
    """Detected frames per second, of all sources together."""
    first, started_s = count_frames(port), time.perf_counter()
    time.sleep(seconds)
    return (count_frames(port) - first) / (time.perf_counter() - started_s)


@contextlib.contextmanager
def crowd(port: int, sources: int) -> Iterator[None]:
    """The clients, in a process of their own."""
    context = multiprocessing.get_context("spawn")
    ending = context.Event()
    process = context.Process(target=look, args=(port, sources, ending), daemon=True)
    process.start()
    try:
        yield
    finally:
        ending.set()
        process.join(30)
        process.kill()


def look(port: int, sources: int, ending: Event) -> None:
    """All clients, a thread for each."""
    for number in range(READERS + DEAF):
        arguments = (port, number % sources, number < READERS, ending)
        threading.Thread(target=look_alone, args=arguments, daemon=True).start()
    ending.wait()


def look_alone(port: int, source: int, reads: bool, ending: Event) -> None:
    """One client: reads as fast as pictures come, or not at all; comes again when it is cut off."""
    while not ending.is_set():
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=10) as wire:
            wire.sendall(f"GET /stream/{source} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            while reads and not ending.is_set() and wire.recv(1 << 16):
                pass
            while not reads and not ending.wait(1.0):
                wire.sendall(b" ")  # fails once the server has given up
        ending.wait(0.2)


def write_video(path: Path, images: list[Image], fps: float) -> Path:
    """Motion JPEG, which costs little to decode."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, IMAGE_WH)
    for image in images:
        writer.write(image)
    writer.release()
    return path


def processor_s(process_id: int) -> float:
    """Seconds that a process has computed."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(process_id: int) -> float:
    """Resident set of a process."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process_id}/status").read_text())
    return round(int(found[1]) / 1024, 1) if found else 0.0


if __name__ == "__main__":
    main()
