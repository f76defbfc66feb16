"""Every model of the zoo, compiled by the real TensorRT compiler without a GPU: does it build, how long, how large.

    python benchmarks/tensorrt_build.py [--models yolov7-tiny ppyoloe-s] [--size 640] [--out benchmarks/results/...json]

Random weights; scales by max calibration on one random picture: neither changes which graph is built. Float, fp16 and
int8 Q/DQ, with raw maps and with post-processing in the graph, for compute capability 8.6 (the nearest relative of
Orin's 8.7 that tensorrt_rtx compiles for) and 8.9. Prints a Markdown table. Seconds are of this machine's processor.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgeyolo import models
from edgeyolo.backends import build
from edgeyolo.backends._tensorrt_options import make_options
from edgeyolo.backends.tensorrt import compile_for
from edgeyolo.cli._machine import processor_name
from edgeyolo.export import export_model
from edgeyolo.quantization import quantize
from edgeyolo.spec.atomic import write_file
from edgeyolo.spec.errors import BackendError
from edgeyolo.spec.model import ModelSpec
from edgeyolo.spec.qparams import load_qparams
from edgeyolo.spec.recipe import Recipe
from edgeyolo.spec.target import Precision, Target

CAPABILITIES = ("8.6", "8.9")
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
CLASSES = 80
LARGE = 50_000_000  # parameters from which --large-size is used
DEFAULT_OUT = Path(__file__).parent / "results" / "tensorrt_build.json"


def main() -> None:
    """Build what is asked for and write the results after each model."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--models", nargs="*", default=None, help="all if not given")
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--large-size", type=int, default=320, help="of models over 50 M parameters")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    args = parser.parse_args()

    torch.manual_seed(0)
    rows: list[dict[str, Any]] = []
    for info in models.list_models():
        if args.models is not None and info.name not in args.models:
            continue
        size = args.large_size if info.parameters_deploy > LARGE else args.size
        rows += build_model(info.name, size)
        report = {
            "tensorrt_rtx": importlib.metadata.version("tensorrt-rtx-cu12"),
            "processor": processor_name(),
            "classes": CLASSES,
            "builds": rows,
        }
        write_file(args.out, (json.dumps(report, indent=2) + "\n").encode())
        gc.collect()
    sys.stdout.write(table(rows))


def build_model(name: str, size: int) -> list[dict[str, Any]]:
    """One row per precision, place of post-processing and compute capability."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="edgeyolo-") as work:
        folder = Path(work) / "model"
        export_quantized(name, size, folder)
        for precision in PRECISIONS:
            for postprocess in ("host", "graph"):
                rows += build_one(name, size, folder, Path(work) / f"{precision}-{postprocess}", precision, postprocess)
    return rows


def export_quantized(name: str, size: int, folder: Path) -> None:
    """`model.onnx`, `model.json` and `qparams.json` of random weights."""
    model = models.create(name, CLASSES).eval()
    spec = ModelSpec(
        name=name,
        activation=model.config.activation,
        class_names=tuple(f"class {i}" for i in range(CLASSES)),
        input=model.make_input_spec((size, size)),
        decode=model.decode,
    )
    picture = np.random.default_rng(0).random((1, 3, size, size), dtype=np.float32)
    recipe = Recipe(title="one random picture", observer="max", count=1)
    quantized = quantize(model, [picture], recipe, recipe_name="random", picture_hashes={"random": ""})
    export_model(quantized, spec, folder)


def build_one(
    name: str, size: int, folder: Path, out: Path, precision: Precision, postprocess: str
) -> list[dict[str, Any]]:
    """Build one ONNX for each compute capability."""
    target = Target(
        title="benchmark",
        engine="tensorrt",
        precisions=PRECISIONS,
        postprocess="graph" if postprocess == "graph" else "host",
        engine_options={"package": "tensorrt_rtx"},
    )
    qparams = load_qparams(folder / "qparams.json") if precision == "int8" else None
    artefact = build(folder / "model.onnx", qparams, target, out, precision=precision)
    rows = []
    for capability in CAPABILITIES:
        row: dict[str, Any] = {"model": name, "size": size, "precision": precision, "postprocess": postprocess}
        row |= {"capability": capability, "onnx_bytes": (out / "model.onnx").stat().st_size, "layers": artefact.layers}
        started = time.perf_counter()
        try:
            plan = compile_for(out / "model.onnx", make_options(artefact.options), precision, capability=capability)
            row |= {"builds": True, "seconds": round(time.perf_counter() - started, 2), "plan_bytes": len(plan)}
        except BackendError as error:
            row |= {"builds": False, "error": str(error)}
        row["peak_memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Plan sizes side by side, and build seconds, for the first compute capability."""
    lines = [
        "| model | size | post-processing | builds | plan MiB fp32 / fp16 / int8 | seconds fp32 / fp16 / int8 |",
        "|---|---|---|---|---|---|",
    ]
    keys = dict.fromkeys((row["model"], row["size"], row["postprocess"]) for row in rows)
    for key in keys:
        mine = [row for row in rows if (row["model"], row["size"], row["postprocess"]) == key]
        first = {row["precision"]: row for row in mine if row["capability"] == CAPABILITIES[0]}
        sizes = " / ".join(f"{first[p].get('plan_bytes', 0) / 2**20:.1f}" for p in PRECISIONS)
        seconds = " / ".join(f"{first[p].get('seconds', 0):.1f}" for p in PRECISIONS)
        built = f"{sum(row['builds'] for row in mine)} of {len(mine)}"
        lines.append(f"| {key[0]} | {key[1]} | {key[2]} | {built} | {sizes} | {seconds} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
