"""Which anchors answer for which object in YOLOv7: optimal-transport assignment, approximated, on shape-fitting cells.

For each object, the cells around its centre whose anchor has about its shape are candidates of its picture: one entry
for every such triple of object, anchor and cell, so that a prediction which fits several objects is there several
times. Any object of the picture may take any entry. Each takes the k entries that predict it at the lowest cost, k the
sum of its best overlaps over the entries; an entry that several objects take goes to the object of the picture it is
cheapest for. An object that fits no anchor takes part likewise.

Entries are ordered by picture, level, neighbour (the centre's own cell, then left, above, right, below), anchor and
object. Of equal costs the first entry, or the first object, is taken.

Source: YOLOX, arXiv 2107.08430, section 2.1 (SimOTA, after OTA, arXiv 2103.14259); YOLOv7, arXiv 2207.02696, whose
published training counts entries as said here.
Differs: an object without area takes part in nothing; a saturated score costs much, not infinitely much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeyolo.assigners.assignment import best_points, paired_iou
from edgeyolo.spec.model import AnchorDecode

_CHUNK_ELEMENTS = 1 << 22
_OVERLAP_FLOOR = 1e-8
_LOG_CERTAIN = -1e-7


@dataclass(frozen=True)
class OtaRules:
    """Numbers of the assignment.

    Attributes:
        shape_ratio: an anchor fits if no side of the object is this many times larger or smaller.
        reach: cells; a neighbour is a candidate if the centre moved this far to its side falls into it.
        top: overlaps summed for k, which is at most this.
        overlap_weight: of -log IoU against the class cost.
    """

    shape_ratio: float = 4.0
    reach: float = 0.5
    top: int = 10
    overlap_weight: float = 3.0


@dataclass(frozen=True)
class Cells:
    """Predictions by position, each attribute (P,) int64: level, picture in the batch, anchor, row and column."""

    level: Tensor
    picture: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor

    def select(self, chosen: Tensor) -> Cells:
        """Those that an index or a mask chooses."""
        fields = (self.level, self.picture, self.anchor, self.row, self.column)
        return Cells(*(field[chosen] for field in fields))


@dataclass(frozen=True)
class Matches:
    """Entries that answer for an object, in their order; `target` (P,) int64 is its row in the targets.

    A prediction is here once for each of its entries that were taken, with equal or other objects.
    """

    cells: Cells
    target: Tensor


@torch.no_grad()
def assign_ota(maps: Sequence[Tensor], targets: Tensor, decode: AnchorDecode, rules: OtaRules) -> Matches:
    """Match predictions to objects.

    Args:
        maps: per level (B, anchors, 5 + K, H/s, W/s) raw; finite.
        targets: (N, 6) [picture, class, x1, y1, x2, y2 in input pixels].

    Returns:
        Each entry at most once; a cell and anchor as often as its entries were taken.
    """
    cells = list_candidates(maps, targets, decode, rules).cells
    objects = _competing_objects(targets, cells)
    if objects.numel() == 0:
        return Matches(cells, objects)
    field = _CostField(read_cells(maps, cells), cells, targets, decode, maps[0].shape[0])
    rows, slots = _claim(field, objects, rules)
    rows, slots = _settle(field, objects, rows, slots, rules)
    taken, order = field.candidate_at(rows, slots).sort()
    return Matches(cells.select(taken), rows[order])


def read_cells(maps: Sequence[Tensor], cells: Cells) -> Tensor:
    """Raw values (P, 5 + K) float32 at some cells of (B, anchors, 5 + K, H/s, W/s) maps."""
    values = maps[0].new_empty((cells.level.shape[0], maps[0].shape[2]), dtype=torch.float32)
    for level, raw in enumerate(maps):
        here = (cells.level == level).nonzero()[:, 0]
        part = cells.select(here)
        values = values.index_copy(0, here, raw[part.picture, part.anchor, :, part.row, part.column].float())
    return values


def anchor_boxes(raw: Tensor, cells: Cells, decode: AnchorDecode) -> Tensor:
    """Boxes (P, 4) xyxy in input pixels of raw values (P, 5 + K) at these cells; as `AnchorDecode` says."""
    from edgeyolo.heads import anchor  # here, so that models of other heads do without that module

    head = anchor.AnchorHead(decode)
    levels = zip(decode.strides, decode.anchors_wh, head.reach, strict=True)
    places = [(stride, *wh, reach) for stride, anchors_wh, reach in levels for wh in anchors_wh]
    counts = torch.tensor([len(anchors_wh) for anchors_wh in decode.anchors_wh], device=raw.device)
    which = (counts.cumsum(0) - counts)[cells.level] + cells.anchor
    cells_xy = torch.stack([cells.column, cells.row], dim=1)
    rest = torch.tensor(places, device=raw.device, dtype=raw.dtype)[which]
    boxes_xyxy: Tensor = head.boxes_xyxy(raw[:, :4], torch.cat([cells_xy, rest], dim=1), torch)
    return boxes_xyxy


def list_candidates(maps: Sequence[Tensor], targets: Tensor, decode: AnchorDecode, rules: OtaRules) -> Matches:
    """Every entry of a batch, in order, with the object that it is there for: all of them are YOLOv5's matches."""
    found = []
    for level, raw in enumerate(maps):
        fitting = _fitting_anchors(targets, decode.anchors_wh[level], rules.shape_ratio)
        found.append(_cells_of_level(level, raw, targets, fitting, decode.strides[level], rules.reach))
    joined = torch.cat(found)
    *cells, owner = joined[joined[:, 1].argsort(stable=True)].unbind(dim=1)
    return Matches(Cells(*cells), owner)


