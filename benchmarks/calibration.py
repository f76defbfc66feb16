"""What calibration alone loses where boxes are small and classes many, and what each cure costs in AP and in seconds.

    python benchmarks/calibration.py --draw runs/crowded/data
    edgeyolo train --model ppyoloe-s --data runs/crowded/data --out runs/crowded/ppyoloe --image-size 320
        --set augment.mosaic=0 --set augment.mixup=0 --set augment.scale=0.25
    python benchmarks/calibration.py --case crowded runs/crowded/data runs/crowded/ppyoloe
        --case bccd ../shared/data/bccd runs/ppyoloe/run runs/tiny/run

AP is of val and test together, of the float model in torch and of the artefacts of two engines. Seeds differ by the
pictures that they choose of the training split to calibrate on; QAT chooses its epoch on val. Seconds are of
processors, all threads and processes together, so that a busy computer counts no more than an idle one. Writes
benchmarks/results/calibration.json after each row; what the same code has measured is not measured again.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from quantization import ENGINES, PROCESSORS, StageProgress
from record import RESULTS, load_reusable, save_result
from splits import join_splits

from edgeyolo.data.dataset import open_dataset
from edgeyolo.data.drawn import draw_dataset
from edgeyolo.evaluation.measure import measure_session
from edgeyolo.export import export_model
from edgeyolo.quantization import Quantized, calibration_pictures, quantize
from edgeyolo.quantization.recover.qat import QatStart, train_quantized
from edgeyolo.spec.recipe import Recipe, load_recipe
from edgeyolo.training.checkpoint import Checkpoint, load_checkpoint
from edgeyolo.training.torch_session import TorchSession

RESULT = RESULTS / "calibration.json"
RECIPES = ("int8-mse", "int8-output", "int8-qat")
CROWD = {"train": 640, "val": 100, "test": 100}
CALIBRATION_PICTURES = 128  # fewer than there are, so that seeds choose other ones


def main() -> None:
    """Draw the pictures, or measure what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw", type=Path, help="draw the crowded pictures into this folder, and stop")
    parser.add_argument("--case", nargs="+", action="append", default=[], metavar=("NAME", "DATA"))
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--qat-epochs", type=int, default=load_recipe("int8-qat").qat.epochs)
    args = parser.parse_args()
    if args.draw:
        draw_dataset(args.draw, CROWD, kind="crowded")
        return

    report: dict[str, Any] = load_reusable(RESULT, pictures=CALIBRATION_PICTURES) or {
        "pictures": CALIBRATION_PICTURES,
        "rows": [],
    }
    for recipe in args.recipes:
        for name, data, *runs in args.case:
            for run in runs:
                wanted = load_recipe(recipe)
                qat = msgspec.structs.replace(wanted.qat, epochs=args.qat_epochs)
                wanted = msgspec.structs.replace(wanted, count=CALIBRATION_PICTURES, qat=qat)
                measure_case(report, name, Path(data), Path(run), (recipe, wanted), args.seeds)


def measure_case(
    report: dict[str, Any], name: str, data: Path, run: Path, named_recipe: tuple[str, Recipe], seeds: list[int]
) -> None:
    """Add the rows of one recipe, one data set and one model that `report` lacks, and save it after each."""
    source = load_checkpoint(run)
    recipe_name, recipe = named_recipe
    case = {"case": name, "model": source.record.model.name, "checkpoint_sha256": source.sha256}
    if not has_row(report, case, recipe="float"):
        score = measure_session(TorchSession(source.model), source.record.model, join_splits(data), artefact="float")
        add_row(report, case | {"recipe": "float", "seed": 0, "ap": {"torch": score.ap}})
    epochs = {"qat_epochs": recipe.qat.epochs} if recipe_name == "int8-qat" else {}
    for seed in seeds:
        row = {"recipe": recipe_name, "seed": seed, **epochs}
        if not has_row(report, case, **row):
            sys.stderr.write(f"{name} {case['model']} {recipe_name} seed {seed}\n")
            quantized, seconds = quantize_seed(source, data, recipe_name, msgspec.structs.replace(recipe, seed=seed))
            row |= {"processor_seconds": seconds, "int8_layers": len(quantized.placement.int8_layers())}
            add_row(report, case | row | {"ap": measure_engines(quantized, source, data)})


def quantize_seed(source: Checkpoint, data: Path, recipe_name: str, recipe: Recipe) -> tuple[Quantized, float]:
    """The quantized model, and the seconds that it took of processors."""
    train_data, spec = open_dataset(data, "train"), source.record.model
    started = processor_seconds()
    pictures, hashes = calibration_pictures(train_data, spec.input, count=recipe.count, seed=recipe.seed)
    quantized = quantize(source.model, pictures, recipe, recipe_name=recipe_name, picture_hashes=hashes)
    if recipe_name == "int8-qat":
        start = QatStart(quantized, source.model, spec, train_data, open_dataset(data, "val"))
        with tempfile.TemporaryDirectory() as work:
            result = train_quantized(start, recipe.qat, Path(work) / "qat", progress=StageProgress())
        quantized = result.quantized
    return quantized, processor_seconds() - started


def processor_seconds() -> float:
    """What this process and those it has waited for have used so far."""
    return sum(os.times()[:4])


def measure_engines(quantized: Quantized, source: Checkpoint, data: Path) -> dict[str, float]:
    """AP of what is deployed, by engine."""
    both = join_splits(data)
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "int8"
        export_model(quantized, source.record.model, folder, checkpoint_sha256=source.sha256)
        return {name: ENGINES[name](folder, both).ap for name in PROCESSORS}


def has_row(report: dict[str, Any], case: dict[str, Any], **wanted: object) -> bool:
    """Whether a row of `case` says the same of each of `wanted`."""
    return any((case | wanted).items() <= row.items() for row in report["rows"])


def add_row(report: dict[str, Any], row: dict[str, Any]) -> None:
    """Keep one row."""
    sys.stderr.write(f"{row}\n")
    report["rows"].append(row)
    save_result(RESULT, {key: value for key, value in report.items() if key != "record"})


if __name__ == "__main__":
    main()
