"""The DAMO-YOLO loss: AlignedOTA, quality focal loss of the classes, GIoU and distributions of the boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgeyolo.assigners.assignment import PointGrid, make_point_grid
from edgeyolo.assigners.simota import Matches, SimOtaAssigner, aligned_cost
from edgeyolo.criteria.criterion import Criterion, Loss, mean_over_processes
from edgeyolo.losses.by_name import CLASS_LOSSES
from edgeyolo.losses.dfl import distribution_focal_loss
from edgeyolo.losses.iou import giou
from edgeyolo.nn.dfl import DistanceIntegral, boxes_from_distances, distances_from_boxes, take_points
from edgeyolo.spec.model import DflDecode

_IOU_WEIGHT, _DFL_WEIGHT = 2.0, 0.25
_BELOW_LAST = 0.1  # bins, of the largest distance that is asked for
_ASSIGNER = SimOtaAssigner(far_cost=1e8, least_iou=1e-7, class_cost=aligned_cost)


class AlignedOtaCriterion(Criterion):
    """Loss of a distribution head. The classes' part is a sum over the batch, divided by the number of matches.

    Parts of the boxes are weighted by the best class score of each matched cell and divided by the sum of these scores.
    Number and sum are taken over all processes when training is distributed, and are at least 1.

    Source: DAMO-YOLO, arXiv 2211.15444, section 2.4, and its published code; Generalized Focal Loss, arXiv 2006.04388.
    """

    unit = _IOU_WEIGHT

    def __init__(self, decode: DflDecode, num_classes: int) -> None:
        super().__init__()
        self.decode = decode
        self.num_classes = num_classes
        self.integral = DistanceIntegral(decode.bins)
        self.box_overlap = giou
        self.class_loss = CLASS_LOSSES["quality_focal"]

    def choose_class_loss(self, name: str) -> None:
        """As `Criterion.choose_class_loss`."""
        self.class_loss = CLASS_LOSSES[name]

    def forward(self, maps: list[Tensor], targets: Tensor, image_hw: tuple[int, int]) -> Loss:
        """The loss of one batch; parts `class`, `iou` and `dfl`."""
        with torch.autocast(maps[0].device.type, enabled=False):
            grid, targets = self.make_grid(maps), targets.to(maps[0].device, torch.float32)
            return self._loss(maps[0::2], maps[1::2], grid, targets, self.match(maps, grid, targets))

    def make_grid(self, maps: Sequence[Tensor]) -> PointGrid:
        """The points these maps predict at."""
        level_hw = [(level.shape[2], level.shape[3]) for level in maps[0::2]]
        return make_point_grid(level_hw, self.decode.strides, maps[0].device, offset=self.decode.offset)

    def match(self, maps: Sequence[Tensor], grid: PointGrid, targets: Tensor) -> Matches:
        """Which predictions answer for which row of the targets (N, 6)."""
        class_maps, box_maps = maps[0::2], maps[1::2]

        def predict(picture: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
            scores = take_points(class_maps, picture, point).sigmoid()
            distances = self.integral(self._values(box_maps, picture, point)) * grid.strides[point, None]
            return scores, boxes_from_distances(grid.points_xy[point], distances)

        return _ASSIGNER.match_batch(len(class_maps[0]), grid, targets, predict)

    def _values(self, box_maps: Sequence[Tensor], picture: Tensor, point: Tensor) -> Tensor:
        """(P, 4, bins)."""
        return take_points(box_maps, picture, point).view(-1, 4, self.decode.bins)

    def _loss(
        self,
        class_maps: Sequence[Tensor],
        box_maps: Sequence[Tensor],
        grid: PointGrid,
        targets: Tensor,
        matches: Matches,
    ) -> Loss:
        """Boxes and distances are compared in strides of their level. P is the number of matches."""
        at = (matches.picture, matches.point)
        stride = grid.strides[matches.point, None]
        points_xy, asked_xyxy = grid.points_xy[matches.point] / stride, targets[matches.target, 2:] / stride
        values, logits = self._values(box_maps, *at), take_points(class_maps, *at)
        asked_logits = logits.gather(1, targets[matches.target, 1:2].long())[:, 0]
        sure = logits.detach().sigmoid().amax(dim=1)  # (P,)
        count = mean_over_processes(values.new_tensor(float(len(values))), least=1.0)
        total_sure = mean_over_processes(sure.sum(), least=1.0)
        iou_loss = 1 - self.box_overlap(boxes_from_distances(points_xy, self.integral(values)), asked_xyxy)
        distances = distances_from_boxes(points_xy, asked_xyxy)
        dfl_loss = distribution_focal_loss(values, distances, below_last=_BELOW_LAST)
        parts = {
            "class": self.class_loss([level.float() for level in class_maps], asked_logits, matches.iou) / count,
            "iou": _IOU_WEIGHT * (iou_loss * sure).sum() / total_sure,
            "dfl": _DFL_WEIGHT * (dfl_loss * sure).sum() / total_sure,
        }
        total = torch.stack(list(parts.values())).sum()
        return Loss(total, {name: part.detach() for name, part in parts.items()})