def _competing_objects(targets: Tensor, cells: Cells) -> Tensor:
    """Rows of objects that have an area, in pictures that have an entry."""
    has_area = (targets[:, 4:] > targets[:, 2:4]).all(dim=1)
    return (has_area & torch.isin(targets[:, 0].long(), cells.picture)).nonzero()[:, 0]


def _fitting_anchors(targets: Tensor, anchors_wh: Sequence[Sequence[float]], ratio: float) -> Tensor:
    """(N, anchors) bool: the anchor has about the shape of the object."""
    size_wh = (targets[:, 4:] - targets[:, 2:4])[:, None]
    relative = size_wh / torch.tensor(anchors_wh, device=targets.device, dtype=targets.dtype)
    return (relative < ratio).all(dim=2) & (relative > 1 / ratio).all(dim=2)


def _cells_of_level(level: int, raw: Tensor, targets: Tensor, fitting: Tensor, stride: int, reach: float) -> Tensor:
    """(P, 6) [level, picture, anchor, row, column, object] of one level's entries, by neighbour, anchor and object."""
    height, width = raw.shape[3:]
    anchor, owner = fitting.T.nonzero().unbind(dim=1)
    centre_xy = (targets[owner, 2:4] + targets[owner, 4:]) / (2 * stride)
    limit_xy = torch.tensor([width, height], device=targets.device)
    back_xy = limit_xy - centre_xy
    before = (centre_xy % 1 < reach) & (centre_xy > 1)
    after = (back_xy % 1 < reach) & (back_xy > 1)
    every = torch.ones_like(owner, dtype=torch.bool)
    chosen = torch.stack([every, before[:, 0], before[:, 1], after[:, 0], after[:, 1]])
    moves = torch.tensor([[0, 0], [-1, 0], [0, -1], [1, 0], [0, 1]], device=targets.device) * reach
    which, index = chosen.nonzero().unbind(dim=1)
    cell_xy = (centre_xy[index] + moves[which]).floor().long()
    column, row = cell_xy[:, 0].clamp(0, width - 1), cell_xy[:, 1].clamp(0, height - 1)
    picture = targets[owner[index], 0].long()
    return torch.stack([torch.full_like(row, level), picture, anchor[index], row, column, owner[index]], dim=1)


