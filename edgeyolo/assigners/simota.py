"""SimOTA: an object takes as many of its cheapest predictions as their overlaps add up to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeyolo.assigners.assignment import PointGrid, is_inside, paired_iou

_NEAR_PER_MATCH = 5  # candidates near an object for each match that it has at least
_LOG_FLOOR = -100.0  # of a logarithm in the class cost, as torch's binary cross-entropy has it

# Scores (C, K), labels (G,) and IoU (G, C) -> cost (G, C).
ClassCost = Callable[[Tensor, Tensor, Tensor], Tensor]
# Picture number and points (C,) -> scores (C, K) in 0-1 and boxes (C, 4), input pixels.
Predict = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Matches:
    """P matched predictions: picture and point of each, its row among the targets, and its IoU with that object."""

    picture: Tensor
    point: Tensor
    target: Tensor
    iou: Tensor


@dataclass(frozen=True)
class Picture:
    """What SimOTA must know of one picture.

    Attributes:
        grid: of its predictions.
        labels: (G,) int64 class ids of the objects.
        boxes_xyxy: (G, 4) of the objects, input pixels.
    """

    grid: PointGrid
    labels: Tensor
    boxes_xyxy: Tensor


def one_hot_cost(scores: Tensor, labels: Tensor, _iou: Tensor) -> Tensor:
    """Cross-entropy of scores (C, K) against the one-hot of labels (G,), summed over classes -> (G, C)."""
    log_no, log_yes = _logarithms(scores)
    return (log_no - log_yes).T[labels] - log_no.sum(dim=1)


def aligned_cost(scores: Tensor, labels: Tensor, iou: Tensor) -> Tensor:
    """Quality focal loss of scores (C, K) against one-hot x IoU, summed over classes -> (G, C).

    Source: AlignedOTA, DAMO-YOLO, arXiv 2211.15444, section 2.4, equation 2.
    """
    log_no, log_yes = _logarithms(scores)
    background = -log_no * scores.square()
    asked = -(iou * log_yes.T[labels] + (1 - iou) * log_no.T[labels]) * (iou - scores.T[labels]).square()
    return background.sum(dim=1) - background.T[labels] + asked


def _logarithms(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Of 1 - scores and of scores."""
    return (1 - scores).log().clamp(min=_LOG_FLOOR), scores.log().clamp(min=_LOG_FLOOR)


@dataclass(frozen=True)
class SimOtaAssigner:
    """Cost = class cost + `iou_weight` x -log IoU; an object takes its k cheapest candidates.

    Candidates of a picture are the points within `centre_radius` cells of any object's centre and, with `in_box`, also
    those inside of any object's box. For an object that a candidate is not near in every one of these senses it costs
    `far_cost` more. k is the sum of the object's `iou_candidates` best IoUs with candidates, rounded down. It is
    at least 1, and at least the smaller of `least_k` (1 in the paper) and a fifth of the candidates near to it in every
    sense. A point taken by several objects goes to the one of all objects of the picture that it is cheapest for.

    Source: YOLOX, arXiv 2107.08430, section 2.1 (SimOTA), after OTA, arXiv 2103.14259, section 3.3 (dynamic k). The
    defaults are those of the paper and of releases up to 0.3; later code has `centre_radius` 1.5, no `in_box` and
    `far_cost` 1e6. AlignedOTA is the same with `aligned_cost`, `far_cost` 1e8 and `least_iou` 1e-7.

    Attributes:
        least_iou: what is added to an IoU before the logarithm.
    """

    centre_radius: float = 2.5
    in_box: bool = True
    far_cost: float = 1e5
    iou_weight: float = 3.0
    iou_candidates: int = 10
    least_k: int = 1
    least_iou: float = 1e-8
    class_cost: ClassCost = one_hot_cost

    def near(self, picture: Picture) -> tuple[Tensor, Tensor]:
        """Which points are candidates (A,) bool, and which are near to each object in every sense (G, A) bool."""
        centres_xy = (picture.boxes_xyxy[:, None, :2] + picture.boxes_xyxy[:, None, 2:]) / 2
        points_xy = picture.grid.points_xy
        offsets = (points_xy - centres_xy).abs().amax(dim=-1)
        in_square = offsets < self.centre_radius * picture.grid.strides
        if not self.in_box:
            return in_square.any(dim=0), in_square
        in_box = is_inside(points_xy, picture.boxes_xyxy[:, None])
        return (in_box | in_square).any(dim=0), in_box & in_square

    @torch.no_grad()
    def match(
        self, picture: Picture, near: Tensor, scores: Tensor, boxes_xyxy: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Match the C candidates of one picture with its G objects, G >= 1.

        Args:
            near: (G, C) bool.
            scores: (C, K) that the class cost is of, 0-1.
            boxes_xyxy: (C, 4) predicted boxes, input pixels.

        Returns:
            Matched candidates (P,) in ascending order, the object of each (P,), and their IoU (P,).
        """
        iou = paired_iou(picture.boxes_xyxy[:, None], boxes_xyxy)  # (G, C)
        cost = self.class_cost(scores, picture.labels, iou) - self.iou_weight * (iou + self.least_iou).log()
        cost = cost + self.far_cost * (~near).double()  # in float32 a large sum would forget the rest
        most = min(self.iou_candidates, iou.shape[1])
        least_k = (near.sum(dim=1) // _NEAR_PER_MATCH).clamp(min=1, max=self.least_k)
        dynamic_k = torch.maximum(iou.topk(most, dim=1).values.sum(dim=1).int(), least_k)  # (G,)
        cheapest = cost.topk(most, dim=1, largest=False).indices
        taken = torch.zeros_like(near)
        taken.scatter_(1, cheapest, torch.arange(most, device=near.device) < dynamic_k[:, None])
        times = taken.sum(dim=0)
        candidate = times.nonzero()[:, 0]
        owner = torch.where(times > 1, cost.argmin(dim=0), taken.int().argmax(dim=0))[candidate]
        return candidate, owner, iou[owner, candidate]

    @torch.no_grad()
    def match_batch(self, batch_size: int, grid: PointGrid, targets: Tensor, predict: Predict) -> Matches:
        """Match every picture of a batch.

        Args:
            targets: (N, 6) float32 index of the picture, class id, x1, y1, x2, y2 in input pixels.
            predict: asked for the candidates alone.
        """
        found: list[Sequence[Tensor]] = []
        for number in range(batch_size):
            rows = (targets[:, 0] == number).nonzero()[:, 0]
            if not len(rows):
                continue
            picture = Picture(grid, targets[rows, 1].long(), targets[rows, 2:])
            is_candidate, near = self.near(picture)
            point = is_candidate.nonzero()[:, 0]
            if not len(point):
                continue
            here = torch.full_like(point, number)
            chosen, owner, quality = self.match(picture, near[:, point], *predict(here, point))
            found.append((here[chosen], point[chosen], rows[owner], quality))
        if not found:
            nothing = torch.zeros(0, dtype=torch.int64, device=targets.device)
            return Matches(nothing, nothing, nothing, targets.new_zeros(0))
        return Matches(*(torch.cat(parts) for parts in zip(*found, strict=True)))
