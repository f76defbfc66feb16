"""The penalised overlaps that box regression is trained on. A loss is 1 minus the value.

They take two (N, 4) xyxy tensors of one unit, x1 <= x2 and y1 <= y2, and give (N,). All are finite, with
finite gradients, for boxes without area. With `alpha`, at least 1, the overlap and each penalty are raised to it.

Source: of `alpha`, Alpha-IoU, arXiv 2110.13675, equation 4, where 3 is advised.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_EPSILON = 1e-7


def iou(first_xyxy: Tensor, second_xyxy: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Intersection over union, 0-1."""
    return _penalised(_overlap(first_xyxy, second_xyxy), alpha)


def giou(first_xyxy: Tensor, second_xyxy: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Generalised IoU, in (-1, 1]: minus the share of the enclosing box that neither box covers.

    Source: arXiv 1902.09630, algorithm 1.
    """
    inter, union = _intersection_and_union(first_xyxy, second_xyxy)
    enclosing_wh = _enclosing_wh(first_xyxy, second_xyxy)
    enclosing = enclosing_wh.prod(dim=-1)
    return _penalised(inter / (union + _EPSILON), alpha, (enclosing - union) / (enclosing + _EPSILON))


def diou(first_xyxy: Tensor, second_xyxy: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Distance IoU, in (-1, 1]: minus a penalty on the distance of the centres.

    Source: arXiv 1911.08287, equation 7.
    """
    return _penalised(_overlap(first_xyxy, second_xyxy), alpha, _centre_penalty(first_xyxy, second_xyxy))


def ciou(first_xyxy: Tensor, second_xyxy: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Complete IoU: minus a penalty on the distance of the centres and a weighted one on the aspect ratios.

    Source: arXiv 1911.08287, equations 7 to 11; the weight is a constant for the gradient, as there.
    """
    overlap = _overlap(first_xyxy, second_xyxy)
    first_w, first_h = _size_wh(first_xyxy).unbind(dim=-1)
    second_w, second_h = _size_wh(second_xyxy).unbind(dim=-1)
    turn = torch.atan(first_w / (first_h + _EPSILON)) - torch.atan(second_w / (second_h + _EPSILON))
    aspect = (4 / math.pi**2) * turn.square()
    weight = (aspect / (1 - overlap + aspect + _EPSILON)).detach()
    return _penalised(overlap, alpha, _centre_penalty(first_xyxy, second_xyxy), weight * aspect)


def eiou(first_xyxy: Tensor, second_xyxy: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Efficient IoU: minus penalties on the distance of the centres and on the difference of widths and of heights.

    Source: arXiv 2101.08158, L_EIOU; each difference is compared with that side of the enclosing box.
    """
    mismatch_wh = (_size_wh(first_xyxy) - _size_wh(second_xyxy)).square()
    sides = mismatch_wh / (_enclosing_wh(first_xyxy, second_xyxy).square() + _EPSILON)  # (N, 2)
    centres = _centre_penalty(first_xyxy, second_xyxy)
    return _penalised(_overlap(first_xyxy, second_xyxy), alpha, centres, *sides.unbind(dim=-1))


def siou(first_xyxy: Tensor, second_xyxy: Tensor, *, alpha: float = 1.0) -> Tensor:
    """SCYLLA IoU: minus half of a cost of distance, which counts less along an axis, and of a cost of shape.

    Source: arXiv 2205.12740, equations 1 to 7, with theta 4 for the shape.
    """
    offset_xy = _centre_xy(second_xyxy) - _centre_xy(first_xyxy) + _EPSILON
    sines = offset_xy.abs() / offset_xy.norm(dim=-1, keepdim=True)
    sine = torch.where(sines[..., 0] > math.sqrt(0.5), sines[..., 1], sines[..., 0])
    angle = torch.cos(2 * torch.arcsin(sine) - math.pi / 2)
    shares = (offset_xy / (_enclosing_wh(first_xyxy, second_xyxy) + _EPSILON)).square()
    distance = (1 - torch.exp((angle - 2)[..., None] * shares)).sum(dim=-1)
    first_wh, second_wh = _size_wh(first_xyxy), _size_wh(second_xyxy)
    mismatch = (first_wh - second_wh).abs() / (torch.maximum(first_wh, second_wh) + _EPSILON)
    shape = (1 - torch.exp(-mismatch)).pow(4).sum(dim=-1)
    return _penalised(_overlap(first_xyxy, second_xyxy), alpha, 0.5 * (distance + shape))


def clamped_ciou(first_xyxy: Tensor, second_xyxy: Tensor) -> Tensor:
    """Complete IoU, 0 where it is negative: an overlap that predictions are chosen by."""
    return ciou(first_xyxy, second_xyxy).clamp(min=0)


def _size_wh(boxes_xyxy: Tensor) -> Tensor:
    return boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]


def _centre_xy(boxes_xyxy: Tensor) -> Tensor:
    return (boxes_xyxy[..., :2] + boxes_xyxy[..., 2:]) / 2


def _enclosing_wh(first_xyxy: Tensor, second_xyxy: Tensor) -> Tensor:
    lowest = torch.minimum(first_xyxy[..., :2], second_xyxy[..., :2])
    return torch.maximum(first_xyxy[..., 2:], second_xyxy[..., 2:]) - lowest


def _overlap(first_xyxy: Tensor, second_xyxy: Tensor) -> Tensor:
    inter, union = _intersection_and_union(first_xyxy, second_xyxy)
    return inter / (union + _EPSILON)


def _intersection_and_union(first_xyxy: Tensor, second_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    x1 = torch.maximum(first_xyxy[..., 0], second_xyxy[..., 0])
    y1 = torch.maximum(first_xyxy[..., 1], second_xyxy[..., 1])
    x2 = torch.minimum(first_xyxy[..., 2], second_xyxy[..., 2])
    y2 = torch.minimum(first_xyxy[..., 3], second_xyxy[..., 3])
    inter = (x2 - x1).clamp(min=0) * (y2 - y1).clamp(min=0)
    return inter, _size_wh(first_xyxy).prod(dim=-1) + _size_wh(second_xyxy).prod(dim=-1) - inter


def _centre_penalty(first_xyxy: Tensor, second_xyxy: Tensor) -> Tensor:
    """The squared distance of the centres over that of the enclosing box's corners."""
    distance = (_centre_xy(first_xyxy) - _centre_xy(second_xyxy)).square().sum(dim=-1)
    return distance / (_enclosing_wh(first_xyxy, second_xyxy).square().sum(dim=-1) + _EPSILON)


def _penalised(overlap: Tensor, alpha: float, *penalties: Tensor) -> Tensor:
    value = _raised(overlap, alpha)
    for penalty in penalties:
        value = value - _raised(penalty, alpha)
    return value


def _raised(part: Tensor, alpha: float) -> Tensor:
    """Rounding may have made it negative, which has no broken power."""
    return part if alpha == 1.0 else part.clamp(min=0).pow(alpha)
