"""What every recipe costs, on every engine, on real photographs: AP of float, of fake-quant and of what engines run.

    python benchmarks/bccd.py --data ../shared/data/bccd --out runs/tiny                      # trains, if not done yet
    python benchmarks/bccd.py --data ../shared/data/bccd --out runs/ppyoloe --model ppyoloe-s
    python benchmarks/quantization.py --data ../shared/data/bccd --work runs/quantization runs/tiny/run runs/ppyoloe/run
        [--recipes int8-mse int8-qat] [--engines onnxruntime rknn] [--out benchmarks/results/quantization_small.json]

AP is of the val and test splits together; int8-qat chooses its epoch on val. Engines are ways of `engines.py`, which
says what each is: TensorRT's graph is run by ONNX Runtime, RKNN by its vendor's simulator, ARM cores are emulated.
Writes after each figure and prints a Markdown table; what the same code has measured of the same checkpoint is not
measured again, so that engines, recipes and models can be added. Calls side by side may write into one file.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
from engines import WAYS
from record import RESULTS, claim_folder, load_reusable, save_result
from splits import join_splits

from edgeyolo.data.dataset import open_dataset
from edgeyolo.evaluation.measure import measure_session
from edgeyolo.export import export_model
from edgeyolo.quantization import Quantized, quantize
from edgeyolo.quantization.calibrate.pictures import calibration_pictures
from edgeyolo.quantization.recover.qat import QatStart, train_quantized
from edgeyolo.spec.lock import locked, remove_if_free
from edgeyolo.spec.model import Score
from edgeyolo.spec.recipe import Recipe, load_recipe
from edgeyolo.training.checkpoint import Checkpoint, load_checkpoint
from edgeyolo.training.run import LAST
from edgeyolo.training.torch_session import TorchSession

RECIPES = ("int8-max", "int8-percentile", "int8-entropy", "int8-mse", "int8-qat")
DEPTHWISE_ALL = "int8-depthwise-all"  # int8-depthwise with no layer float for what it costs
DEPTHWISE_QAT = "int8-depthwise-qat"  # int8-depthwise with --qat, by the settings of int8-qat
ORDER = (*RECIPES[:-1], DEPTHWISE_ALL, "int8-depthwise", "int8-output", "int8-qat", DEPTHWISE_QAT)
ENGINES = {
    "onnxruntime": WAYS["ONNX Runtime, signed"],
    "ncnn": WAYS["NCNN on x86"],
    "openvino": WAYS["OpenVINO"],
    "tensorrt": WAYS["TensorRT's graph in ONNX Runtime"],
    "rknn": WAYS["RKNN for RK3588, simulated"],
    "cortex-a76": WAYS["NCNN on an emulated Cortex-A76, mixed"],
}
PROCESSORS = ("onnxruntime", "ncnn", "openvino")
BY_DEFAULT = (*PROCESSORS, "tensorrt")  # what needs nothing but the package


class StageProgress:
    """One line on stderr per finished stage."""

    def step(self, stage: str, done: int, total: int, text: str = "") -> None:
        """Write when `done` reaches `total`."""
        if done == total:
            sys.stderr.write(f"{stage} {text}\n")


def find_recipe(name: str) -> Recipe:
    """One of those that ship, or one of those that are made of them."""
    if name not in (DEPTHWISE_ALL, DEPTHWISE_QAT):
        return load_recipe(name)
    recipe = load_recipe("int8-depthwise")
    if name == DEPTHWISE_ALL:
        return msgspec.structs.replace(recipe, float_error=0.0)
    return msgspec.structs.replace(recipe, qat=load_recipe("int8-qat").qat)


def quantize_run(source: Checkpoint, data: Path, recipe_name: str, work: Path) -> dict[str, Any]:
    """Write the folder `int8`; what it took, seconds of calibration and of training, and AP of fake-quant."""
    recipe, spec = find_recipe(recipe_name), source.record.model
    train_data = open_dataset(data, "train")
    started = time.perf_counter()
    pictures, hashes = calibration_pictures(train_data, spec.input, count=recipe.count, seed=recipe.seed)
    quantized = quantize(source.model, pictures, recipe, recipe_name=recipe_name, picture_hashes=hashes)
    row: dict[str, Any] = {"pictures": len(pictures), "calibration_seconds": time.perf_counter() - started}
    row["int8_layers"], row["layers"] = len(quantized.placement.int8_layers()), len(quantized.placement.layers)
    if recipe_name in ("int8-qat", DEPTHWISE_QAT):
        quantized = train_run(source, quantized, data, work / "qat", row)
    export_model(quantized, spec, work / "int8", checkpoint_sha256=source.sha256)
    fake = measure_session(TorchSession(quantized.fake_quant), spec, join_splits(data), artefact="fake-quant torch")
    return row | {"fake-quant": figures(fake)}


def train_run(source: Checkpoint, quantized: Quantized, data: Path, work: Path, row: dict[str, Any]) -> Quantized:
    """Quantization-aware training, or the rest of a stopped one; adds to the row what it took and found."""
    started = time.perf_counter()
    result = train_quantized(
        QatStart(quantized, source.model, source.record.model, open_dataset(data, "train"), open_dataset(data, "val")),
        load_recipe("int8-qat").qat,
        work,
        resume=(work / LAST).is_file(),
        progress=StageProgress(),
    )
    row |= {"qat_seconds": time.perf_counter() - started, "best_epoch": result.best_epoch}
    row["ap_by_epoch_on_val"] = [result.start.ap, *(epoch.ap for epoch in result.history)]
    return result.quantized


def figures(score: Score) -> dict[str, Any]:
    """What the table needs of a score."""
    return {"ap": score.ap, "ap50": score.ap50, "per_class": score.per_class, "images": score.images}


def table(report: dict[str, Any]) -> str:
    """The report as a Markdown table; an empty cell is an engine that was not asked."""
    names = ["fake-quant", *ENGINES]
    lines = [
        f"| model | recipe | float | {' | '.join(names)} | drop | engines apart |",
        "|---|---|" + "---:|" * (len(names) + 3),
    ]
    for model, found in report["models"].items():
        ap = found["float"]["ap"]
        for recipe, row in found["recipes"].items():
            aps = {name: row[name]["ap"] for name in names if name in row}
            cells = [f"{ap:.2f}", *(f"{aps[name]:.2f}" if name in aps else "" for name in names)]
            cells += [f"{ap - min(aps.values()):.2f}", f"{max(aps.values()) - min(aps.values()):.2f}"]
            lines.append(f"| {model} | {recipe} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


class Report:
    """The file of results, which other calls may be adding to as well."""

    def __init__(self, path: Path, data: Path) -> None:
        self._path = path
        self._settings = {"data": data.name}

    def read(self) -> dict[str, Any]:
        """All of it, as far as this code has made it."""
        return load_reusable(self._path, **self._settings) or {**self._settings, "models": {}}

    def of_model(self, name: str, checkpoint: str) -> dict[str, Any]:
        """What is there of a model, if it is the same checkpoint's."""
        found: dict[str, Any] = self.read()["models"].get(name, {})
        return found if found.get("checkpoint_sha256") == checkpoint else {}

    def add(self, name: str, found: dict[str, Any], recipe: str, row: dict[str, Any]) -> None:
        """Put a row of a model beside those that are there by now."""
        lock = self._path.with_suffix(".lock")
        with locked(lock, waiting_for="writing these results"):
            report = self.read()
            there = self.of_model(name, found["checkpoint_sha256"]) or {**found, "recipes": {}}
            rows = there["recipes"] | {recipe: there["recipes"].get(recipe, {}) | row}
            there["recipes"] = {one: rows[one] for one in sorted(rows, key=ORDER.index)}
            report["models"] = dict(sorted({**report["models"], name: there}.items()))
            report["peak_memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            report.pop("record", None)
            save_result(self._path, report)
        remove_if_free(lock)


def measure_model(source: Checkpoint, report: Report, args: argparse.Namespace) -> None:
    """Measure what is not there yet of one model."""
    spec, both = source.record.model, join_splits(args.data)
    found = report.of_model(spec.name, source.sha256)
    if not found:
        score = measure_session(TorchSession(source.model), spec, both, artefact="float torch")
        found = {"checkpoint_sha256": source.sha256, "image_hw": spec.input.image_hw, "float": figures(score)}
    for recipe in args.recipes:
        work = claim_folder(args.work / spec.name / recipe, checkpoint=source.sha256)
        row = found.get("recipes", {}).get(recipe, {})
        if not row or not (work / "int8").is_dir():
            sys.stderr.write(f"{spec.name} {recipe}\n")
            row = quantize_run(source, args.data, recipe, work)
            report.add(spec.name, found, recipe, row)
        for engine in args.engines:
            if engine not in row:
                sys.stderr.write(f"{spec.name} {recipe} {engine}\n")
                report.add(spec.name, found, recipe, {engine: figures(ENGINES[engine](work / "int8", both))})


def main() -> None:
    """Measure what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders that `edgeyolo train` wrote")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--recipes", nargs="+", choices=ORDER, default=RECIPES)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=BY_DEFAULT)
    parser.add_argument("--out", type=Path, default=RESULTS / "quantization.json")
    args = parser.parse_args()
    report = Report(args.out, args.data)
    for run in args.runs:
        measure_model(load_checkpoint(run), report, args)
    sys.stdout.write(table(report.read()))


if __name__ == "__main__":
    main()
