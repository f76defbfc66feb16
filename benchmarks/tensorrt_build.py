"""Every model of the zoo, compiled by the real TensorRT compiler without a GPU: does it build, how long, how large.

    python benchmarks/tensorrt_build.py [--models yolov7-tiny ppyoloe-s] [--size 640] [--out FILE.json]

Random weights, and scales by max calibration on one random picture: neither changes which graph is built. float32,
float16 and int8 Q/DQ, with raw maps and with post-processing in the graph, for compute capability 8.6 (the nearest
relative of Orin's 8.7 that tensorrt_rtx compiles for) and 8.9. Each step runs in a process of its own, which bounds
memory. The results are written after each model; one that is in the file by the same code is not built again.
Prints a Markdown table. Seconds are of this machine's processor, for parsing and building.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from record import RESULTS, load_reusable, save_result

from edgeyolo.spec.errors import BackendError
from edgeyolo.spec.manifest import Artefact
from edgeyolo.spec.target import Precision

CAPABILITIES = ("8.6", "8.9")
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
PLACES = ("host", "graph")
CLASSES = 80
CALIBRATION_SIZE = 64  # pixels; the scales of random weights are of no interest


def main() -> None:
    """Build what is asked for and write the results after each model."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--models", nargs="*", default=None, help="all if not given")
    parser.add_argument("--size", type=int, default=0, help="image size; each model's published one if not given")
    parser.add_argument("--out", type=Path, default=RESULTS / "tensorrt_build.json")
    args = parser.parse_args()

    rows: list[dict[str, Any]] = (load_reusable(args.out) or {"builds": []})["builds"]
    sizes: dict[str, int] = in_own_process(list_sizes)
    for name in sizes if args.models is None else args.models:
        size = args.size or sizes[name]
        if any((row["model"], row["size"]) == (name, size) for row in rows):
            continue
        rows = [row for row in rows if row["model"] != name] + build_model(name, size)
        write_report(args.out, rows, sizes)
    sys.stdout.write(table(rows))


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call in a fresh process, which gives all its memory back.

    Raises:
        BrokenProcessPool: the process was killed, for its memory as a rule.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def list_sizes() -> dict[str, int]:
    """Image size of each model as published."""
    from edgeyolo import models

    return {info.name: max(models.image_hw_of_model(info.name)) for info in models.list_models()}


