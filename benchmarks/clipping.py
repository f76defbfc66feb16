"""What int8 costs by how much an error of clipping counts against one of rounding, when ranges are chosen.

    python benchmarks/clipping.py --data ../shared/data/bccd --work runs/clipping RUN ... [--weights 1 8 64]

AP of the val and test splits together on ONNX Runtime, for recipes that differ from int8-mse in `clipping_weight` only,
and for the largest magnitude seen. Writes benchmarks/results/clipping.json after each network; one that the same code
has measured is not measured again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import msgspec
from record import RESULTS, load_reusable, save_result
from splits import join_splits

from edgeyolo.data.dataset import Dataset, open_dataset
from edgeyolo.evaluation.measure import measure_session
from edgeyolo.export import export_model
from edgeyolo.quantization import quantize
from edgeyolo.quantization.calibrate.pictures import calibration_pictures
from edgeyolo.spec.recipe import Recipe, load_recipe
from edgeyolo.training.checkpoint import Checkpoint, load_checkpoint
from edgeyolo.training.torch_session import TorchSession
from edgeyolo.verbs import measure_built

LARGEST = "largest"
OUT = RESULTS / "clipping.json"


def main() -> None:
    """Measure what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders that `edgeyolo train` wrote")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--weights", type=float, nargs="+", default=[1.0, 8.0, 64.0])
    args = parser.parse_args()
    base = load_recipe("int8-mse")
    recipes = {f"{weight:g}": msgspec.structs.replace(base, clipping_weight=weight) for weight in args.weights}
    recipes[LARGEST] = msgspec.structs.replace(base, observer="max")
    settings = {"data": args.data.name, "weights": args.weights}
    rows: list[dict[str, Any]] = (load_reusable(OUT, **settings) or {"rows": []})["rows"]
    both, train_data = join_splits(args.data), open_dataset(args.data, "train")
    for run in args.runs:
        source = load_checkpoint(run)
        if any(row["checkpoint_sha256"] == source.sha256 for row in rows):
            continue
        spec = source.record.model
        aps = {"float": measure_session(TorchSession(source.model), spec, both, artefact="float torch").ap}
        for name, recipe in recipes.items():
            aps[name] = measure(source, train_data, both, recipe, args.work / f"{spec.name}-{name}")
        rows.append({"model": spec.name, "checkpoint_sha256": source.sha256, "ap": aps})
        sys.stderr.write(f"{rows[-1]}\n")
        save_result(OUT, {**settings, "rows": rows})


def measure(source: Checkpoint, train_data: Dataset, data: Dataset, recipe: Recipe, out: Path) -> float:
    """AP of the network that a recipe makes."""
    spec = source.record.model
    pictures, hashes = calibration_pictures(train_data, spec.input, count=recipe.count, seed=recipe.seed)
    quantized = quantize(source.model, pictures, recipe, recipe_name="", picture_hashes=hashes)
    export_model(quantized, spec, out, checkpoint_sha256=source.sha256)
    return measure_built(out, "host-onnx", "int8", data).ap


if __name__ == "__main__":
    main()
