"""What each small model costs on each kind of board: bytes, milliseconds here, and instructions on emulated ARM cores.

    python benchmarks/small_models.py [--models yolov8n damo-ns] [--size 320] [--cores cortex-a76 cortex-a72]

Random weights, and scales by max calibration on one random picture: neither changes which layers run, in which
precision. Milliseconds are of the int8 bundles of this computer, one thread, in turns, without what is around the
network; millions of instructions are of the bundles that `deploy` writes for the boards of those cores, one thread. The
instructions of all are counted first, for which the computer need not be idle. The results are written after each
model; what is in the file by the same code is not measured again.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import arm_cost
import numpy as np
from record import RESULTS, load_reusable, save_result
from small_runs import SMALL
from tensorrt_build import export_quantized, in_own_process, say

from edgeyolo import backends, models
from edgeyolo.backends import Session
from edgeyolo.spec.errors import EdgeYoloError
from edgeyolo.spec.model import ModelRecord
from edgeyolo.spec.qparams import load_qparams
from edgeyolo.spec.strict import load_json
from edgeyolo.spec.target import load_target

HERE = {"ncnn": "host-ncnn", "OpenVINO": "host-openvino"}
ROUNDS = 15


def main() -> None:
    """Measure what is not there yet and write the results after each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=SMALL)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--cores", nargs="+", choices=arm_cost.TARGETS, default=["cortex-a76", "cortex-a72"])
    parser.add_argument("--out", type=Path, default=RESULTS / "small_models.json")
    args = parser.parse_args()
    settings = {"size": args.size, "cores": args.cores, "weights": "random, 80 classes"}
    rows: list[dict[str, Any]] = (load_reusable(args.out, **settings) or {"rows": []})["rows"]
    measured = {row["model"]: row for row in rows}
    for key in ("millions", "ms"):
        for name in args.models:
            row = measured.setdefault(name, {"model": name, **describe(name, args.size)})
            if key in row:
                continue
            with tempfile.TemporaryDirectory(prefix="edgeyolo-") as work:
                source = Path(work) / name
                in_own_process(export_quantized, name, args.size, source)
                if key == "ms":
                    row |= measure_here(source)
                else:
                    row["millions"] = {core: count_best(source, core) for core in args.cores}
            say(str(row))
            save_result(args.out, {**settings, "rows": [*measured.values()]})


def describe(name: str, size: int) -> dict[str, Any]:
    """Parameters of the folded network, and its GFLOPs at that size."""
    info = next(info for info in models.list_models() if info.name == name)
    height, width = models.image_hw_of_model(name)
    gflops = info.gflops * size**2 / (height * width)
    return {"parameters": info.parameters_deploy, "gflops": round(gflops, 2)}


def measure_here(source: Path) -> dict[str, Any]:
    """Median milliseconds of the int8 network on each engine of this computer, in turns, and bytes of ncnn's files."""
    record = load_json(source / "model.json", ModelRecord)
    qparams = load_qparams(source / "qparams.json")
    image = np.random.default_rng(0).random((1, 3, *record.model.input.image_hw), np.float32)
    sessions: dict[str, Session] = {}
    with tempfile.TemporaryDirectory(prefix="edgeyolo-") as work:
        for engine, target in HERE.items():
            folder = Path(work) / engine
            board = load_target(target)
            built = backends.build(source / "model.onnx", record.model, qparams, board, folder, precision="int8")
            sessions[engine] = backends.open_artefact(folder, built, record.model, threads=1)
        size = sum(path.stat().st_size for path in (Path(work) / "ncnn").iterdir())
        times: dict[str, list[float]] = {engine: [] for engine in sessions}
        for engine in list(sessions) * (ROUNDS + 1):
            started = time.perf_counter()
            sessions[engine].run(image)
            times[engine].append(1e3 * (time.perf_counter() - started))
        for session in sessions.values():
            session.close()
    milliseconds = {engine: round(statistics.median(taken[1:]), 2) for engine, taken in times.items()}
    return {"ncnn_bytes": size, "ms": milliseconds}


def count_best(source: Path, core: str) -> dict[str, float] | str:
    """Millions of instructions of the bundle that is the default for that core, and of the floats of its kind."""
    floats = "fp16" if core == "cortex-a76" else "fp32"
    try:
        return {mode: arm_cost.count_network(source, core, mode)["millions"] for mode in ("mixed", floats)}
    except (EdgeYoloError, SystemExit) as error:
        sys.stderr.write(f"{source.name} on {core}: {error}\n")
        return str(error).splitlines()[0]


if __name__ == "__main__":
    main()
