"""What two parts of training on a processor save: float32 gradients of depthwise convolutions, and kept memory.

    python benchmarks/train_parts.py --data ../shared/data/bccd [--models damo-ns yolox-nano yolov8n] [--rounds 5]
        [--threads 2]

A turn is a process of its own, since the C library keeps what it is told: a short epoch that warms up, and one that is
timed, loader included, at 320 pixels in bf16. All three ways take turns; a ratio is of two turns of the same round.
Writes benchmarks/results/train_parts.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import torch
from record import RESULTS, save_result
from tensorrt_build import in_own_process
from torch import nn
from train import make_ours

from edgeyolo.data.dataset import open_dataset
from edgeyolo.nn.depthwise import DepthwiseConv2d
from edgeyolo.spec.training import TrainConfig
from edgeyolo.training import heap

ALL = "both parts"
WAYS = (ALL, "torch's gradients of depthwise convolutions", "freed memory given back")
SIZE, BATCH, STEPS = 320, 8, 12


def main() -> None:
    """Measure each model and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["damo-ns", "yolox-nano", "yolov8n", "yolov3-tiny"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    settings = {"rounds": args.rounds, "threads": args.threads, "image_size": SIZE, "batch": BATCH}
    rows = []
    for model in args.models:
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(args.rounds):
            for way in WAYS:
                seconds[way].append(in_own_process(take_turn, way, model, args.data, args.threads))
        for way, times in seconds.items():
            ratio = statistics.median(one / with_all for one, with_all in zip(times, seconds[ALL], strict=True))
            step_ms = 1e3 * statistics.median(times) / STEPS
            rows.append({"model": model, "way": way, "step_ms": round(step_ms, 1), "of_both": round(ratio, 3)})
            sys.stderr.write(f"{rows[-1]}\n")
        save_result(RESULTS / "train_parts.json", {**settings, "rows": rows})


def take_turn(way: str, model: str, data_folder: Path, threads: int) -> float:
    """Seconds of one short epoch."""
    torch.set_num_threads(threads)
    data = open_dataset(data_folder, "train")
    data = dataclasses.replace(data, records=data.records[: STEPS * BATCH])
    config = TrainConfig(model=model, image_size=SIZE, batch=BATCH, device="cpu", workers=0)
    with (
        tempfile.TemporaryDirectory() as work,
        mock.patch.object(DepthwiseConv2d, "forward", nn.Conv2d.forward if way == WAYS[1] else DepthwiseConv2d.forward),
        mock.patch(
            "edgeyolo.training.run.keep_freed_memory", leave_memory if way == WAYS[2] else heap.keep_freed_memory
        ),
    ):
        ours = make_ours(config, data, Path(work) / "run", "bf16")
        ours.turn(0)
        started = time.perf_counter()
        ours.turn(1)
        return time.perf_counter() - started


def leave_memory(_device: torch.device) -> None:
    """The C library as it is."""


if __name__ == "__main__":
    main()
