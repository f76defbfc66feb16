"""What the small models learn from 130 photographs with one object each, and from 205 full of them, at defaults.

    python benchmarks/little.py --data ../shared/data/bccd --out runs/little [--models yolov7-nano ppyoloe-s]
        [--seeds 0 1 2] [--sets white-cells bccd]

Writes benchmarks/results/little.json after each run. A finished run of the same code is used again and a stopped one
resumed, so that the table can grow. AP is of the last epoch's averaged weights, on the validation and test splits: no
epoch is chosen by its score. Seconds are the processor's, of this process: of a resumed run only the rest.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from record import RESULTS, claim_folder, load_reusable, save_result
from white_cells import make_white_cells

from edgeyolo import models, verbs
from edgeyolo.spec.training import TrainConfig

SPLITS = ("val", "test")
SETS = ("white-cells", "bccd")
MODELS = ("yolov7-nano", "yolov7-tiny", "ppyoloe-s", "yolox-nano", "yolov5n", "yolov8n")


def main() -> None:
    """Train what is missing and write what was found so far."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="BCCD, as a VOC folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS[:1]))
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--image-size", type=int, default=320)
    args = parser.parse_args()
    folders = {"bccd": args.data, "white-cells": make_white_cells(args.data, args.out / "white-cells")}
    common = {"epochs": args.epochs, "image_size": args.image_size}
    runs: list[dict[str, Any]] = []
    for name in args.sets:
        for seed in args.seeds:
            for model in args.models:
                config = TrainConfig(model=model, seed=seed, workers=0, evaluate_every=args.epochs, **common)
                runs.append(train_one(config, name, folders[name], args.out / name / f"{model}-{seed}"))
                save_result(RESULTS / "little.json", {**common, "runs": runs})


def train_one(config: TrainConfig, name: str, data: Path, out: Path) -> dict[str, Any]:
    """Train one model on the set `name`, or read what an earlier call found."""
    own = {"set": name, "model": config.model, "seed": config.seed}
    run = claim_folder(out, epochs=config.epochs, image_size=config.image_size, **own)
    if earlier := load_reusable(run / "little.json", **own):
        return {key: value for key, value in earlier.items() if key != "record"}
    started = time.process_time()
    result = verbs.train(config, data, run, resume=(run / "last.safetensors").exists(), report=False)
    seconds = time.process_time() - started
    scores = {split: verbs.evaluate(result.last, data, split=split) for split in SPLITS}
    row = {
        **own,
        "parameters": parameters_of(config.model),
        "ap": {split: score.ap for split, score in scores.items()},
        "ap50": {split: score.ap50 for split, score in scores.items()},
        "seconds": round(seconds, 1),
    }
    save_result(run / "little.json", row)
    sys.stderr.write(f"{row}\n")
    return row


def parameters_of(model: str) -> int:
    """Of the deploy form, with 80 classes."""
    return next(info.parameters_deploy for info in models.list_models() if info.name == model)


if __name__ == "__main__":
    main()
