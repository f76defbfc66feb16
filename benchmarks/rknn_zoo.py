"""Every model of the zoo, compiled by Rockchip's toolkit for an NPU: does it build, how long, how large, and why not.

    python benchmarks/rknn_zoo.py [--models yolov7-tiny ppyoloe-s] [--size 320] [--target rockchip-rk3588-npu]

Random weights, and scales by max calibration on one random picture: neither changes which graph is compiled. int8, and
float16 where --precision says so. The results are written after each model; one that is in the file by the same code is
not compiled again. Prints a Markdown table. Seconds are of this machine's processor.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import RESULTS, load_reusable, save_result
from tensorrt_build import export_quantized, in_own_process, list_sizes, say

from edgeyolo import backends
from edgeyolo.spec.errors import EdgeYoloError
from edgeyolo.spec.model import ModelRecord
from edgeyolo.spec.qparams import load_qparams
from edgeyolo.spec.strict import load_json
from edgeyolo.spec.target import Precision, load_target


def main() -> None:
    """Compile what is asked for and write the results after each model."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--models", nargs="*", default=None, help="all if not given")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--target", default="rockchip-rk3588-npu")
    parser.add_argument("--precision", choices=["int8", "fp16"], default="int8")
    parser.add_argument("--out", type=Path, default=RESULTS / "rknn_zoo.json")
    args = parser.parse_args()
    settings = {"target": args.target, "size": args.size, "precision": args.precision}
    rows: list[dict[str, Any]] = (load_reusable(args.out, **settings) or {"builds": []})["builds"]
    for name in in_own_process(list_sizes) if args.models is None else args.models:
        if any(row["model"] == name for row in rows):
            continue
        rows.append({"model": name, **compile_model(name, **settings)})
        save_result(args.out, {**settings, "weights": "random, 80 classes", "builds": rows})
    sys.stdout.write(table(rows))


def compile_model(name: str, target: str, size: int, precision: Precision) -> dict[str, Any]:
    """Seconds and bytes, or the message; a failure is a result too."""
    with tempfile.TemporaryDirectory(prefix="edgeyolo-") as work:
        source, out = Path(work) / "source", Path(work) / "out"
        say(f"{name} at {size}: export")
        in_own_process(export_quantized, name, size, source)
        spec = load_json(source / "model.json", ModelRecord).model
        qparams = load_qparams(source / "qparams.json") if precision == "int8" else None
        started = time.perf_counter()
        try:
            artefact = backends.build(
                source / "model.onnx", spec, qparams, load_target(target), out, precision=precision
            )
        except EdgeYoloError as error:
            say(f"{name}: {error}")
            return {"builds": False, "error": str(error)}
        seconds = time.perf_counter() - started
        sizes = {f"{role}_bytes": (out / file).stat().st_size for role, file in artefact.files.items()}
        say(f"{name}: {seconds:.1f} s")
        return {"builds": True, "seconds": round(seconds, 2), "layers": artefact.layers, **sizes}


def table(rows: list[dict[str, Any]]) -> str:
    """One line for each model."""
    lines = ["| model | int8 layers | float | .rknn, MB | seconds |", "|---|---:|---:|---:|---:|"]
    for row in rows:
        if row["builds"]:
            layers = row["layers"]
            cells = [layers.get("int8", 0), layers["float"], f"{row['rknn_bytes'] / 1e6:.1f}", f"{row['seconds']:.0f}"]
        else:
            cells = [row["error"].splitlines()[0], "", "", ""]
        lines.append("| " + " | ".join(map(str, [row["model"], *cells])) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
