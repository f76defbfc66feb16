"""Batched assignment against the plain form, one picture after the other, on CPU or GPU.

    python benchmarks/assign.py [--pictures 8 16] [--objects 8 40 100] [--sizes 320 640] [--repeats 7]

The plain form is what the papers say in the fewest PyTorch calls: within a picture every object with every candidate at
once, dense. Both forms run in turns in one process on the same maps and objects, must give the same loss, and
have the same loss and gradients behind them, whose time is most of the rest. Prints a Markdown table of the assignment
alone and of assignment, loss and gradients, and writes benchmarks/results/assign.json.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar
from unittest import mock

import torch
from record import RESULTS, save_result
from torch import Tensor
from torch.nn import functional as F

from edgeyolo import models
from edgeyolo.assigners.assignment import Assignment, Objects, PointGrid, paired_iou
from edgeyolo.assigners.ota import Cells, Matches, OtaRules, anchor_boxes, assign_ota, list_candidates, read_cells
from edgeyolo.assigners.tal import ScoreAt, TaskAlignedAssigner
from edgeyolo.criteria.criterion import Criterion
from edgeyolo.criteria.tal import TalCriterion
from edgeyolo.spec.model import AnchorDecode

Result = TypeVar("Result")

CLASSES = 80
MODELS = {"ota": "yolov7-tiny", "tal": "ppyoloe-s"}


@dataclass(frozen=True)
class Row:
    """One case; milliseconds, medians over the repeats: assignment alone, and with loss and gradients."""

    assigner: str
    image_size: int
    pictures: int
    objects: int
    batched_assign_ms: float
    plain_assign_ms: float
    batched_ms: float
    plain_ms: float

    @property
    def assign_ratio(self) -> float:
        """How many times faster the batched form assigns."""
        return self.plain_assign_ms / self.batched_assign_ms

    @property
    def ratio(self) -> float:
        """The same of assignment, loss and gradients."""
        return self.plain_ms / self.batched_ms


def assign_ota_plain(maps: Sequence[Tensor], targets: Tensor, decode: AnchorDecode, rules: OtaRules) -> Matches:
    """`assign_ota`, written out: one picture after the other, and in each one object after the other."""
    cells, rows = [], []
    with torch.no_grad():
        for picture in range(maps[0].shape[0]):
            mine = (targets[:, 0] == picture).nonzero()[:, 0]
            found = _match_picture([m[picture : picture + 1] for m in maps], targets[mine], decode, rules)
            if found is not None:
                here, owner = found
                cells.append(Cells(here.level, here.picture + picture, here.anchor, here.row, here.column))
                rows.append(mine[owner])
    names = ("level", "picture", "anchor", "row", "column")
    empty = torch.zeros(0, dtype=torch.int64, device=targets.device)
    joined = Cells(*(torch.cat([empty, *(getattr(c, name) for c in cells)]) for name in names))
    return Matches(joined, torch.cat([empty, *rows]))


def _match_picture(
    maps: list[Tensor], targets: Tensor, decode: AnchorDecode, rules: OtaRules
) -> tuple[Cells, Tensor] | None:
    targets = torch.cat([torch.zeros_like(targets[:, :1]), targets[:, 1:]], dim=1)
    cells = list_candidates(maps, targets, decode, rules).cells
    if len(cells.picture) == 0:
        return None
    raw = read_cells(maps, cells)
    overlap = paired_iou(targets[:, None, 2:], anchor_boxes(raw, cells, decode)[None])  # (M, P)
    score = (raw[:, 5:].sigmoid() * raw[:, 4:5].sigmoid()).sqrt()
    wanted = F.one_hot(targets[:, 1].long(), raw.shape[1] - 5).float()[:, None].expand(-1, len(raw), -1)
    entropy = F.binary_cross_entropy(score.expand_as(wanted), wanted, reduction="none").sum(dim=2)
    cost = entropy - rules.overlap_weight * torch.log(overlap + 1e-8)
    top = min(rules.top, len(raw))
    count = overlap.topk(top, dim=1).values.sum(dim=1).int().clamp(min=1)
    cheapest = cost.sort(dim=1, stable=True).indices[:, :top]
    taken = torch.zeros_like(cost, dtype=torch.bool)
    taken.scatter_(1, cheapest, torch.arange(top, device=count.device) < count[:, None])
    contested = (taken.sum(dim=0) > 1).nonzero()[:, 0]
    taken[:, contested] = F.one_hot(cost[:, contested].argmin(dim=0), len(cost)).T.bool()
    chosen, owner = taken.T.nonzero().unbind(dim=1)
    return cells.select(chosen), owner


class PlainTaskAlignment:
    """`TaskAlignedAssigner` likewise, with the scores of every class at every point."""

    top_k, alpha, beta, epsilon = 13, 1.0, 6.0, 1e-9

    def __init__(self, class_maps: Sequence[Tensor]) -> None:
        self.class_maps = class_maps

    @torch.no_grad()
    def assign(
        self, score_at: ScoreAt, boxes_xyxy: Tensor, grid: PointGrid, objects: Objects, num_classes: int
    ) -> Assignment:
        """Assign with the arguments of `TaskAlignedAssigner.assign`."""
        scores = torch.cat([level.detach().flatten(2).transpose(1, 2) for level in self.class_maps], dim=1).sigmoid()
        pictures = [
            self._assign_picture(s, b, grid, o.labels[0][o.present[0]], o.boxes_xyxy[0][o.present[0]])
            for s, b, o in zip(scores, boxes_xyxy, _split(objects), strict=True)
        ]
        return Assignment(*(torch.stack(parts) for parts in zip(*pictures, strict=True)), num_classes)

    def _assign_picture(
        self, scores: Tensor, boxes_xyxy: Tensor, grid: PointGrid, labels: Tensor, wanted_xyxy: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        points, classes = scores.shape
        everything = torch.arange(points, device=scores.device)
        if len(labels) == 0:
            background = torch.full_like(everything, classes)
            return background, torch.zeros_like(boxes_xyxy), torch.zeros(points), background < classes
        overlap = paired_iou(wanted_xyxy[:, None], boxes_xyxy[None])  # (M, A)
        corner, other = wanted_xyxy[:, None, :2], wanted_xyxy[:, None, 2:]
        inside = ((grid.points_xy > corner) & (grid.points_xy < other)).all(dim=2)
        alignment = scores[:, labels].T ** self.alpha * overlap**self.beta * inside
        best = alignment.topk(self.top_k, dim=1)
        taken = torch.zeros_like(inside).scatter_(1, best.indices, best.values > 0)
        contested = taken.sum(dim=0) > 1
        winner = torch.where(contested, overlap.argmax(dim=0), taken.int().argmax(dim=0))  # (A,)
        positive = taken.any(dim=0)
        taken = F.one_hot(winner, len(labels)).T.bool() & positive
        alignment = scores[:, labels].T ** self.alpha * overlap**self.beta
        most_aligned = (alignment * taken).amax(dim=1) + self.epsilon
        quality = alignment / most_aligned[:, None] * (overlap * taken).amax(dim=1, keepdim=True) * taken
        asked = quality[winner, everything]
        found_labels = torch.where(positive, labels[winner], classes)
        return found_labels, wanted_xyxy[winner] * positive[:, None], asked, positive


def _split(objects: Objects) -> Iterator[Objects]:
    for i in range(len(objects.labels)):
        yield Objects(objects.labels[i : i + 1], objects.boxes_xyxy[i : i + 1], objects.present[i : i + 1])


@contextlib.contextmanager
def timed_form(criterion: Criterion, maps: list[Tensor], watch: Stopwatch, *, plain: bool) -> Iterator[None]:
    """While it lasts, `criterion` assigns in this form, and `watch` counts the time of that."""
    if isinstance(criterion, TalCriterion):
        assigner = PlainTaskAlignment(maps[0::2]) if plain else TaskAlignedAssigner()
        timed = mock.Mock(assign=watch.around(assigner.assign))
        with mock.patch.object(criterion, "aligned_assigner", timed):
            yield
    else:
        function = assign_ota_plain if plain else assign_ota
        with mock.patch("edgeyolo.criteria.ota.assign_ota", watch.around(function)):
            yield


def make_case(
    assigner: str, image_size: int, pictures: int, objects: int, device: torch.device
) -> tuple[Criterion, list[Tensor], Tensor]:
    """A criterion, maps to be differentiated, and objects of 8 to 200 pixels."""
    with torch.device("meta"):
        model = models.create(MODELS[assigner], CLASSES).eval()
        shapes = [m.shape for m in model(torch.empty(pictures, 3, image_size, image_size))]
    criterion = model.make_criterion(epochs=10).to(device)
    criterion.start_epoch(9)
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(shape, generator=generator).to(device).requires_grad_() for shape in shapes]
    count = pictures * objects
    centre = torch.rand(count, 2, generator=generator) * image_size
    half = torch.exp(torch.rand(count, 2, generator=generator) * 3.2 + 2.1) / 2
    label = torch.randint(CLASSES, (count, 1), generator=generator).float()
    picture = torch.arange(pictures).repeat_interleave(objects)[:, None].float()
    return criterion, maps, torch.cat([picture, label, centre - half, centre + half], dim=1).to(device)


class Stopwatch:
    """Wraps a function and keeps the milliseconds of its calls since `milliseconds` was last set."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.milliseconds = 0.0

    def now_ms(self) -> float:
        """The time, once the device has nothing left to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() * 1e3

    def around(self, function: Callable[..., Result]) -> Callable[..., Result]:
        """The same function, timed."""

        def timed(*args: object) -> Result:
            started = self.now_ms()
            result = function(*args)
            self.milliseconds += self.now_ms() - started
            return result

        return timed


def measure(assigner: str, image_size: int, pictures: int, objects: int, *, repeats: int, device: torch.device) -> Row:
    """Both forms in turns; the first turn of each warms up and is not counted."""
    criterion, maps, targets = make_case(assigner, image_size, pictures, objects, device)
    watch = Stopwatch(device)
    times: dict[str, list[tuple[float, float]]] = {"batched": [], "plain": []}
    for _ in range(repeats + 1):
        losses = []
        for form in times:
            with timed_form(criterion, maps, watch, plain=form == "plain"):
                watch.milliseconds = 0.0
                started = watch.now_ms()
                loss = criterion(maps, targets, (image_size, image_size)).total
                loss.backward()
                times[form].append((watch.milliseconds, watch.now_ms() - started))
            losses.append(loss.item())
        if abs(losses[0] - losses[1]) > 1e-3 * abs(losses[1]):
            raise SystemExit(f"{assigner}: the forms disagree: loss {losses[0]} and {losses[1]}")
    batched, plain = ([statistics.median(column) for column in zip(*form[1:], strict=True)] for form in times.values())
    return Row(assigner, image_size, pictures, objects, batched[0], plain[0], batched[1], plain[1])


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| assigner | pixels | pictures | objects per picture | assign: batched ms | plain ms | ratio "
        "| with loss and gradients: batched ms | plain ms | ratio |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for r in rows:
        lines.append(
            f"| {r.assigner} | {r.image_size} | {r.pictures} | {r.objects} "
            f"| {r.batched_assign_ms:.1f} | {r.plain_assign_ms:.1f} | {r.assign_ratio:.1f} "
            f"| {r.batched_ms:.1f} | {r.plain_ms:.1f} | {r.ratio:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure every case that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--objects", type=int, nargs="+", default=[8, 40, 100])
    parser.add_argument("--sizes", type=int, nargs="+", default=[320, 640])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS / "assign.json")
    args = parser.parse_args()
    device = torch.device(args.device)
    rows = [
        measure(assigner, size, pictures, objects, repeats=args.repeats, device=device)
        for assigner in MODELS
        for size in args.sizes
        for pictures in args.pictures
        for objects in args.objects
    ]
    report = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "threads": torch.get_num_threads(),
        "repeats": args.repeats,
        "rows": [asdict(row) | {"assign_ratio": row.assign_ratio, "ratio": row.ratio} for row in rows],
    }
    save_result(args.out, report)
    sys.stdout.write(table(rows))


if __name__ == "__main__":
    main()
