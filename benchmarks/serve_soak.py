"""`edgeyolo serve` for 30 minutes: the source and the broker are lost and come back, clients of all kinds come and go.

    python benchmarks/serve_soak.py runs/cells-int8 --data ../shared/data/bccd --minutes 30

The command runs in a process of its own, on a stream that is gone for some seconds of every minute, with a broker
(tests/live/setup_mosquitto.py fetches it) that is stopped in the middle of every minute. Ten clients read the live
picture and forty never do; pictures are sent to /detect, good ones and bombs; recordings fill a folder that is too
small. Findings, with which the exit status is 1: memory, files or threads that grow, a loss without a return, a
picture that is not answered as it must be, too much on the disk. Writes benchmarks/results/serve_soak.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from record import RESULTS, ROOT, save_result
from serve import count_frames, crowd, memory_mib, serving
from soak import Camera

from edgeyolo import verbs
from edgeyolo.data.dataset import open_dataset
from edgeyolo.spec.detections import Image

sys.path.insert(0, str(ROOT / "tests/cases"))

from mosquitto import Mosquitto, find_mosquitto

PICTURES = 40
PERIOD_S, AWAY_S = 60.0, 8.0  # of the broker
SAMPLE_S, SEND_S = 5.0, 0.5
RECORD_MIB = 5
MOST_GROWTH_MIB = 8.0


def main() -> None:
    """Soak, judge, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="what `deploy` takes")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--target", default="host-ncnn")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--out", type=Path, default=RESULTS / "serve_soak.json")
    arguments = parser.parse_args()
    program, reason = find_mosquitto()
    if not program:
        raise SystemExit(reason)
    data = open_dataset(arguments.data, "test")
    images = [data[i].image for i in range(min(PICTURES, len(data)))]
    with tempfile.TemporaryDirectory(prefix="edgeyolo-") as folder:
        bundle = Path(folder) / "model.eyb"
        verbs.deploy(arguments.model, arguments.target, bundle)
        result = soak(bundle, images, Mosquitto(program, Path(folder)), Path(folder) / "kept", 60 * arguments.minutes)
    save_result(arguments.out, {"minutes": arguments.minutes, "target": arguments.target, **result})
    sys.stdout.write("".join(f"{key}: {value}\n" for key, value in result.items() if key != "samples"))
    sys.exit(1 if result["findings"] else 0)


