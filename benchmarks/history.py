"""What each idea was worth: one small network per generation trained alike on blood cells, and ideas swapped singly.

    python benchmarks/history.py --data ../shared/data/bccd --out runs/history [--rows yolov2-nano loss-iou-0 ...]
        [--seeds 0 1 2] [--epochs 60] [--image-size 320]

Adds to benchmarks/results/history.json after each run. A finished run of the same code is used again and a stopped one
resumed, so that the table can grow; rows are trained seed by seed. AP is of the last epoch's averaged weights: no epoch
is chosen by its score. What int8 costs the generations is measured by `history_int8.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from record import RESULTS, claim_folder, load_reusable, save_result
from small_runs import SPLITS, SmallRun, make_config, train_small

from edgeyolo import models, verbs
from edgeyolo.criteria.best_anchor import BestAnchorCriterion
from edgeyolo.criteria.criterion import Criterion
from edgeyolo.criteria.neighbours import NeighbourCriterion
from edgeyolo.criteria.ota import OtaCriterion
from edgeyolo.criteria.ppyolo import PpYoloCriterion, PpYoloWeights
from edgeyolo.criteria.tal import TalCriterion
from edgeyolo.data.dataset import Dataset
from edgeyolo.heads import Anchors
from edgeyolo.models import ppyolo, yolov2, yolov6, yolov7, yolov8
from edgeyolo.nn import drop_block
from edgeyolo.spec.settings import override_settings
from edgeyolo.training import auto_anchor, detector

OUT = RESULTS / "history.json"
IMAGE_SIZE = 320
EVERY_EPOCH = 10**9
GENERATIONS = {
    "yolov1-nano": "2015",
    "yolov2-nano": "2016",
    "yolov3-tiny": "2018",
    "yolov4-tiny": "2020",
    "yolov5n": "2020",
    "ppyolo-tiny": "2021",
    "yolox-nano": "2021",
    "yolov6n": "2022",
    "yolov7-nano": "2022",
    "ppyoloe-s": "2022",
    "damo-ns": "2022",
    "yolov8n": "2023",
}
IOU_WEIGHTS = (0.0, 0.5, 2.5, 10.0)  # the third is PP-YOLO's own


@dataclasses.dataclass(frozen=True)
class Swap:
    """One thing changed in a generation's training.

    Attributes:
        model: whose.
        kind: "assignment", "loss", "neck", "head", "training" or "weight".
        what: instead of what it has.
        change: makes the change while a run lasts; None for a change of settings alone.
        settings: of the training.
    """

    model: str
    kind: str
    what: str
    change: Callable[[ExitStack], None] | None = None
    settings: dict[str, str] = dataclasses.field(default_factory=dict)


def criterion_of(network: type, change: Callable[[Any], Criterion | None]) -> Callable[[ExitStack], None]:
    """Change the loss that networks of this class are trained by, or put another in its place."""

    def enter(stack: ExitStack) -> None:
        make: Callable[..., Any] = network.make_criterion  # type: ignore[attr-defined]

        def changed(self: Any, *, epochs: int | None = None) -> Any:
            own = make(self, epochs=epochs)
            return change(own) or own

        stack.enter_context(mock.patch.object(network, "make_criterion", changed))

    return enter


def variant_of(family: Any, name: str, **fields: Any) -> Callable[[ExitStack], None]:
    """Another config under the name of a model."""
    return lambda stack: stack.enter_context(
        mock.patch.dict(family.VARIANTS, {name: dataclasses.replace(family.VARIANTS[name], **fields)})
    )


def several_anchors(own: BestAnchorCriterion) -> None:
    """YOLOv4's rule, with the number of its authors' cfg."""
    own.iou_threshold = 0.213


def nothing_ignored(own: BestAnchorCriterion) -> None:
    """Whatever answers for nothing has to say so."""
    own.ignore = 1.0


def weigh_iou(weight: float) -> Callable[[PpYoloCriterion], None]:
    """Another weight of the IoU."""

    def change(own: PpYoloCriterion) -> None:
        own.weights = dataclasses.replace(own.weights, iou=weight)

    return change


def static_points(own: TalCriterion) -> None:
    """ATSS to the end."""
    own.static_assigner_epochs = EVERY_EPOCH


def neighbours(own: OtaCriterion) -> Criterion:
    """YOLOv5's loss, which takes every candidate."""
    return NeighbourCriterion(own.decode, own.num_classes)


def clustered_anchors(stack: ExitStack) -> None:
    """YOLOv2's dimension clusters, although the anchors that it comes with reach the objects."""

    def cluster(name: str, dataset: Dataset, image_hw: tuple[int, int], *, start: Any, seed: int) -> Anchors:
        (level,) = start or models.anchors_of(name)
        sizes = auto_anchor.letterboxed_sizes(dataset, image_hw)
        found = auto_anchor.cluster_sizes(sizes, len(level), np.random.default_rng(seed))
        return (tuple((float(width), float(height)) for width, height in found[np.argsort(found.prod(axis=1))]),)

    stack.enter_context(mock.patch.object(detector, "fit_to_dataset", cluster))


