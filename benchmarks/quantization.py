"""What every recipe costs, on every engine, on real photographs: AP of float, fake-quant and of three engines' bundles.

    python benchmarks/bccd.py --data ../shared/data/bccd --out runs/tiny                      # trains, if not done yet
    python benchmarks/bccd.py --data ../shared/data/bccd --out runs/ppyoloe --model ppyoloe-s
    python benchmarks/quantization.py --data ../shared/data/bccd --work runs/quantization runs/tiny/run runs/ppyoloe/run
        [--recipes int8-mse int8-qat] [--out benchmarks/results/quantization_small.json]

AP is of the val and test splits together; int8-qat chooses its epoch on val. Adds to
benchmarks/results/quantization.json after each recipe and prints a Markdown table; what the same code has measured
of the same checkpoint is not measured again. Calls for different models may
write into one file, each after its own recipes.
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import sys
import time
from pathlib import Path
from typing import Any

from record import RESULTS, claim_folder, load_reusable, save_result

from edgeyolo.data.dataset import Dataset, open_dataset
from edgeyolo.evaluation.measure import measure_session
from edgeyolo.export import export_model
from edgeyolo.quantization import Quantized, quantize
from edgeyolo.quantization.calibrate.pictures import calibration_pictures
from edgeyolo.quantization.recover.qat import QatStart, train_quantized
from edgeyolo.spec.model import Score
from edgeyolo.spec.recipe import load_recipe
from edgeyolo.training.checkpoint import Checkpoint, load_checkpoint
from edgeyolo.training.run import LAST
from edgeyolo.training.torch_session import TorchSession
from edgeyolo.verbs import measure_built

RECIPES = ("int8-max", "int8-percentile", "int8-entropy", "int8-mse", "int8-qat")
ENGINES = (("host-onnx", "onnxruntime"), ("host-ncnn", "ncnn"), ("host-openvino", "openvino"))


class StageProgress:
    """One line on stderr per finished stage."""

    def step(self, stage: str, done: int, total: int, text: str = "") -> None:
        """Write when `done` reaches `total`."""
        if done == total:
            sys.stderr.write(f"{stage} {text}\n")


def join_splits(data: Path) -> Dataset:
    """Val and test as one split."""
    val, test = (open_dataset(data, split) for split in ("val", "test"))
    return dataclasses.replace(val, split="val+test", records=[*val.records, *test.records])


def quantize_run(source: Checkpoint, data: Path, recipe_name: str, work: Path) -> tuple[Quantized, dict[str, Any]]:
    """The quantized model, and what it took: seconds of calibration and of training."""
    recipe, spec = load_recipe(recipe_name), source.record.model
    train_data = open_dataset(data, "train")
    started = time.perf_counter()
    pictures, hashes = calibration_pictures(train_data, spec.input, count=recipe.count, seed=recipe.seed)
    quantized = quantize(source.model, pictures, recipe, recipe_name=recipe_name, picture_hashes=hashes)
    row: dict[str, Any] = {"pictures": len(pictures), "calibration_seconds": time.perf_counter() - started}
    if recipe_name == "int8-qat":
        started = time.perf_counter()
        result = train_quantized(
            QatStart(quantized, source.model, spec, train_data, open_dataset(data, "val")),
            recipe.qat,
            work,
            resume=(work / LAST).is_file(),
            progress=StageProgress(),
        )
        quantized = result.quantized
        row |= {"qat_seconds": time.perf_counter() - started, "best_epoch": result.best_epoch}
        row["ap_by_epoch_on_val"] = [result.start.ap, *(epoch.ap for epoch in result.history)]
    return quantized, row


def measure_run(source: Checkpoint, data: Path, recipe_name: str, work: Path) -> dict[str, Any]:
    """AP and AP50 of fake-quant and of the engines."""
    quantized, row = quantize_run(source, data, recipe_name, work / "qat")
    both, spec = join_splits(data), source.record.model
    export_model(quantized, spec, work / "int8", checkpoint_sha256=source.sha256)
    fake = measure_session(TorchSession(quantized.fake_quant), spec, both, artefact="fake-quant torch")
    row["fake-quant"] = figures(fake)
    for target, name in ENGINES:
        row[name] = figures(measure_built(work / "int8", target, "int8", both))
    return row


def figures(score: Score) -> dict[str, Any]:
    """What the table needs of a score."""
    return {"ap": score.ap, "ap50": score.ap50, "per_class": score.per_class, "images": score.images}


def table(report: dict[str, Any]) -> str:
    """The report as a Markdown table."""
    names = ["fake-quant", *(name for _, name in ENGINES)]
    lines = [
        f"| model | recipe | float | {' | '.join(names)} | drop | engines apart |",
        "|---|---|" + "---:|" * (len(names) + 3),
    ]
    for model, found in report["models"].items():
        ap = found["float"]["ap"]
        for recipe, row in found["recipes"].items():
            aps = [row[name]["ap"] for name in names]
            cells = " | ".join(f"{value:.2f}" for value in (ap, *aps, ap - min(aps), max(aps) - min(aps)))
            lines.append(f"| {model} | {recipe} | {cells} |")
    return "\n".join(lines) + "\n"


def add_model(path: Path, settings: dict[str, Any], name: str, found: dict[str, Any]) -> dict[str, Any]:
    """Put what was found of a model beside what the file holds of the others by now, and return all of it."""
    report: dict[str, Any] = load_reusable(path, **settings) or {**settings, "models": {}}
    report["models"] = dict(sorted({**report["models"], name: found}.items()))
    report["peak_memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    report.pop("record", None)
    save_result(path, report)
    return report


def main() -> None:
    """Measure what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders that `edgeyolo train` wrote")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--out", type=Path, default=RESULTS / "quantization.json")
    args = parser.parse_args()

    settings = {"data": args.data.name}
    report: dict[str, Any] = load_reusable(args.out, **settings) or {**settings, "models": {}}
    for run in args.runs:
        source = load_checkpoint(run)
        spec = source.record.model
        found = report["models"].get(spec.name, {})
        if found.get("checkpoint_sha256") != source.sha256:
            score = measure_session(TorchSession(source.model), spec, join_splits(args.data), artefact="float torch")
            found = {"checkpoint_sha256": source.sha256, "image_hw": spec.input.image_hw, "recipes": {}}
            found["float"] = figures(score)
        for recipe in args.recipes:
            if recipe in found["recipes"]:
                continue
            sys.stderr.write(f"{spec.name} {recipe}\n")
            work = claim_folder(args.work / spec.name / recipe, checkpoint=source.sha256)
            found["recipes"][recipe] = measure_run(source, args.data, recipe, work)
            report = add_model(args.out, settings, spec.name, found)
    sys.stdout.write(table(report))


if __name__ == "__main__":
    main()
