"""What label assignment is, and how far cells look: drawn and counted on photographs of blood cells, no training.

    python benchmarks/history_figures.py --data ../shared/data/bccd --anchors ../runs/yolov7-nano/run
        --points ../runs/ppyoloe-s/run
    python benchmarks/history_figures.py --sweep

Each assigner answers for one photograph, those that ask the network with what a trained one says: of anchors
(yolov7-nano) or of points (ppyoloe-s). Rules without one take the anchors of yolov7-nano, or its coarsest grid.
Fields are those of the untrained networks of `history.py`, and of the two trained ones. Writes docs/assignment.png,
docs/receptive-field.png and benchmarks/results/history_figures.json. With `--sweep` docs/loss-weight.png is drawn, of
what `history.py` has found.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from history import GENERATIONS, IMAGE_SIZE, IOU_WEIGHTS, SWAPS
from record import RESULTS, ROOT, save_result
from torch import Tensor

from edgeyolo import models
from edgeyolo.assigners.assignment import make_point_grid, pad_objects
from edgeyolo.assigners.atss import AtssAssigner
from edgeyolo.assigners.best_anchor import match_best_anchors
from edgeyolo.assigners.ota import OtaRules, assign_ota, list_candidates
from edgeyolo.assigners.simota import SimOtaAssigner
from edgeyolo.assigners.tal import TaskAlignedAssigner
from edgeyolo.data.dataset import open_dataset
from edgeyolo.export.onnx import trace_onnx
from edgeyolo.geometry.network_input import make_input
from edgeyolo.graph.receptive_field import receptive_fields
from edgeyolo.heads import raw_head_of
from edgeyolo.nn.dfl import DistanceIntegral, boxes_from_distances, take_points
from edgeyolo.nn.fold import fold_model
from edgeyolo.quantization.study.receptive_field import effective_fields
from edgeyolo.report.figures import BLUE, GREEN, GREY, INK, ORANGE, make_figure
from edgeyolo.training.checkpoint import load_checkpoint

LEVELS = (ORANGE, GREEN, BLUE)  # finest first
PICTURE = 3  # of the validation split
SEVERAL = 0.213  # iou_thresh of the authors' yolov4.cfg
COLOURS = 48  # of a PNG that is small enough for a page


@dataclass(frozen=True)
class Case:
    """One photograph as the networks take it.

    Attributes:
        image: (H, W, 3) uint8 RGB, letterboxed.
        targets: (N, 6) picture, class, box in input pixels.
    """

    image: np.ndarray
    targets: Tensor


# (level, row, column) of each prediction that answers for an object, as often as it does, and the object.
Positive = tuple[int, int, int, int]


def main() -> None:
    """Draw, count and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="BCCD, as a VOC folder")
    parser.add_argument("--anchors", type=Path, help="a trained yolov7-nano")
    parser.add_argument("--points", type=Path, help="a trained ppyoloe-s")
    parser.add_argument("--sweep", action="store_true", help="draw what a loss weight does, and nothing else")
    args = parser.parse_args()
    if args.sweep:
        write_png(draw_sweep(), ROOT / "docs/loss-weight.png")
        return
    anchors, points = load_checkpoint(args.anchors), load_checkpoint(args.points)
    rules = list_rules(anchors, points)
    case = make_case(args.data, PICTURE, anchors.record.model.input)
    drawn = {name: find(case) for name, (find, _) in rules.items()}
    write_png(draw_assignments(case, drawn, raw_head_of(anchors.model.decode).strides), ROOT / "docs/assignment.png")
    dataset = open_dataset(args.data, "val")
    counted = [make_case(args.data, i, anchors.record.model.input) for i in range(len(dataset))]
    rows = [{"rule": name, "asks": asks, **count(find, counted)} for name, (find, asks) in rules.items()]
    fields = [field_of(name, None, args.data) for name in GENERATIONS]
    fields += [field_of(loaded.model.config.name, loaded.model, args.data) for loaded in (anchors, points)]
    write_png(draw_fields(fields), ROOT / "docs/receptive-field.png")
    save_result(RESULTS / "history_figures.json", {"pictures": len(counted), "rules": rows, "fields": fields})
    sys.stdout.write(json.dumps(rows, indent=1) + "\n")


def make_case(data: Path, number: int, spec: Any) -> Case:
    """A photograph of the validation split."""
    sample = open_dataset(data, "val")[number]
    plain = msgspec.structs.replace(spec, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), colour_order="rgb")
    pixels, letterbox = make_input(sample.image, plain)
    boxes_xyxy = torch.from_numpy(letterbox.apply(sample.boxes_xyxy))
    labels = torch.from_numpy(sample.class_ids).float()[:, None]
    image = (pixels[0].transpose(1, 2, 0) * 255).round().astype(np.uint8)
    return Case(image, torch.cat((torch.zeros(len(labels), 1), labels, boxes_xyxy), dim=1))


