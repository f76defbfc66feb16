"""What the small models learn from 130 photographs with one object each, and from 205 full of them, at defaults.

    python benchmarks/little.py --data ../shared/data/bccd --out runs/little [--models yolov7-nano ppyoloe-s]
        [--seeds 0 1 2] [--sets white-cells platelets bccd] [--published]

Adds to benchmarks/results/little.json after each run. A finished run of the same code is used again and a stopped one
resumed, so that the table can grow. AP is of the last epoch's averaged weights, on the validation and test splits: no
epoch is chosen by its score. With `--published` the loss is as the authors have it, whatever the set is; it makes a
difference for YOLOv7, YOLOv5 and YOLOX. Seconds are the processor's, of this process: of a resumed run
only the rest.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from one_class import make_one_class
from record import RESULTS, load_reusable, save_result
from small_runs import SMALL, SmallRun, train_small

from edgeyolo.criteria.criterion import Criterion
from edgeyolo.criteria.ota import OtaCriterion
from edgeyolo.criteria.simota import SimOtaCriterion

CLASSES = {"white-cells": "WBC", "platelets": "Platelets"}
SETS = (*CLASSES, "bccd")


def main() -> None:
    """Train what is missing and write what was found so far."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="BCCD, as a VOC folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=list(SMALL))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS[:1]))
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--image-size", type=int, default=320)
    parser.add_argument("--published", action="store_true")
    args = parser.parse_args()
    folders = {name: make_one_class(args.data, args.out / name, label) for name, label in CLASSES.items()}
    folders["bccd"] = args.data
    if args.published:
        for criterion in (OtaCriterion, SimOtaCriterion):
            criterion.expect = Criterion.expect  # type: ignore[method-assign]
    balance = "published" if args.published else "ours"
    common = {"epochs": args.epochs, "image_size": args.image_size}
    for name in args.sets:
        for seed in args.seeds:
            for model in args.models:
                run = SmallRun(name, model, seed, balance=balance, **common)
                add_to_result(common, train_small(run, folders[name], args.out / "runs"))


def add_to_result(common: dict[str, Any], run: dict[str, Any]) -> None:
    """Put a run in its place among those that the same code made."""
    path, run = RESULTS / "little.json", {key: value for key, value in run.items() if key not in common}
    sys.stderr.write(f"{run}\n")
    runs = (load_reusable(path, **common) or {"runs": []})["runs"]
    by_key = {tuple(str(one[key]) for key in ("dataset", "model", "balance", "seed")): one for one in [*runs, run]}
    save_result(path, {**common, "runs": [by_key[key] for key in sorted(by_key)]})


if __name__ == "__main__":
    main()
