"""Distillation of what two heads say, point by point: how sure they are, which class, and where the box is.

Every part is given per picture: a sum over points, divided by the sum of the teacher's squared confidences, at least
1: about the number of predictions that it stands by, without the many that it all but rules out. So it does not matter
how a batch is spread over processes. Classes and boxes are learned where the teacher is most sure, each point
weighted by its confidence.

Source: soft targets, arXiv 1503.02531; weights by the teacher's confidence, arXiv 1805.06361, section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeyolo.heads import Predictions, RawHead, raw_head_of
from edgeyolo.losses.iou import ciou
from edgeyolo.spec.model import TrainedDecode

HeadLoss = Callable[[Sequence[Tensor], Sequence[Tensor]], dict[str, Tensor]]

_MOST_POINTS = 300  # of a picture, for classes and boxes


def make_head_loss(decode: TrainedDecode) -> HeadLoss:
    """The loss for two heads that share one decode and their classes: (student's maps, teacher's) -> parts (B,)."""
    head = raw_head_of(decode)
    return lambda mine, theirs: head_parts(mine, theirs, head)


def head_parts(mine: Sequence[Tensor], theirs: Sequence[Tensor], head: RawHead) -> dict[str, Tensor]:
    """Parts (B,): `score`, `box`, and `class` of a head with an objectness, which is then what `score` is about.

    Args:
        mine, theirs: raw maps (B, C, h, w) of student and teacher.
    """
    student, teacher = _join(head.predictions(mine)), _join(head.predictions(theirs))
    best_class = teacher.classes.sigmoid().amax(-1)  # (B, N)
    if teacher.objectness is None:
        sure = confidence = best_class
        score = bernoulli_divergence(student.classes, teacher.classes).sum((1, 2))
    else:
        sure = teacher.objectness.sigmoid()
        confidence = sure * best_class
        score = bernoulli_divergence(student.objectness, teacher.objectness).sum(1)
    total = _total(sure)
    weights, points = _surest(confidence)
    places = _places(theirs, head, points)
    box = _box_divergence(_take(student.boxes, points), _take(teacher.boxes, points), places, head)
    parts = {"score": score / total, "box": (weights * box).sum(1) / total}
    if teacher.objectness is not None:
        classes = bernoulli_divergence(_take(student.classes, points), _take(teacher.classes, points)).sum(-1)
        parts["class"] = (weights * classes).sum(1) / total
    return parts


def _box_divergence(student: Tensor, teacher: Tensor, places: Tensor, head: RawHead) -> Tensor:
    """Box values (B, P, D) and places (B, P, ...) -> (B, P): of distributions where there are some, or 1 - CIoU."""
    if not head.bins:
        return 1 - ciou(head.boxes_xyxy(student, places, torch), head.boxes_xyxy(teacher, places, torch))
    asked, wanted = (values.view(*values.shape[:2], 4, head.bins).log_softmax(-1) for values in (student, teacher))
    return F.kl_div(asked, wanted, reduction="none", log_target=True).sum(-1).mean(-1)


def bernoulli_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the student's sigmoid from the teacher's, per element, from logits."""
    wanted = teacher.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(teacher, wanted, reduction="none")
    return F.binary_cross_entropy_with_logits(student, wanted, reduction="none") - entropy


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


def _join(levels: Sequence[Predictions]) -> Predictions:
    """All levels as one."""
    has_objectness = levels[0].objectness is not None
    objectness = torch.cat([level.objectness for level in levels], dim=1) if has_objectness else None
    classes, boxes = (torch.cat([getattr(level, name) for level in levels], dim=1) for name in ("classes", "boxes"))
    return Predictions(objectness, classes, boxes)


def _places(maps: Sequence[Tensor], head: RawHead, points: Tensor) -> Tensor:
    """What `head.boxes_xyxy` must know of the predictions at points (B, P)."""
    finest_hw = maps[0].shape[2:]
    image_hw = (finest_hw[0] * head.strides[0], finest_hw[1] * head.strides[0])
    return torch.from_numpy(head.make_places(image_hw)).to(points.device)[points]
