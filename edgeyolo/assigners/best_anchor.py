"""The anchor of the most similar shape answers for an object, in the cell of its centre, as in YOLOv2, v3 and v4.

What the network predicts has no say in it. Shapes are compared as if they had one centre. Predictions that overlap an
object well without being chosen are told by `best_overlaps`, so that a loss can leave them alone.

Source: YOLOv2, arXiv 1612.08242, section 2; YOLOv3, arXiv 1804.02767, section 2.1, for anchors of several levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeyolo.assigners.assignment import object_chunks, pad_objects, paired_iou
from edgeyolo.assigners.ota import Cells, Matches
from edgeyolo.spec.model import AnchorDecode


@torch.no_grad()
def match_best_anchors(
    targets: Tensor, decode: AnchorDecode, level_hw: Sequence[tuple[int, int]], *, iou_threshold: float = 1.0
) -> Matches:
    """Match the objects of a batch; an object without area is matched to nothing.

    Args:
        targets: (N, 6) [picture, class, x1, y1, x2, y2 in input pixels].
        level_hw: rows and columns of each level, finest first.
        iou_threshold: anchors whose shape overlaps more than this are taken too (YOLOv4).

    Returns:
        Objects in their order, those with several anchors level by level; a prediction may answer for several.
    """
    level = torch.tensor([i for i, level in enumerate(decode.anchors_wh) for _ in level], device=targets.device)
    place = torch.tensor([i for level in decode.anchors_wh for i in range(len(level))], device=targets.device)
    anchors_wh = targets.new_tensor([anchor for level in decode.anchors_wh for anchor in level])
    sizes_wh = targets[:, 4:] - targets[:, 2:4]
    overlap = paired_iou(_around_zero(sizes_wh)[:, None], _around_zero(anchors_wh)[None])  # (N, anchors)
    chosen = overlap > iou_threshold
    chosen[torch.arange(len(targets), device=targets.device), overlap.argmax(dim=1)] = True
    chosen &= (sizes_wh > 0).all(dim=1, keepdim=True)
    owner, which = chosen.nonzero().unbind(dim=1)
    strides = targets.new_tensor(decode.strides)[level[which]]
    limits = torch.tensor(list(level_hw), device=targets.device)[level[which]]
    centres_xy = (targets[owner, 2:4] + targets[owner, 4:]) / 2 / strides[:, None]
    column, row = (centres_xy[:, i].long().clamp(min=0).minimum(limits[:, 1 - i] - 1) for i in range(2))
    return Matches(Cells(level[which], targets[owner, 0].long(), place[which], row, column), owner)


@dataclass(frozen=True)
class UnitedMatches:
    """Predictions that answer for at least one object, each once.

    Attributes:
        cells: of these U predictions.
        last: (U,) row in the targets of the last object of each.
        member, owner: (P,) for every match its place among the predictions, and its row in the targets.
    """

    cells: Cells
    last: Tensor
    member: Tensor
    owner: Tensor


def unite_matches(matches: Matches) -> UnitedMatches:
    """Bring matches of one prediction together."""
    fields = (matches.cells.level, matches.cells.picture, matches.cells.anchor, matches.cells.row, matches.cells.column)
    found, member = torch.unique(torch.stack(fields, dim=1), dim=0, return_inverse=True)
    last = torch.zeros(len(found), dtype=torch.int64, device=member.device)
    last.scatter_reduce_(0, member, torch.arange(len(member), device=member.device), reduce="amax")
    return UnitedMatches(Cells(*found.unbind(dim=1)), matches.target[last], member, matches.target)


@torch.no_grad()
def best_overlaps(boxes_xyxy: Tensor, targets: Tensor) -> Tensor:
    """The largest IoU of each predicted box (B, N, 4) with an object of its picture, (B, N); 0 where there is none."""
    best = boxes_xyxy.new_zeros(boxes_xyxy.shape[:2])
    for part in object_chunks(pad_objects(targets, len(boxes_xyxy)), boxes_xyxy.shape[1]):
        overlap = paired_iou(part.boxes_xyxy[:, :, None], boxes_xyxy[:, None])  # (B, chunk, N); padding has no area
        best = torch.maximum(best, overlap.amax(dim=1))
    return best


def _around_zero(sizes_wh: Tensor) -> Tensor:
    return torch.cat((-sizes_wh / 2, sizes_wh / 2), dim=-1)