def without_drop_block(stack: ExitStack) -> None:
    """Nothing is dropped."""
    stack.enter_context(mock.patch.object(drop_block, "drop_block", lambda x, probability, size: x))


SWAPS = {
    "v2-one-map": Swap("yolov2-nano", "neck", "no finer map", variant_of(yolov2, "yolov2-nano", fine_chs=0)),
    "v2-k-means": Swap("yolov2-nano", "training", "anchors by k-means of this set", clustered_anchors),
    "pp-several": Swap(
        "ppyolo-tiny", "assignment", "several anchors (v4)", criterion_of(ppyolo.Network, several_anchors)
    ),
    "pp-no-ignore": Swap("ppyolo-tiny", "assignment", "nothing ignored", criterion_of(ppyolo.Network, nothing_ignored)),
    "pp-no-pyramid": Swap("ppyolo-tiny", "neck", "no SPP", variant_of(ppyolo, "ppyolo-tiny", pyramid=False)),
    "pp-overlap": Swap("ppyolo-tiny", "head", "tells its overlap", variant_of(ppyolo, "ppyolo-tiny", iou_power=0.4)),
    "pp-no-drop": Swap("ppyolo-tiny", "training", "no DropBlock", without_drop_block),
    "v6-dfl": Swap("yolov6n", "head", "distances as shares (DFL)", variant_of(yolov6, "yolov6n", bins=17)),
    "v7-neighbours": Swap("yolov7-nano", "assignment", "all neighbours (v5)", criterion_of(yolov7.Network, neighbours)),
    "v8-static": Swap("yolov8n", "assignment", "ATSS to the end", criterion_of(yolov8.Network, static_points)),
    "v5-giou": Swap("yolov5n", "loss", "GIoU", settings={"box_loss": "giou"}),
    "v5-alpha": Swap("yolov5n", "loss", "alpha-CIoU", settings={"box_loss_alpha": "3"}),
    **{
        f"loss-iou-{weight:g}": Swap(
            "ppyolo-tiny", "weight", f"IoU weight {weight:g}", criterion_of(ppyolo.Network, weigh_iou(weight))
        )
        for weight in IOU_WEIGHTS
        if weight != PpYoloWeights().iou
    },
}
ROWS = (*GENERATIONS, *SWAPS)


def main() -> None:
    """Train what is missing and write what was found so far."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="BCCD, as a VOC folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--image-size", type=int, default=IMAGE_SIZE)
    args = parser.parse_args()
    common = {"data": args.data.name, "epochs": args.epochs, "image_size": args.image_size}
    for seed in args.seeds:
        for row in args.rows:
            add_to_result(common, train_row(args, common, row, seed))


def add_to_result(common: dict[str, Any], run: dict[str, Any]) -> None:
    """Put a run in its place among those that the same code made."""
    runs = (load_reusable(OUT, **common) or {"runs": []})["runs"]
    runs = [one for one in runs if (one["row"], one["seed"]) != (run["row"], run["seed"])] + [run]
    save_result(OUT, {**common, "runs": sorted(runs, key=lambda one: (ROWS.index(one["row"]), one["seed"]))})


def train_row(args: argparse.Namespace, common: dict[str, Any], row: str, seed: int) -> dict[str, Any]:
    """Train one row, or read what an earlier call found."""
    own = {"row": row, "seed": seed}
    run = claim_folder(args.out / "history" / f"{row}-{seed}", **common, **own)
    if earlier := load_reusable(run / "history.json", **own):
        return {key: value for key, value in earlier.items() if key != "record"}
    if swap := SWAPS.get(row):
        found = train_swap(args, swap, seed, run)
    else:
        plain = SmallRun(args.data.name, row, seed, args.epochs, args.image_size)
        found = train_small(plain, args.data, args.out / "runs")
    keys = ("model", "seconds", "ap", "ap50", "parameters")
    found = own | {key: found[key] for key in keys if key in found}
    save_result(run / "history.json", found)
    sys.stderr.write(f"{found}\n")
    return found


def train_swap(args: argparse.Namespace, swap: Swap, seed: int, run: Path) -> dict[str, Any]:
    """Train a generation with one thing changed."""
    config = override_settings(make_config(swap.model, seed, args.epochs, args.image_size), swap.settings)
    started = time.process_time()
    with ExitStack() as stack:
        if swap.change:
            swap.change(stack)
        resume = (run / "last.safetensors").exists()
        result = verbs.train(config, args.data, run, resume=resume, report=False)
        seconds = time.process_time() - started
        scores = {split: verbs.evaluate(result.last, args.data, split=split) for split in SPLITS}
    aps = {"ap": {k: s.ap for k, s in scores.items()}, "ap50": {k: s.ap50 for k, s in scores.items()}}
    return {"model": swap.model, "seconds": round(seconds, 1), **aps}


if __name__ == "__main__":
    main()
