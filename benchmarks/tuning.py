"""Is the tuner's choice found again, and is it never slower? `bench --tune` several times on one bundle.

    python benchmarks/tuning.py runs/cells/best.safetensors --data ../shared/data/bccd [--image-size 640] [--times 2]

The checkpoint is quantized and deployed for this computer at the size asked for; each time the tuner starts from the
bundle as it was deployed. AP is of the first pictures of the validation split. Prints the choices and writes
benchmarks/results/tuning.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
from record import RESULTS, save_result

from edgeyolo import verbs
from edgeyolo.backends import Session
from edgeyolo.data.dataset import open_dataset
from edgeyolo.evaluation.measure import measure_session
from edgeyolo.export import export_model
from edgeyolo.quantization import calibration_pictures, quantize
from edgeyolo.runtime.tuner import tune
from edgeyolo.spec.recipe import load_recipe
from edgeyolo.training.checkpoint import load_checkpoint

CALIBRATED_ON, TUNED_ON = 64, 2  # pictures


def main() -> None:
    """Tune, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--image-size", type=int, default=640)
    parser.add_argument("--times", type=int, default=2)
    parser.add_argument("--scored", type=int, default=30, help="pictures that AP is measured on")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        found = list(tune_often(args, deploy_int8(args, Path(work))))
    save_result(RESULTS / "tuning.json", {"image_size": args.image_size, "times": found})
    for run in found:
        tuning = run["tuning"]
        figures = f"{tuning['default_ms']:.1f} -> {tuning['tuned_ms']:.1f} ms, {tuning['ratio']:.3f}"
        sys.stdout.write(f"{figures} ({tuning['ratio_low']:.3f} to {tuning['ratio_high']:.3f}): {run['kept']}\n")
    sys.stdout.write(f"the same choice each time: {len({tuple(run['kept']) for run in found}) == 1}\n")


def deploy_int8(args: argparse.Namespace, work: Path) -> Path:
    """An int8 bundle of the checkpoint for this computer."""
    loaded = load_checkpoint(args.checkpoint)
    model = loaded.record.model
    size_hw = (args.image_size, args.image_size)
    spec = msgspec.structs.replace(model, input=msgspec.structs.replace(model.input, image_hw=size_hw))
    recipe = load_recipe("int8-mse")
    data = open_dataset(args.data, "train")
    pictures, hashes = calibration_pictures(data, spec.input, count=CALIBRATED_ON, seed=recipe.seed)
    quantized = quantize(loaded.model, pictures, recipe, recipe_name="int8-mse", picture_hashes=hashes)
    export_model(quantized, spec, work / "int8", checkpoint_sha256=loaded.sha256)
    verbs.deploy(work / "int8", "host-ncnn", work / "int8.eyb")
    return work / "int8.eyb"


def tune_often(args: argparse.Namespace, bundle: Path) -> Any:
    """One record for each time: what was kept, the whole table, and how long it took."""
    val = open_dataset(args.data, "val")
    dataset = dataclasses.replace(val, records=val.records[: args.scored])
    images = [dataset[i].image for i in range(TUNED_ON)]
    spec = load_checkpoint(args.checkpoint).record.model
    spec = msgspec.structs.replace(
        spec, input=msgspec.structs.replace(spec.input, image_hw=(args.image_size, args.image_size))
    )

    def score(session: Session) -> float:
        return measure_session(session, spec, dataset, artefact="tuned").ap

    for _ in range(args.times):
        started = time.perf_counter()
        tuning = tune(bundle, images, score=score).tuning
        seconds = round(time.perf_counter() - started, 1)
        assert tuning is not None
        kept = [row.change for row in tuning.rows if row.kept]
        yield {"kept": kept, "seconds": seconds, "tuning": msgspec.to_builtins(tuning)}


if __name__ == "__main__":
    main()
