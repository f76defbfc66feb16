"""Batched assignment against the plain form, picture by picture and object by object: loss and gradients, CPU or GPU.

    python benchmarks/assign.py [--pictures 8 16] [--objects 8 40 100] [--sizes 320 640] [--repeats 7]

Both forms run in turns in one process on the same maps and objects, with the same loss behind them, and must give the
same loss. Prints a Markdown table and writes benchmarks/results/assign.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeyolo import models
from edgeyolo.assigners.assignment import Assignment, Objects, PointGrid
from edgeyolo.assigners.ota import Cells, Matches, OtaRules, _list_candidates, anchor_boxes, read_cells
from edgeyolo.losses.criterion import Criterion
from edgeyolo.losses.iou import pairwise_iou
from edgeyolo.spec.model import AnchorDecode

CLASSES = 80
RESULTS = Path(__file__).parent / "results" / "assign.json"
MODELS = {"ota": "yolov7-tiny", "tal": "ppyoloe-s"}


@dataclass(frozen=True)
class Row:
    """One case; milliseconds of loss and gradients, medians over the repeats."""

    assigner: str
    image_size: int
    pictures: int
    objects: int
    batched_ms: float
    plain_ms: float

    @property
    def ratio(self) -> float:
        """How many times faster the batched form is."""
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
    cells, fits = _list_candidates(maps, targets, decode, rules)
    if not fits.any():
        return None
    raw = read_cells(maps, cells)
    overlap = pairwise_iou(targets[:, 2:], anchor_boxes(raw, cells, decode))  # (M, P)
    score = (raw[:, 5:].sigmoid() * raw[:, 4:5].sigmoid()).sqrt()
    wanted = F.one_hot(targets[:, 1].long(), raw.shape[1] - 5).float()[:, None].expand(-1, len(raw), -1)
    entropy = F.binary_cross_entropy(score.expand_as(wanted), wanted, reduction="none").sum(dim=2)
    cost = entropy - rules.overlap_weight * torch.log(overlap + 1e-8)
    cost[~fits] = torch.inf
    taken = torch.zeros_like(cost, dtype=torch.bool)
    for m in fits.nonzero()[:, 0].tolist():
        count = max(1, int(overlap[m].topk(min(rules.top, len(raw))).values.sum()))
        taken[m, cost[m].topk(count, largest=False).indices] = True
    for p in (taken.sum(dim=0) > 1).nonzero()[:, 0].tolist():
        taken[:, p] = False
        taken[cost[:, p].argmin(), p] = True
    owner, chosen = taken.nonzero().unbind(dim=1)
    return cells.select(chosen), owner


class PlainTaskAlignment:
    """`TaskAlignedAssigner`, written out likewise."""

    top_k, alpha, beta = 13, 1.0, 6.0

    @torch.no_grad()
    def assign(self, scores: Tensor, boxes_xyxy: Tensor, grid: PointGrid, objects: Objects) -> Assignment:
        """As `TaskAlignedAssigner.assign`."""
        pictures = [
            self._assign_picture(s, b, grid, o.labels[0][o.present[0]], o.boxes_xyxy[0][o.present[0]])
            for s, b, o in zip(scores, boxes_xyxy, _split(objects), strict=True)
        ]
        return Assignment(*(torch.stack(parts) for parts in zip(*pictures, strict=True)))

    def _assign_picture(
        self, scores: Tensor, boxes_xyxy: Tensor, grid: PointGrid, labels: Tensor, wanted_xyxy: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        points, classes = scores.shape
        overlap = scores.new_zeros(len(labels), points)
        alignment, taken = torch.zeros_like(overlap), torch.zeros_like(overlap, dtype=torch.bool)
        for m, (label, box) in enumerate(zip(labels.tolist(), wanted_xyxy, strict=True)):
            inside = ((grid.points_xy > box[:2]) & (grid.points_xy < box[2:])).all(dim=1)
            overlap[m] = pairwise_iou(box[None], boxes_xyxy)[0]
            alignment[m] = scores[:, label] ** self.alpha * overlap[m] ** self.beta * inside
            best = alignment[m].topk(self.top_k)
            taken[m, best.indices[best.values > 0]] = True
        for p in (taken.sum(dim=0) > 1).nonzero()[:, 0].tolist():
            winner = overlap[:, p].masked_fill(~taken[:, p], -1).argmax()
            taken[:, p] = False
            taken[winner, p] = True
        found_labels, found_boxes = torch.full_like(scores[:, 0], classes).long(), torch.zeros_like(boxes_xyxy)
        quality = torch.zeros_like(scores)
        for m, label in enumerate(labels.tolist()):
            mine = taken[m].nonzero()[:, 0]
            if len(mine):
                best = alignment[m, mine].max().clamp(min=torch.finfo(alignment.dtype).tiny)
                quality[mine, label] = alignment[m, mine] / best * overlap[m, mine].max()
                found_labels[mine], found_boxes[mine] = label, wanted_xyxy[m]
        return found_labels, found_boxes, quality, taken.any(dim=0)


def _split(objects: Objects) -> Iterator[Objects]:
    for i in range(len(objects.labels)):
        yield Objects(objects.labels[i : i + 1], objects.boxes_xyxy[i : i + 1], objects.present[i : i + 1])


@contextlib.contextmanager
def plain_form(criterion: Criterion) -> Iterator[None]:
    """While it lasts, `criterion` assigns in the plain form."""
    if hasattr(criterion, "aligned_assigner"):
        with mock.patch.object(criterion, "aligned_assigner", PlainTaskAlignment()):
            yield
    else:
        with mock.patch("edgeyolo.models._yolov7_criterion.assign_ota", assign_ota_plain):
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


def time_ms(run: Callable[[], Tensor], device: torch.device) -> tuple[float, float]:
    """Milliseconds of one loss with gradients, and the loss."""
    started = time.perf_counter()
    loss = run()
    loss.backward()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - started) * 1e3, loss.item()


def measure(assigner: str, image_size: int, pictures: int, objects: int, *, repeats: int, device: torch.device) -> Row:
    """Both forms in turns; the first turn of each warms up and is not counted."""
    criterion, maps, targets = make_case(assigner, image_size, pictures, objects, device)

    def run() -> Tensor:
        total: Tensor = criterion(maps, targets, (image_size, image_size)).total
        return total

    batched, plain = [], []
    for _ in range(repeats + 1):
        duration, loss = time_ms(run, device)
        batched.append(duration)
        with plain_form(criterion):
            duration, plain_loss = time_ms(run, device)
        plain.append(duration)
        if abs(loss - plain_loss) > 1e-3 * abs(plain_loss):
            raise SystemExit(f"{assigner}: the forms disagree: loss {loss} and {plain_loss}")
    return Row(assigner, image_size, pictures, objects, statistics.median(batched[1:]), statistics.median(plain[1:]))


def table(rows: list[Row]) -> str:
    """As Markdown."""
    lines = [
        "| assigner | pixels | pictures | objects per picture | batched ms | plain ms | ratio |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for r in rows:
        lines.append(
            f"| {r.assigner} | {r.image_size} | {r.pictures} | {r.objects} "
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
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    device = torch.device(args.device)
    rows = [
        measure(assigner, size, pictures, objects, repeats=args.repeats, device=device)
        for assigner in MODELS
        for size in args.sizes
        for pictures in args.pictures
        for objects in args.objects
    ]
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {os.cpu_count()} cores"
    report = {
        "machine": machine,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "repeats": args.repeats,
        "rows": [asdict(row) | {"ratio": row.ratio} for row in rows],
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=2) + "\n")
    sys.stdout.write(table(rows))


if __name__ == "__main__":
    main()
