"""How far the outputs of one picture, or some, are from those of the float model: in scores and in boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeyolo.heads import Predictions, raw_head_of
from edgeyolo.losses.iou import giou
from edgeyolo.spec.model import Decode

_SMALLEST_POWER = 1e-12


def score_divergence(float_maps: Sequence[Tensor], maps: Sequence[Tensor], decode: Decode | None) -> float:
    """KL divergence of the class scores, each the probability of a Bernoulli distribution, summed over everything.

    Args:
        float_maps, maps: raw maps (B, C, H/s, W/s) of the same B pictures, in the order `decode` states.
        decode: None takes every value of every map for the logit of a score.

    Source: Kullback and Leibler, On Information and Sufficiency, 1951.
    """
    scores = zip(_log_scores(float_maps, decode), _log_scores(maps, decode), strict=True)
    return sum(_bernoulli_kl(ours, theirs) for ours, theirs in scores)


def box_divergence(
    float_maps: Sequence[Tensor], maps: Sequence[Tensor], decode: Decode, image_hw: tuple[int, int]
) -> float:
    """1 - generalised IoU of each box with its float self, times the square of its best float score, summed.

    Args:
        float_maps, maps, decode: as in `score_divergence`.
        image_hw: of the network input.
    """
    head = raw_head_of(decode)
    places = torch.from_numpy(head.make_places(image_hw))
    scores = torch.cat([pair[0].amax(-1).exp() for pair in _log_scores(float_maps, decode)], dim=1)
    sides = [
        head.boxes_xyxy(torch.cat([level.boxes for level in head.predictions(list(found))], dim=1), places, torch)
        for found in (float_maps, maps)
    ]
    overlaps = giou(*(boxes_xyxy.flatten(0, 1) for boxes_xyxy in sides))
    return float((scores.flatten().square() * (1 - overlaps)).sum())


def output_distance(
    float_maps: Sequence[Tensor], maps: Sequence[Tensor], decode: Decode | None, image_hw: tuple[int, int]
) -> float:
    """What quantization did to the detections of some pictures: `score_divergence` and `box_divergence` together.

    Both grow with what it does to objects, and hardly with what it does where the float model sees nothing. Without
    `decode` it is the sum over maps of the squared error over the square of the values.
    """
    if decode is not None:
        boxes = box_divergence(float_maps, maps, decode, image_hw)
        return score_divergence(float_maps, maps, decode) + boxes
    pairs = zip(float_maps, maps, strict=True)
    return sum(float((a - b).square().sum() / a.square().sum().clamp(min=_SMALLEST_POWER)) for a, b in pairs)


def _log_scores(maps: Sequence[Tensor], decode: Decode | None) -> Iterator[tuple[Tensor, Tensor]]:
    """(ln s, ln(1 - s)) of every score, map by map, float64."""
    exact = [raw.double() for raw in maps]
    levels = raw_head_of(decode).predictions(exact) if decode else [Predictions(None, raw, None) for raw in exact]
    for level in levels:
        if level.objectness is None:
            yield F.logsigmoid(level.classes), F.logsigmoid(-level.classes)
        else:
            log_score = F.logsigmoid(level.objectness)[..., None] + F.logsigmoid(level.classes)
            yield log_score, _log_one_minus(log_score)


def _log_one_minus(log_score: Tensor) -> Tensor:
    """ln(1 - s) from ln s; s = 1 is moved to the nearest smaller number."""
    return torch.log(-torch.expm1(log_score.clamp(max=-torch.finfo(torch.float64).eps)))


def _bernoulli_kl(expected: tuple[Tensor, Tensor], found: tuple[Tensor, Tensor]) -> float:
    terms = (log_p.exp() * (log_p - log_q) for log_p, log_q in zip(expected, found, strict=True))
    return max(float(sum(term.sum() for term in terms)), 0.0)