def list_rules(anchors: Any, points: Any) -> dict[str, tuple[Callable[[Case], list[Positive]], str]]:
    """Each way of assigning, the oldest first, and what it asks besides the objects."""
    decode = anchors.model.decode
    several = {"iou_threshold": SEVERAL}
    return {
        "cell of the centre (v1)": (lambda case: by_grid(case, max(decode.strides)), "nothing"),
        "best anchor (v2, v3)": (lambda case: by_best_anchor(case, decode), "anchors"),
        "several anchors (v4)": (lambda case: by_best_anchor(case, decode, **several), "anchors"),
        "neighbours too (v5)": (lambda case: by_candidates(case, anchors), "anchors"),
        "ATSS (v6, PP-YOLOE at first)": (lambda case: by_points(case, points, "atss"), "points"),
        "SimOTA (YOLOX)": (lambda case: by_points(case, points, "simota"), "the network"),
        "OTA of neighbours (v7)": (lambda case: by_candidates(case, anchors, ask=True), "the network"),
        "task-aligned (PP-YOLOE, v8)": (lambda case: by_points(case, points, "tal"), "the network"),
    }


def by_grid(case: Case, stride: int) -> list[Positive]:
    """The cell that an object's centre is in; of several objects the first."""
    found: dict[tuple[int, int], Positive] = {}
    for i, (x1, y1, x2, y2) in enumerate(case.targets[:, 2:].tolist()):
        row, column = int((y1 + y2) / 2 / stride), int((x1 + x2) / 2 / stride)
        found.setdefault((row, column), (2, row, column, i))
    return list(found.values())


def by_best_anchor(case: Case, decode: Any, *, iou_threshold: float = 1.0) -> list[Positive]:
    """The anchor of the most similar shape, or all that are similar enough."""
    grids = raw_head_of(decode).grids_hw(case.image.shape[:2])
    return listed(match_best_anchors(case.targets, decode, grids, iou_threshold=iou_threshold))


def by_candidates(case: Case, loaded: Any, *, ask: bool = False) -> list[Positive]:
    """Anchors of about the object's shape in its cell and the nearest two, all or those that the network fits best."""
    decode = loaded.model.decode
    maps = [
        raw.view(1, len(level), -1, *raw.shape[2:])
        for raw, level in zip(run(loaded, case), decode.anchors_wh, strict=True)
    ]
    return listed((assign_ota if ask else list_candidates)(maps, case.targets, decode, OtaRules()))


def listed(matches: Any) -> list[Positive]:
    """Of matches of anchors."""
    cells = matches.cells
    return list(zip(*(part.tolist() for part in (cells.level, cells.row, cells.column, matches.target)), strict=True))


def by_points(case: Case, loaded: Any, rule: str) -> list[Positive]:
    """Of the points of PP-YOLOE, with what it says where the rule asks."""
    maps, decode = run(loaded, case), loaded.model.decode
    classes, boxes = list(maps[0::2]), list(maps[1::2])
    level_hw = [(level.shape[2], level.shape[3]) for level in classes]
    grid = make_point_grid(level_hw, decode.strides, torch.device("cpu"))
    distances = DistanceIntegral(decode.bins).over_maps(boxes) * grid.strides[:, None]
    boxes_xyxy = boxes_from_distances(grid.points_xy, distances)
    if rule == "simota":

        def predict(picture: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
            return take_points(classes, picture, point).sigmoid().sqrt(), boxes_xyxy[picture, point]

        matches = SimOtaAssigner().match_batch(1, grid, case.targets, predict)
        return [
            place_of(point, level_hw, owner)
            for point, owner in zip(matches.point.tolist(), matches.target.tolist(), strict=True)
        ]
    objects, number = pad_objects(case.targets, 1), classes[0].shape[1]
    if rule == "atss":
        assignment = AtssAssigner().assign(boxes_xyxy, grid, objects, number)
    else:

        def score_at(picture: Tensor, point: Tensor, label: Tensor) -> Tensor:
            return take_points(classes, picture, point, label).sigmoid()

        assignment = TaskAlignedAssigner().assign(score_at, boxes_xyxy, grid, objects, number)
    owners = (assignment.boxes_xyxy[0][:, None] == case.targets[:, 2:]).all(dim=2).int().argmax(dim=1)
    chosen = assignment.positive[0].nonzero()[:, 0]
    return [place_of(point, level_hw, int(owners[point])) for point in chosen.tolist()]


def place_of(point: int, level_hw: Sequence[tuple[int, int]], owner: int) -> Positive:
    """Level, row and column of a point that is counted over all levels."""
    for level, (height, width) in enumerate(level_hw):
        if point < height * width:
            return level, point // width, point % width, owner
        point -= height * width
    raise ValueError("no such point")


@torch.no_grad()
def run(loaded: Any, case: Case) -> list[Tensor]:
    """Raw maps of the trained network."""
    spec = loaded.record.model.input
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (spec.mean, spec.std))
    pixels = torch.from_numpy(case.image.copy()).permute(2, 0, 1) / 255
    maps: list[Tensor] = loaded.model.eval()(((pixels - mean) / std)[None])
    return maps