class _CostField:
    """What each object would pay for each candidate of its picture; slots are candidates, padded per picture to S.

    Class cost is the cross-entropy of sqrt(class x objectness) against the one-hot class, summed over classes: a sum
    of "not this class" per candidate, corrected at the one class, so that no (objects, candidates, K) tensor is needed.
    """

    def __init__(self, raw: Tensor, cells: Cells, targets: Tensor, decode: AnchorDecode, pictures: int) -> None:
        counts = torch.bincount(cells.picture, minlength=pictures)
        self.starts = counts.cumsum(0) - counts
        self.slots = int(counts.max())
        self.picture = targets[:, 0].long()
        self.label = targets[:, 1].long()
        self.boxes_xyxy = targets[:, 2:]
        slot = torch.arange(len(cells.picture), device=raw.device) - self.starts[cells.picture]
        log_yes = (F.logsigmoid(raw[:, 5:]) + F.logsigmoid(raw[:, 4:5])) / 2
        log_yes = log_yes.clamp(max=_LOG_CERTAIN)
        log_no = torch.log(-torch.expm1(log_yes))
        self.candidates_xyxy = raw.new_zeros(pictures, self.slots, 4)
        self.candidates_xyxy[cells.picture, slot] = anchor_boxes(raw, cells, decode)
        self.base = raw.new_full((pictures, self.slots), torch.inf)  # padding is never cheap
        self.base[cells.picture, slot] = -log_no.sum(dim=1)
        self.correction = raw.new_zeros(pictures, raw.shape[1] - 5, self.slots)
        self.correction[cells.picture, :, slot] = log_no - log_yes

    def candidate_at(self, rows: Tensor, slots: Tensor) -> Tensor:
        """Index among the candidates of a slot in the picture of an object."""
        return self.starts[self.picture[rows]] + slots

    def of_objects(self, rows: Tensor, weight: float) -> tuple[Tensor, Tensor]:
        """Overlap and cost, each (R, S), of some objects with every slot of their picture."""
        picture = self.picture[rows]
        overlap = paired_iou(self.boxes_xyxy[rows, None], self.candidates_xyxy[picture])
        entropy = self.base[picture] + self.correction[picture, self.label[rows]]
        return overlap, _cost(entropy, overlap, weight)

    def of_pairs(self, rows: Tensor, slots: Tensor, weight: float) -> Tensor:
        """Cost of each pair, rows and slots of one shape."""
        picture = self.picture[rows]
        overlap = paired_iou(self.boxes_xyxy[rows], self.candidates_xyxy[picture, slots])
        entropy = self.base[picture, slots] + self.correction[picture, self.label[rows], slots]
        return _cost(entropy, overlap, weight)


def _cost(entropy: Tensor, overlap: Tensor, weight: float) -> Tensor:
    """>= 0, also where rounding would have it a little less."""
    return (entropy - weight * torch.log(overlap + _OVERLAP_FLOOR)).clamp_(min=0)


def _claim(field: _CostField, objects: Tensor, rules: OtaRules) -> tuple[Tensor, Tensor]:
    """Each object's k cheapest slots: pairs (object, slot)."""
    top = min(rules.top, field.slots)
    rows, slots = [], []
    for part in torch.split(objects, max(1, _CHUNK_ELEMENTS // field.slots)):
        overlap, cost = field.of_objects(part, rules.overlap_weight)
        quota = overlap.topk(top, dim=1).values.sum(dim=1).int().clamp(min=1)
        cheapest = best_points(cost, top, largest=False)
        claimed = torch.arange(top, device=cost.device) < quota[:, None]
        claimed &= cost.gather(1, cheapest).isfinite()
        rows.append(part[:, None].expand(-1, top)[claimed])
        slots.append(cheapest[claimed])
    return torch.cat(rows), torch.cat(slots)


def _settle(field: _CostField, objects: Tensor, rows: Tensor, slots: Tensor, rules: OtaRules) -> tuple[Tensor, Tensor]:
    """Give each slot that was claimed more than once to the object of its picture that pays least for it."""
    place = field.picture[rows] * field.slots + slots
    times = torch.bincount(place)
    single = times[place] == 1
    contested = (times > 1).nonzero()[:, 0]
    present = torch.bincount(field.picture[objects])
    order = torch.arange(int(present.max()), device=rows.device)
    by_picture = objects[field.picture[objects].argsort(stable=True)]
    first = present.cumsum(0) - present
    winners = [rows[single]]
    for part in torch.split(contested, max(1, _CHUNK_ELEMENTS // len(order))):
        picture = (part // field.slots)[:, None]
        absent = order >= present[picture]
        rivals = by_picture[(first[picture] + order).clamp(max=len(by_picture) - 1)]
        rivals = torch.where(absent, by_picture[first[picture]], rivals)
        cost = field.of_pairs(rivals, (part % field.slots)[:, None].expand_as(rivals), rules.overlap_weight)
        cheapest = best_points(cost.masked_fill(absent, torch.inf), 1, largest=False)
        winners.append(rivals.gather(1, cheapest)[:, 0])
    return torch.cat(winners), torch.cat([slots[single], contested % field.slots])
