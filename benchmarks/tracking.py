"""What a tracker takes for a frame, beside the same method written out one track after the other.

    python benchmarks/tracking.py [--objects 10 50 500] [--frames 60]

Objects walk, one in ten is missed in every frame, and scores are of any height. Both forms follow the same frames in
turns in one process and must give the same ids; the plain one has the same overlaps, and scipy's assignment of the
whole matrix. Also the time in which the movement of the camera is found in a frame of 1280 x 720. One thread. Prints a
Markdown table and writes benchmarks/results/tracking.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from record import RESULTS, ROOT, save_result
from scipy.optimize import linear_sum_assignment

from edgeyolo.spec.detections import Detections
from edgeyolo.spec.tracking import TrackMethod
from edgeyolo.tracking import Tracker
from edgeyolo.tracking.association import overlaps
from edgeyolo.tracking.camera_motion import CameraMotion

sys.path.insert(0, str(ROOT))
from tests.cases.plain_tracker import PlainTracker

METHODS: tuple[TrackMethod, ...] = ("bytetrack", "botsort")
FIRST_FRAMES = 10  # until there are as many tracks as objects


@dataclass(frozen=True)
class Row:
    """Milliseconds for a frame; the median, the 90th percentile, and the median of the plain form."""

    method: str
    objects: int
    tracks: float
    median_ms: float
    p90_ms: float
    plain_ms: float


class SolvedPlainTracker(PlainTracker):
    """The plain form with scipy's assignment of the extended matrix in the place of trying all."""

    def pairs(
        self, tracks: list[dict[str, Any]], found: list[Any], limit: float, fused: bool, looks: bool = False
    ) -> Any:
        """See `PlainTracker`."""
        rows, columns = len(tracks), len(found)
        if not rows or not columns:
            return ()
        costs = np.full((rows + columns, rows + columns), limit / 2)
        costs[rows:, columns:] = 0
        boxes_xyxy = np.array([self.filter.box(track["x"]) for track in tracks])
        near = overlaps(boxes_xyxy, np.array([box for box, _ in found]))
        costs[:rows, :columns] = 1 - near * ([score for _, score in found] if fused else 1)
        solved = zip(*linear_sum_assignment(costs), strict=True)
        return tuple((row, column) for row, column in solved if row < rows and column < columns)


def walk(objects: int, frames: int) -> Iterator[Detections]:
    """What is detected of objects in a field in which they seldom meet."""
    rng = np.random.default_rng(0)
    side = 200 * objects**0.5
    centre_xy, size_wh = rng.uniform(0, side, (objects, 2)), rng.uniform(30, 90, (objects, 2))
    speed_xy = rng.normal(0, 3, (objects, 2))
    for _ in range(frames):
        centre_xy = centre_xy + speed_xy
        boxes_xyxy = np.concatenate([centre_xy - size_wh / 2, centre_xy + size_wh / 2], axis=1)
        seen = rng.random(objects) > 0.1
        scores = rng.uniform(0.2, 1, objects)[seen]
        boxes_xyxy = (boxes_xyxy + rng.normal(0, 1, boxes_xyxy.shape))[seen]
        yield Detections(boxes_xyxy, scores, np.zeros(len(scores), np.int64))


def measure(method: TrackMethod, objects: int, frames: int) -> Row:
    """Both forms in turns."""
    tracker, plain = Tracker(method), SolvedPlainTracker(method)
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    tracks = []
    for frame, detections in enumerate(walk(objects, frames)):
        started = time.perf_counter()
        found = tracker.update(detections)
        done = time.perf_counter()
        expected = plain.update(detections.boxes_xyxy, detections.scores)
        finished = time.perf_counter()
        if found.track_ids.tolist() != [track["id"] for track in expected]:
            raise SystemExit(f"{method}, frame {frame}: the two forms do not agree")
        if frame >= FIRST_FRAMES:
            times["ours"].append((done - started) * 1e3)
            times["plain"].append((finished - done) * 1e3)
            tracks.append(len(found))
    p90 = statistics.quantiles(times["ours"], n=10)[-1]
    medians = [statistics.median(times[name]) for name in ("ours", "plain")]
    return Row(method, objects, statistics.mean(tracks), medians[0], p90, medians[1])


def measure_camera(frames: int) -> float:
    """Milliseconds, the median, of `CameraMotion.follow` in frames with plenty of corners."""
    noise = np.random.default_rng(0).uniform(0, 255, (100, 180, 3)).astype(np.float32)
    picture = cv2.resize(noise, (1440, 800), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)
    camera, times = CameraMotion(), []
    for frame in range(frames):
        x = 3 * frame % 100
        view = np.ascontiguousarray(picture[x // 2 : x // 2 + 720, x : x + 1280])
        started = time.perf_counter()
        camera.follow(view)
        times.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times[1:])


def main() -> None:
    """Measure every case, print the table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, nargs="+", default=[10, 50, 500])
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--out", type=Path, default=RESULTS / "tracking.json")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    rows = [measure(method, count, arguments.frames) for count in arguments.objects for method in METHODS]
    camera_ms = measure_camera(arguments.frames)
    lines = ["| objects | method | ms | p90 | one after the other | ratio |", "|---:|---|---:|---:|---:|---:|"]
    for row in rows:
        times = f"{row.median_ms:.2f} | {row.p90_ms:.2f} | {row.plain_ms:.1f} | {row.plain_ms / row.median_ms:.1f}"
        lines.append(f"| {row.objects} | {row.method} | {times} |")
    lines += ["", f"Movement of the camera, 1280 x 720: {camera_ms:.1f} ms", ""]
    sys.stdout.write("\n".join(lines))
    result = {"frames": arguments.frames, "rows": [asdict(row) for row in rows], "camera_ms": camera_ms}
    save_result(arguments.out, result)


if __name__ == "__main__":
    main()
