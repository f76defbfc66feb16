"""What preparing a picture takes where the graph takes bytes (`input = "uint8"`), beside preparing floats.

    python benchmarks/input_bytes.py

One thread, a picture of noise, medians of interleaved runs; and the bytes that are copied to the engine.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import cv2
import msgspec
import numpy as np
from record import RESULTS, save_result

from edgeyolo.geometry.network_input import InputWriter, empty_input
from edgeyolo.spec.model import InputSpec

PICTURE_HW = (720, 1280)
SIDES = (320, 640)
RUNS = 300


def main() -> None:
    """Measure each size."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=RESULTS / "input_bytes.json")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    image = np.random.default_rng(0).integers(0, 256, (*PICTURE_HW, 3), np.uint8)
    rows = []
    for side in SIDES:
        floats = InputSpec(image_hw=(side, side))
        ways = {spec.pixels: spec for spec in (floats, msgspec.structs.replace(floats, pixels="uint8"))}
        writers = {name: (InputWriter(spec), empty_input(spec, 1)) for name, spec in ways.items()}
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(RUNS):
            for name, (writer, memory) in writers.items():
                started = time.perf_counter()
                writer.write(image, memory[0])
                times[name].append((time.perf_counter() - started) * 1e3)
        rows.append(
            {
                "side": side,
                "picture_hw": PICTURE_HW,
                "median_ms": {name: statistics.median(found) for name, found in times.items()},
                "bytes": {name: memory.nbytes for name, (_, memory) in writers.items()},
            }
        )
        sys.stderr.write(f"{rows[-1]}\n")
    save_result(args.out, {"runs": RUNS, "rows": rows})


if __name__ == "__main__":
    main()