def build_model(name: str, size: int) -> list[dict[str, Any]]:
    """One row per precision, place of post-processing and compute capability."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="edgeyolo-") as work:
        source = Path(work) / "source"
        say(f"{name} at {size}: export")
        in_own_process(export_quantized, name, size, source)
        for precision in PRECISIONS:
            for place in PLACES:
                out = Path(work) / f"{precision}-{place}"
                artefact = in_own_process(prepare, source, out, precision, place)
                for capability in CAPABILITIES:
                    row = {"model": name, "size": size, "precision": precision, "postprocess": place}
                    row |= {"capability": capability, "layers": artefact.layers}
                    row |= {"onnx_bytes": (out / "model.onnx").stat().st_size, **build_alone(out, artefact, capability)}
                    outcome = f"{row['seconds']:.1f} s" if row["builds"] else row["error"]
                    say(f"{name} {precision} {place} {capability}: {outcome}")
                    rows.append(row)
    return rows


def export_quantized(name: str, size: int, folder: Path) -> None:
    """Write `model.onnx`, `model.json` and `qparams.json` of random weights."""
    import numpy as np
    import torch

    from edgeyolo import models
    from edgeyolo.export import export_model
    from edgeyolo.quantization import quantize
    from edgeyolo.spec.model import ModelSpec
    from edgeyolo.spec.recipe import Recipe

    torch.manual_seed(0)
    model = models.create(name, CLASSES).eval()
    spec = ModelSpec(
        name=name,
        activation=model.config.activation,
        class_names=tuple(f"class {i}" for i in range(CLASSES)),
        input=model.make_input_spec((size, size)),
        decode=model.decode,
    )
    picture = np.random.default_rng(0).random((1, 3, CALIBRATION_SIZE, CALIBRATION_SIZE), dtype=np.float32)
    recipe = Recipe(title="one random picture", observer="max", count=1)
    export_model(quantize(model, [picture], recipe, recipe_name="random", picture_hashes={"random": ""}), spec, folder)


def prepare(source: Path, out: Path, precision: Precision, place: str) -> Artefact:
    """Write the ONNX that TensorRT builds from."""
    from edgeyolo.backends import build
    from edgeyolo.spec.model import ModelRecord
    from edgeyolo.spec.qparams import load_qparams
    from edgeyolo.spec.strict import load_json
    from edgeyolo.spec.target import Target

    target = Target(
        title="benchmark",
        engine="tensorrt",
        precisions=PRECISIONS,
        postprocess="graph" if place == "graph" else "host",
        engine_options={"package": "tensorrt_rtx"},
    )
    qparams = load_qparams(source / "qparams.json") if precision == "int8" else None
    spec = load_json(source / "model.json", ModelRecord).model
    return build(source / "model.onnx", spec, qparams, target, out, precision=precision)


def build_alone(folder: Path, artefact: Artefact, capability: str) -> dict[str, Any]:
    """Build the plan in a process of its own; a failure is a result too."""
    try:
        return {"builds": True, **in_own_process(build_plan, folder, artefact, capability)}
    except BackendError as error:
        return {"builds": False, "error": str(error)}
    except BrokenProcessPool:
        return {"builds": False, "error": "the process was killed"}


def build_plan(folder: Path, artefact: Artefact, capability: str) -> dict[str, Any]:
    """Seconds to parse and build, bytes of the plan, and the most memory that the process took."""
    from edgeyolo.backends.tensorrt import compile_for
    from edgeyolo.backends.tensorrt.adapter import load_tensorrt
    from edgeyolo.backends.tensorrt.options import make_options

    options = make_options(artefact.options)
    load_tensorrt(options.package)  # importing is not building
    started = time.perf_counter()
    plan = compile_for(folder / "model.onnx", options, artefact.precision, capability=capability)
    seconds = time.perf_counter() - started
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": round(seconds, 2), "plan_bytes": len(plan), "peak_memory_mib": peak_kib // 1024}


def write_report(path: Path, rows: list[dict[str, Any]], sizes: dict[str, int]) -> None:
    """Results so far, and which models were built at another image size than the published one."""
    report = {
        "weights": f"random, {CLASSES} classes",
        "not_at_published_size": {row["model"]: row["size"] for row in rows if row["size"] != sizes[row["model"]]},
        "builds": rows,
    }
    save_result(path, report)


def table(rows: list[dict[str, Any]]) -> str:
    """Plan sizes side by side, and build seconds, for the first compute capability."""
    lines = [
        "| model | size | boxes | builds | plan MiB fp32 / fp16 / int8 | seconds fp32 / fp16 / int8 |",
        "|---|---|---|---|---|---|",
    ]
    for key in dict.fromkeys((row["model"], row["size"], row["postprocess"]) for row in rows):
        mine = [row for row in rows if (row["model"], row["size"], row["postprocess"]) == key]
        first = {row["precision"]: row for row in mine if row["capability"] == CAPABILITIES[0]}
        sizes = " / ".join(f"{first[p].get('plan_bytes', 0) / 2**20:.1f}" for p in PRECISIONS)
        seconds = " / ".join(f"{first[p].get('seconds', 0):.1f}" for p in PRECISIONS)
        built = f"{sum(row['builds'] for row in mine)} of {len(mine)}"
        lines.append(f"| {key[0]} | {key[1]} | {key[2]} | {built} | {sizes} | {seconds} |")
    return "\n".join(lines) + "\n"


def say(text: str) -> None:
    """Progress, for whoever waits."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


if __name__ == "__main__":
    main()
