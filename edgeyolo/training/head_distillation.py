"""Distillation of what two heads say, point by point: how sure they are, which class, and where the box is.

Every part is a mean over pictures of a sum over points, divided by the sum of the teacher's squared confidences, at
least 1: about the number of predictions that it stands by, without the many that it all but rules out. So it does not
matter how a batch is spread over processes. Classes and boxes are learned where the teacher is most sure, each point
weighted by its confidence.

Source: soft targets, arXiv 1503.02531; weights by the teacher's confidence, arXiv 1805.06361, section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeyolo.losses.iou import ciou
from edgeyolo.spec.model import AnchorDecode, DflDecode, RawDecode

HeadLoss = Callable[[Sequence[Tensor], Sequence[Tensor]], dict[str, Tensor]]

_MOST_POINTS = 300  # of a picture, for classes and boxes


def make_head_loss(decode: RawDecode) -> HeadLoss:
    """The loss for two heads that share one decode and their classes: (student's maps, teacher's maps) -> parts."""
    if isinstance(decode, AnchorDecode):
        return lambda mine, theirs: anchor_parts(mine, theirs, decode)
    return lambda mine, theirs: dfl_parts(mine, theirs, decode)


def anchor_parts(mine: Sequence[Tensor], theirs: Sequence[Tensor], decode: AnchorDecode) -> dict[str, Tensor]:
    """Parts `score` (objectness), `class` and `box` of maps (B, anchors x (5 + K), h, w), one per level."""
    anchors = len(decode.anchors_wh[0])
    student, teacher = _split_anchors(mine, anchors), _split_anchors(theirs, anchors)
    sure = teacher[..., 4].sigmoid()  # (B, N)
    total = _total(sure)
    score = bernoulli_divergence(student[..., 4], teacher[..., 4]).sum(1) / total
    weights, points = _surest(sure * teacher[..., 5:].sigmoid().amax(-1))
    place = _places(theirs, decode)[points]  # (B, P, 5)
    student, teacher = _take(student, points), _take(teacher, points)
    classes = bernoulli_divergence(student[..., 5:], teacher[..., 5:]).sum(-1)
    box = 1 - ciou(_anchor_boxes(student, place), _anchor_boxes(teacher, place))
    return _means({"score": score, "class": (weights * classes).sum(1) / total, "box": (weights * box).sum(1) / total})


def dfl_parts(mine: Sequence[Tensor], theirs: Sequence[Tensor], decode: DflDecode) -> dict[str, Tensor]:
    """Parts `score` (of every class) and `box` of maps: per level classes (B, K, h, w), boxes (B, 4 x bins, h, w)."""
    student, teacher = _flatten(mine[0::2]), _flatten(theirs[0::2])  # (B, N, K)
    sure = teacher.sigmoid().amax(-1)
    total = _total(sure)
    score = bernoulli_divergence(student, teacher).sum((1, 2)) / total
    weights, points = _surest(sure)
    asked, wanted = (_side_logits(maps, points, decode.bins).log_softmax(-1) for maps in (mine, theirs))
    box = F.kl_div(asked, wanted, reduction="none", log_target=True).sum(-1).mean(-1)
    return _means({"score": score, "box": (weights * box).sum(1) / total})


def _side_logits(maps: Sequence[Tensor], points: Tensor, bins: int) -> Tensor:
    """Maps as `dfl_parts` takes them, at points (B, P) -> (B, P, 4, bins)."""
    logits = _take(_flatten(maps[1::2]), points)
    return logits.view(*logits.shape[:2], 4, bins)


def bernoulli_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the student's sigmoid from the teacher's, per element, from logits."""
    wanted = teacher.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(teacher, wanted, reduction="none")
    return F.binary_cross_entropy_with_logits(student, wanted, reduction="none") - entropy


def _means(parts: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: part.mean() for name, part in parts.items()}


def _total(sure: Tensor) -> Tensor:
    """(B, N) -> (B,): how many predictions the teacher stands by, about."""
    return sure.square().sum(1).clamp(min=1)


def _surest(sure: Tensor) -> tuple[Tensor, Tensor]:
    """(B, N) -> the largest values and their points, each (B, P)."""
    values, points = sure.topk(min(_MOST_POINTS, sure.shape[1]), dim=1)
    return values, points


def _take(values: Tensor, points: Tensor) -> Tensor:
    """(B, N, C) at (B, P) -> (B, P, C)."""
    return values.gather(1, points[..., None].expand(-1, -1, values.shape[2]))


def _flatten(maps: Sequence[Tensor]) -> Tensor:
    """(B, C, h, w) per level -> (B, N, C), level after level, row after row."""
    return torch.cat([map_.flatten(2).transpose(1, 2) for map_ in maps], dim=1)


def _split_anchors(maps: Sequence[Tensor], anchors: int) -> Tensor:
    """(B, anchors x (5 + K), h, w) per level -> (B, N, 5 + K): level, then anchor, then row by row."""
    split = [map_.reshape(len(map_), anchors, map_.shape[1] // anchors, -1).transpose(2, 3) for map_ in maps]
    return torch.cat([map_.flatten(1, 2) for map_ in split], dim=1)


def _places(maps: Sequence[Tensor], decode: AnchorDecode) -> Tensor:
    """(N, 5) of each prediction, in the order of `_split_anchors`: column, row, stride, anchor width and height."""
    levels = []
    for map_, stride, anchors_wh in zip(maps, decode.strides, decode.anchors_wh, strict=True):
        height, width = map_.shape[2:]
        row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        cells = torch.stack([column, row, torch.full_like(row, stride)], -1).view(1, -1, 3).float()
        sizes = torch.tensor(anchors_wh, dtype=torch.float32)[:, None].expand(-1, height * width, -1)
        levels.append(torch.cat([cells.expand(len(anchors_wh), -1, -1), sizes], -1).flatten(0, 1))
    return torch.cat(levels).to(maps[0].device)


def _anchor_boxes(raw: Tensor, place: Tensor) -> Tensor:
    """(..., 5 + K) and (..., 5) -> boxes_xyxy (..., 4) in input pixels, as `AnchorDecode` says."""
    centre = (2 * raw[..., :2].sigmoid() - 0.5 + place[..., :2]) * place[..., 2:3]
    half = 0.5 * (2 * raw[..., 2:4].sigmoid()) ** 2 * place[..., 3:]
    return torch.cat([centre - half, centre + half], -1)
