"""How long calibration takes: yolov7-tiny at 640 on 256 drawn pictures, then again from the cache.

    python benchmarks/ptq.py [--model yolov7-tiny] [--image-size 640] [--pictures 256] [--recipe int8-mse]

Random weights, which cost what trained ones do. Prints JSON: seconds of importing, of both runs, and peak memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

from record import describe_run

from edgeyolo.data.dataset import open_dataset
from edgeyolo.data.drawn import draw_dataset


def main() -> None:
    """Draw, calibrate twice, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="yolov7-tiny")
    parser.add_argument("--image-size", type=int, default=640)
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--recipe", default="int8-mse")
    args = parser.parse_args()
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as work:
        draw_dataset(Path(work) / "data", {"train": args.pictures, "val": 1, "test": 1}, image_hw=(480, 640))
        dataset = open_dataset(Path(work) / "data", "train")

        started = time.perf_counter()
        from edgeyolo import models
        from edgeyolo.quantization import calibration_pictures, quantize
        from edgeyolo.quantization.calibrate.cache import CalibrationCache
        from edgeyolo.quantization.quantizers import make_activation_quantizer
        from edgeyolo.spec.recipe import load_recipe

        make_activation_quantizer(1.0)  # imports ModelOpt
        seconds["imports"] = time.perf_counter() - started

        model = models.create(args.model, len(dataset.class_names)).eval()
        input_spec = model.make_input_spec((args.image_size, args.image_size))
        recipe = load_recipe(args.recipe)
        cache = CalibrationCache(input_spec, Path(work) / "cache")
        for run in ("first", "cached"):
            started = time.perf_counter()
            pictures, hashes = calibration_pictures(dataset, input_spec, count=args.pictures, seed=recipe.seed)
            quantize(model, pictures, recipe, recipe_name=args.recipe, picture_hashes=hashes, cache=cache)
            seconds[run] = time.perf_counter() - started
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rounded = {name: round(value, 2) for name, value in seconds.items()}
    found = {"record": describe_run(), **vars(args), "seconds": rounded, "peak_memory_mib": round(peak_mib)}
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
