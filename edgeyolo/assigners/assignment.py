"""What every assigner takes and gives: points, padded objects, claims on points, and who wins a point.

An object *claims* a few points (C of them); a point claimed twice goes to the object that overlaps it most. Only claims
are kept, so that memory grows with the objects and not with objects x points; the dense part is done some objects at a
time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_CHUNK_ELEMENTS = 1 << 22  # of one (B, chunk, A) temporary: 16 MiB in float32
_INFINITY_BITS = 0x7F800000
_LOW_WORD = 0xFFFFFFFF


@dataclass(frozen=True)
class PointGrid:
    """The points predictions stand on, all levels after each other, finest first.

    Attributes:
        points_xy: (A, 2) float32, in input pixels; the middles of the cells, of most families.
        strides: (A,) float32, width of each point's cell in input pixels.
        level_hw: rows and columns of each level, finest first; within one, points are in rows from the top left.
    """

    points_xy: Tensor
    strides: Tensor
    level_hw: tuple[tuple[int, int], ...]

    def level_axes(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """For each level its first point, the x of its columns (w,) and the y of its rows (h,), input pixels."""
        start = 0
        for height, width in self.level_hw:
            level = self.points_xy[start : start + height * width].view(height, width, 2)
            yield start, level[0, :, 0], level[:, 0, 1]
            start += height * width


@dataclass(frozen=True)
class Objects:
    """The objects of a batch, padded to the same number M >= 1 for each picture.

    Attributes:
        labels: (B, M) int64 class ids, 0 where padded.
        boxes_xyxy: (B, M, 4) float32 input pixels, 0 where padded.
        present: (B, M) bool, False where padded.
    """

    labels: Tensor
    boxes_xyxy: Tensor
    present: Tensor


@dataclass(frozen=True)
class Assignment:
    """Which object each of A predictions answers for.

    Attributes:
        labels: (B, A) int64 class ids, K for background.
        boxes_xyxy: (B, A, 4) float32 input pixels, 0 for background.
        quality: (B, A) float32 in 0-1, the score asked of the assigned class; 0 for background.
        positive: (B, A) bool.
        num_classes: K.
    """

    labels: Tensor
    boxes_xyxy: Tensor
    quality: Tensor
    positive: Tensor
    num_classes: int

    @property
    def scores(self) -> Tensor:
        """(B, A, K) float32 in 0-1, the quality at the assigned class and 0 elsewhere."""
        dense = self.quality.new_zeros(*self.labels.shape, self.num_classes + 1)
        return dense.scatter_(2, self.labels[..., None], self.quality[..., None])[..., : self.num_classes]


@dataclass(frozen=True)
class Claims:
    """The points each object asks for.

    Attributes:
        points: (B, M, C) int64 in 0 ... A-1, distinct for one object.
        made: (B, M, C) bool, False where the entry is no claim.
        iou: (B, M, C) float32 of the object and the point's box.
    """

    points: Tensor
    made: Tensor
    iou: Tensor


def make_point_grid(
    level_hw: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device, *, offset: float = 0.5
) -> PointGrid:
    """Points of all cells of all levels, in rows from the top left; `offset` strides from a cell's top left corner."""
    points, cells = [], []
    for (height, width), stride in zip(level_hw, strides, strict=True):
        y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
        points.append((torch.stack((x, y), dim=-1).reshape(-1, 2).float() + offset) * stride)
        cells.append(torch.full((height * width,), float(stride), device=device))
    return PointGrid(torch.cat(points), torch.cat(cells), tuple(level_hw))


def pad_objects(targets: Tensor, batch_size: int) -> Objects:
    """Rows (N, 6) of image index, class id, x1, y1, x2, y2, in any order of pictures -> padded objects."""
    rows = targets.float()
    image = rows[:, 0].long()
    order = torch.argsort(image, stable=True)
    rows, image = rows[order], image[order]
    counts = torch.zeros(batch_size, dtype=torch.int64, device=rows.device).index_add_(0, image, torch.ones_like(image))
    place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[image]
    most = max(1, int(counts.max())) if len(rows) else 1
    padded = rows.new_zeros(batch_size, most, 6)
    padded[image, place] = rows
    present = torch.arange(most, device=rows.device) < counts[:, None]
    return Objects(padded[..., 1].long(), padded[..., 2:].contiguous(), present)