def soak(bundle: Path, images: list[Image], broker: Mosquitto, kept: Path, seconds: float) -> dict[str, Any]:
    """Everything at once for so long; what came of it."""
    ending, answers = threading.Event(), Counter[str]()
    more = ["--mqtt", f"127.0.0.1:{broker.port}", "--mqtt-name", "soak", "--record", str(kept), "--record-every", "0.5"]
    more += ["--record-absence", "0", "--record-limit-mib", str(RECORD_MIB), "--max-megapixels", "1"]
    with Camera(images) as camera, serving(bundle, [camera.address], *more) as (port, process), crowd(port, 1):
        losses = Counter[str]()
        threads = [
            threading.Thread(target=camera.come_and_go, args=(ending,)),
            threading.Thread(target=lose_broker, args=(broker, losses, ending)),
            threading.Thread(target=send_pictures, args=(port, images, answers, ending)),
        ]
        for thread in threads:
            thread.start()
        samples = []
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            time.sleep(SAMPLE_S)
            samples.append(sample(port, process.pid))
        ending.set()
        for thread in threads:
            thread.join()
        time.sleep(10)
        last = status(port)
        reconnects = count_frames(port, "reconnects")
    broker.stop()
    disk_mib = sum(path.stat().st_size for path in kept.iterdir()) / 2**20
    counts = {"camera_losses": camera.losses, "camera_returns": int(reconnects), "broker_losses": losses["broker"]}
    source = last["sources"][0]
    counts |= {name: source[name] for name in ("captured", "detected", "dropped")}
    return {
        **counts,
        "p99_ms": source["p99_ms"],
        "recording": last["recording"],
        "disk_mib": round(disk_mib, 2),
        "answers": dict(answers),
        "memory_mib": [samples[0]["memory_mib"], max(s["memory_mib"] for s in samples), samples[-1]["memory_mib"]],
        "findings": judge(counts, last, samples, answers, disk_mib),
        "samples": samples[:: max(1, len(samples) // 60)],
    }


def lose_broker(broker: Mosquitto, losses: Counter[str], ending: threading.Event) -> None:
    """In the middle of every minute; the camera is lost at its end."""
    while not ending.wait((PERIOD_S - AWAY_S) / 2):
        losses["broker"] += 1
        broker.stop()
        ending.wait(AWAY_S)
        broker.start()
        ending.wait((PERIOD_S - AWAY_S) / 2)


def send_pictures(port: int, images: list[Image], answers: Counter[str], ending: threading.Event) -> None:
    """Good ones, and what must be refused."""
    good = [cv2.imencode(".jpg", image)[1].tobytes() for image in images]
    bomb = cv2.imencode(".png", np.zeros((6000, 6000), np.uint8))[1].tobytes()
    sent = {200: good[0], 422: bomb, 415: good[0][:500], 413: bytes(12 << 20)}
    number = 0
    while not ending.wait(SEND_S):
        wanted, body = list(sent.items())[number % len(sent)]
        if wanted == 200:
            body = good[number % len(good)]
        number += 1
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/detect", body, timeout=30) as answer:
                found = answer.status
        except urllib.error.HTTPError as error:
            found = error.code
            error.close()
        except OSError as error:
            found = type(error).__name__
        answers["as they must" if found == wanted else f"{found} for {wanted}"] += 1


def status(port: int) -> dict[str, Any]:
    """What the page shows."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=30) as answer:
        found: dict[str, Any] = json.loads(answer.read())
    return found


def sample(port: int, process_id: int) -> dict[str, Any]:
    """What the process holds now, and how the source is."""
    folder = Path(f"/proc/{process_id}")
    found = {"memory_mib": memory_mib(process_id), "phase": "", "broker": None}
    found |= {
        "files": sum(1 for _ in (folder / "fd").iterdir()),
        "threads": sum(1 for _ in (folder / "task").iterdir()),
    }
    with contextlib.suppress(OSError):
        now = status(port)
        found |= {"phase": now["sources"][0]["phase"], "fps": now["sources"][0]["fps"], "broker": now["broker"]}
    return found


def judge(
    counts: dict[str, int],
    last: dict[str, Any],
    samples: list[dict[str, Any]],
    answers: Counter[str],
    disk_mib: float,
) -> list[str]:
    """What must not be."""
    findings = [f"{count} answers: {kind}" for kind, count in answers.items() if kind != "as they must"]
    if counts["camera_returns"] < counts["camera_losses"] - 1:  # the last loss may be going on
        findings.append(f"{counts['camera_losses']} losses of the source, {counts['camera_returns']} returns")
    if last["broker"] is not True:
        findings.append("the broker is there and is not told")
    if last["sources"][0]["phase"] != "live" or last["problem"]:
        findings.append(f"at the end the source is {last['sources'][0]['phase']}; {last['problem']}")
    if disk_mib > RECORD_MIB:
        findings.append(f"{disk_mib:.1f} MiB of recordings, and {RECORD_MIB} were allowed")
    quarter = len(samples) // 4
    for key, most in (("memory_mib", MOST_GROWTH_MIB), ("files", 10), ("threads", 2)):
        early, late = ([s[key] for s in part] for part in (samples[quarter : 2 * quarter], samples[3 * quarter :]))
        if early and late and np.median(late) - np.median(early) > most:
            findings.append(f"{key} grew from {np.median(early):.0f} to {np.median(late):.0f}")
    return findings


if __name__ == "__main__":
    main()