def count(find: Callable[[Case], list[Positive]], cases: Sequence[Case]) -> dict[str, Any]:
    """Predictions per object over photographs, and objects that nothing answers for."""
    per_object: list[int] = []
    levels: Counter[int] = Counter()
    for case in cases:
        found = find(case)
        times = Counter(owner for *_, owner in found)
        per_object += [times[i] for i in range(len(case.targets))]
        levels.update(level for level, *_ in found)
    total = sum(levels.values())
    return {
        "objects": len(per_object),
        "mean": round(statistics.fmean(per_object), 2),
        "median": statistics.median(per_object),
        "most": max(per_object),
        "without": sum(1 for times in per_object if not times),
        "by_level": [round(levels[level] / total, 3) for level in range(3)],
    }


def field_of(name: str, model: Any, data: Path) -> dict[str, Any]:
    """Theoretical and effective fields of a network, untrained where none is given."""
    torch.manual_seed(0)
    network = model if model is not None else models.create(name, 3)
    folded = fold_model(network)
    spec, decode = network.make_input_spec((IMAGE_SIZE, IMAGE_SIZE)), network.decode
    count_maps = len(raw_head_of(decode).output_names())
    theory = receptive_fields(trace_onnx(folded, spec.image_hw, count_maps), decode.strides)
    images = [make_input(open_dataset(data, "val")[i].image, spec)[0][0] for i in range(8)]
    return {
        "model": name,
        "trained": model is not None,
        "strides": list(decode.strides),
        "theoretical": [max(field.theoretical_hw) for field in theory],
        "sees_all": any(field.sees_all for field in theory),
        "effective": effective_fields(folded, decode.strides, images),
    }


def draw_assignments(case: Case, drawn: dict[str, list[Positive]], strides: Sequence[int]) -> Any:
    """One panel for each rule: the objects, and the cells that answer for them; the photograph is not ours to show."""
    from matplotlib.patches import Rectangle

    figure = make_figure(11.0, 5.2)
    axes = figure.subplots(2, 4).ravel()
    for axis, (name, found) in zip(axes, drawn.items(), strict=True):
        for x1, y1, x2, y2 in case.targets[:, 2:].tolist():
            axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=INK, linewidth=0.6))
        for (level, row, column), times in Counter(place[:3] for place in found).items():
            side, more = strides[level], 0.25 + 0.2 * min(times, 3)
            corner = (column * side, row * side)
            axis.add_patch(Rectangle(corner, side, side, color=LEVELS[level], alpha=more, linewidth=0))
        axis.set_title(f"{name}: {len(found)}", fontsize=8, color=INK)
        height, width = case.image.shape[:2]
        axis.set(xlim=(0, width), ylim=(height * 7 / 8, height / 8), xticks=[], yticks=[], aspect="equal")
    return figure


def draw_fields(fields: Sequence[dict[str, Any]]) -> Any:
    """The coarsest level of each network: what it can see, and what most of what it says comes from."""
    figure = make_figure(8.0, 0.34 * len(fields) + 0.9)
    axis = figure.subplots()
    names = [f"{row['model']}, trained" if row["trained"] else row["model"] for row in fields]
    places = np.arange(len(fields))[::-1]
    axis.barh(places, [row["theoretical"][-1] for row in fields], color=GREY, height=0.62, label="theoretical")
    axis.barh(places, [row["effective"][-1] for row in fields], color=BLUE, height=0.34, label="95 % of the gradient")
    axis.axvline(IMAGE_SIZE, color=ORANGE, linewidth=1, label="the picture")
    axis.set_yticks(places, names, fontsize=8)
    axis.set_xlabel("side of the coarsest level's receptive field, pixels", fontsize=8)
    axis.tick_params(axis="x", labelsize=8)
    axis.legend(fontsize=8, loc="lower right", frameon=False)
    return figure


def draw_sweep() -> Any:
    """AP of every seed over the weight of the IoU."""
    found = json.loads((RESULTS / "history.json").read_text())["runs"]
    figure = make_figure(5.0, 3.2)
    axis = figure.subplots()
    for split, colour in (("val", GREY), ("test", BLUE)):
        points = [
            (weight, run["ap"][split])
            for weight in IOU_WEIGHTS
            for run in found
            if run["row"] == (f"loss-iou-{weight:g}" if f"loss-iou-{weight:g}" in SWAPS else "ppyolo-tiny")
        ]
        axis.plot(*zip(*points, strict=True), "o", color=colour, markersize=4, label=split)
    axis.set_xscale("symlog", linthresh=0.5)
    axis.set_xticks(IOU_WEIGHTS, [f"{weight:g}" for weight in IOU_WEIGHTS])
    axis.set_xlabel("weight of the IoU in the loss of ppyolo-tiny", fontsize=8)
    axis.set_ylabel("AP", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.legend(fontsize=8, frameon=False)
    return figure


def write_png(figure: Any, path: Path) -> None:
    """With few colours, so that it is small."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    Image.open(buffer).convert("RGB").quantize(COLOURS).save(path, optimize=True)


if __name__ == "__main__":
    main()