def object_chunks(objects: Objects, num_points: int) -> Iterator[Objects]:
    """The same objects some at a time, so that a (B, chunk, A) tensor stays small."""
    batch_size, most = objects.labels.shape
    size = max(1, _CHUNK_ELEMENTS // max(1, batch_size * num_points))
    for start in range(0, most, size):
        part = slice(start, start + size)
        yield Objects(objects.labels[:, part], objects.boxes_xyxy[:, part], objects.present[:, part])


def paired_iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """IoU of two broadcastable (..., 4) tensors of boxes -> (...), 0-1; 0 where a box has no area."""
    ax1, ay1, ax2, ay2 = a_xyxy.unbind(-1)
    bx1, by1, bx2, by2 = b_xyxy.unbind(-1)
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp_(min=0)
    overlap = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp_(min=0).mul_(width)
    area_a = (ax2 - ax1).clamp(min=0) * (ay2 - ay1).clamp(min=0)
    area_b = (bx2 - bx1).clamp(min=0) * (by2 - by1).clamp(min=0)
    return overlap / (area_a + area_b - overlap).clamp_(min=1e-9)


# Boxes (P, M, 4) of objects, boxes (P, 1, 4) of points and the points (P,) -> overlaps (P, M), never negative.
Contest = Callable[[Tensor, Tensor, Tensor], Tensor]


def _overlap_alone(wanted_xyxy: Tensor, found_xyxy: Tensor, _point: Tensor) -> Tensor:
    return paired_iou(wanted_xyxy, found_xyxy)


def is_inside(points_xy: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """Whether points (..., 2) lie strictly inside of boxes (..., 4), broadcast -> (...) bool."""
    x, y = points_xy.unbind(-1)
    x1, y1, x2, y2 = boxes_xyxy.unbind(-1)
    return (x > x1) & (x < x2) & (y > y1) & (y < y2)


def order_key(values: Tensor, index: Tensor, *, largest: bool) -> Tensor:
    """int64 keys that sort best first, equal values by lower index; `index_of_key` gives the index back.

    The bits of a float32 >= 0 sort as the number does, so value and index fit in one integer and no tie is left to
    chance.

    Args:
        values: float32, each >= 0, infinity allowed.
        index: int64 below 2^32, broadcastable to `values`.
    """
    bits = values.contiguous().view(torch.int32).long()
    return ((_INFINITY_BITS - bits if largest else bits) << 32) | index


def index_of_key(key: Tensor) -> Tensor:
    """The index within a key of `order_key`."""
    return key & _LOW_WORD


def best_points(values: Tensor, count: int, *, largest: bool) -> Tensor:
    """Indices of the `count` best along the last dimension, (..., A) >= 0 -> (..., min(count, A)), best first."""
    num_points = values.shape[-1]
    key = order_key(values, torch.arange(num_points, device=values.device), largest=largest)
    return index_of_key(key.topk(min(count, num_points), dim=-1, largest=False, sorted=True).values)


def settle_claims(
    claims: Claims, objects: Objects, boxes_xyxy: Tensor, contest: Contest = _overlap_alone
) -> tuple[Claims, Tensor]:
    """Give each point to the object that claims it; if several do, to the one that overlaps its box most of all.

    That may be an object which has not claimed the point: such claims are added. The first object wins a tie.

    Args:
        boxes_xyxy: (B, A, 4) the box of each point that `claims.iou` is of, input pixels.
        contest: how much each object overlaps a contested point.

    Returns:
        The claims, perhaps with more of each object, and (B, A) int64, index of the owner among M, -1 for background.
    """
    owner = _best_claimant(claims, boxes_xyxy.shape[1])
    times = torch.zeros_like(owner).scatter_add_(1, claims.points.flatten(1), claims.made.flatten(1).long())
    picture, point = (times > 1).nonzero().unbind(dim=1)
    winner, iou = torch.zeros_like(point), boxes_xyxy.new_zeros(len(point))
    for part in torch.split(torch.arange(len(point), device=point.device), _CHUNK_ELEMENTS // objects.labels.shape[1]):
        found_xyxy = boxes_xyxy[picture[part], point[part], None]
        overlap = contest(objects.boxes_xyxy[picture[part]], found_xyxy, point[part])  # (P, M)
        best = best_points(overlap, 1, largest=True)
        winner[part], iou[part] = best[:, 0], overlap.gather(1, best)[:, 0]
    other = winner != owner[picture, point]
    owner[picture, point] = winner
    return _add_claims(claims, picture[other], winner[other], point[other], iou[other]), owner


def _best_claimant(claims: Claims, num_points: int) -> Tensor:
    """(B, A) int64, among M: of those that claim a point the one of highest IoU, -1 for none."""
    batch_size, most, _ = claims.points.shape
    nobody = torch.iinfo(torch.int64).max
    objects = torch.arange(most, device=claims.iou.device)[:, None]
    key = order_key(claims.iou, objects, largest=True).masked_fill_(~claims.made, nobody)
    best = torch.full((batch_size, num_points), nobody, dtype=torch.int64, device=key.device)
    best.scatter_reduce_(1, claims.points.flatten(1), key.flatten(1), reduce="amin")
    return torch.where(best == nobody, -1, index_of_key(best))


def _add_claims(claims: Claims, picture: Tensor, claimant: Tensor, point: Tensor, iou: Tensor) -> Claims:
    """One more claim for each of (P,) pictures, objects in them, points and overlaps."""
    if not len(point):
        return claims
    row = picture * claims.points.shape[1] + claimant
    order = row.argsort(stable=True)
    place = (picture[order], claimant[order], rank_in_row(row[order]))
    shape = (*claims.points.shape[:2], int(place[2].max()) + 1)
    more = Claims(claims.points.new_zeros(shape), claims.made.new_zeros(shape), claims.iou.new_zeros(shape))
    more.points[place], more.made[place], more.iou[place] = point[order], torch.ones_like(order).bool(), iou[order]
    return join_claims((claims, more), dim=2)


def rank_in_row(row: Tensor) -> Tensor:
    """Places 0, 1 ... of (P,) entries among those of their row; rows in ascending order."""
    found = torch.bincount(row)
    return torch.arange(len(row), device=row.device) - (found.cumsum(0) - found)[row]


def won_claims(claims: Claims, owner: Tensor) -> Tensor:
    """Which claims got their point, given the owner (B, A) of each -> (B, M, C) bool."""
    objects = torch.arange(claims.points.shape[1], device=owner.device)[:, None]
    return claims.made & (owner.gather(1, claims.points.flatten(1)).view_as(claims.points) == objects)


def make_assignment(objects: Objects, claims: Claims, owner: Tensor, quality: Tensor, num_classes: int) -> Assignment:
    """The assignment in which each point serves its owner with the quality (B, M, C), 0-1, of the claim that won it."""
    positive = owner >= 0
    index = owner.clamp(min=0)
    labels = torch.where(positive, objects.labels.gather(1, index), num_classes)
    boxes_xyxy = objects.boxes_xyxy.gather(1, index[..., None].expand(-1, -1, 4)) * positive[..., None]
    won = quality * won_claims(claims, owner)
    asked = torch.zeros(owner.shape, dtype=quality.dtype, device=owner.device)
    asked.scatter_reduce_(1, claims.points.flatten(1), won.flatten(1), reduce="amax")
    return Assignment(labels, boxes_xyxy, asked, positive, num_classes)


def join_claims(parts: Sequence[Claims], dim: int = 1) -> Claims:
    """Claims of some objects after those of others (`dim` 1), or more claims of the same objects (`dim` 2)."""
    return Claims(
        torch.cat([part.points for part in parts], dim=dim),
        torch.cat([part.made for part in parts], dim=dim),
        torch.cat([part.iou for part in parts], dim=dim),
    )
