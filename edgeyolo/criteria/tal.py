"""Losses of heads with one point per cell: task-aligned assignment, class scores that say how good the box is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgeyolo.assigners.assignment import Assignment, PointGrid, make_point_grid, pad_objects
from edgeyolo.assigners.atss import AtssAssigner
from edgeyolo.assigners.tal import TaskAlignedAssigner
from edgeyolo.criteria.criterion import Criterion, Loss, mean_over_processes
from edgeyolo.losses.by_name import CLASS_LOSSES, BoxOverlap, ClassLoss
from edgeyolo.losses.dfl import distribution_focal_loss
from edgeyolo.losses.iou import giou
from edgeyolo.losses.varifocal import varifocal_loss
from edgeyolo.nn.dfl import DistanceIntegral, Distances, boxes_from_distances, distances_from_boxes, take_points
from edgeyolo.spec.model import DflDecode, PointDecode

_ASSIGNER = TaskAlignedAssigner()


@dataclass(frozen=True)
class TalWeights:
    """Weights of the three losses.

    Attributes:
        least_score: the least that they are divided by; 0 for the sum of scores however small, and 1 where it is 0.
    """

    class_: float = 1.0
    iou: float = 2.5
    dfl: float = 0.5
    least_score: float = 1.0


class TalCriterion(Criterion):
    """Class loss, overlap and distribution focal losses of the boxes, all divided by the sum of the scores asked for.

    That sum is taken over all processes when training is distributed, and is at least what the weights say.

    Args:
        decode: of the maps; class logits and box values, which are distributions or the distances themselves.
        num_classes: K.
        static_assigner_epochs: epochs of ATSS before task alignment.
        assigner: the task alignment.
        box_overlap: of two (P, 4) boxes in strides.
        class_loss: maps, the logits that a score is asked of, and these scores -> a sum.

    Source: PP-YOLOE, arXiv 2203.16250, section 2.2, whose losses are the defaults.
    """

    def __init__(
        self,
        decode: DflDecode | PointDecode,
        num_classes: int,
        weights: TalWeights,
        *,
        static_assigner_epochs: int = 0,
        assigner: TaskAlignedAssigner = _ASSIGNER,
        box_overlap: BoxOverlap = giou,
        class_loss: ClassLoss = varifocal_loss,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.decode = decode
        self.weights = weights
        self.static_assigner_epochs = static_assigner_epochs
        self.epoch = 0
        self.static_assigner = AtssAssigner()
        self.aligned_assigner = assigner
        self.box_overlap = box_overlap
        self.class_loss = class_loss
        self.integral = DistanceIntegral(decode.bins) if isinstance(decode, DflDecode) else Distances()

    def start_epoch(self, epoch: int) -> None:
        """Chooses the assigner by `epoch`, counted from 0."""
        self.epoch = epoch

    def choose_class_loss(self, name: str) -> None:
        """As `Criterion.choose_class_loss`."""
        self.class_loss = CLASS_LOSSES[name]

    def make_grid(self, maps: list[Tensor]) -> PointGrid:
        """The points these maps predict at."""
        level_hw = [(level.shape[2], level.shape[3]) for level in maps[0::2]]
        return make_point_grid(level_hw, self.decode.strides, maps[0].device)

    def forward(self, maps: list[Tensor], targets: Tensor, image_hw: tuple[int, int]) -> Loss:
        """The loss of one batch; arguments as `Criterion.forward` has them."""
        with torch.autocast(maps[0].device.type, enabled=False):
            class_maps, box_maps = maps[0::2], maps[1::2]
            if not len(maps[0]):
                return self._loss_of_nothing(maps)
            grid = self.make_grid(maps)
            return self._loss(class_maps, box_maps, grid, self._assign(class_maps, box_maps, grid, targets))

    @torch.no_grad()
    def _assign(self, class_maps: list[Tensor], box_maps: list[Tensor], grid: PointGrid, targets: Tensor) -> Assignment:
        classes = self.num_classes
        objects = pad_objects(targets, len(class_maps[0]))
        distances = self.integral.over_maps(box_maps) * grid.strides[:, None]
        boxes_xyxy = boxes_from_distances(grid.points_xy, distances)
        if self.epoch < self.static_assigner_epochs:
            return self.static_assigner.assign(boxes_xyxy, grid, objects, classes)

        def score_at(picture: Tensor, point: Tensor, label: Tensor) -> Tensor:
            return take_points(class_maps, picture, point, label).sigmoid_()

        return self.aligned_assigner.assign(score_at, boxes_xyxy, grid, objects, classes)

    def _loss(self, class_maps: list[Tensor], box_maps: list[Tensor], grid: PointGrid, assignment: Assignment) -> Loss:
        """Boxes and distances are compared in strides of their level. P is the number of positives."""
        picture, point = assignment.positive.nonzero().unbind(dim=1)
        quality = assignment.quality[picture, point]  # (P,)
        stride = grid.strides[point, None]
        points_xy = grid.points_xy[point] / stride  # (P, 2)
        asked_xyxy = assignment.boxes_xyxy[picture, point] / stride  # (P, 4)
        values = take_points(box_maps, picture, point).view(-1, 4, box_maps[0].shape[1] // 4)
        class_logits = take_points(class_maps, picture, point, assignment.labels[picture, point])
        iou_loss = 1 - self.box_overlap(boxes_from_distances(points_xy, self.integral(values)), asked_xyxy)
        total_score = mean_over_processes(quality.sum(), least=self.weights.least_score)
        total_score = total_score + (total_score == 0)
        class_loss = self.class_loss(class_maps, class_logits, quality)
        parts = {
            "class": self.weights.class_ * class_loss / total_score,
            "iou": self.weights.iou * (iou_loss * quality).sum() / total_score,
        }
        if isinstance(self.decode, DflDecode):
            dfl_loss = distribution_focal_loss(values, distances_from_boxes(points_xy, asked_xyxy))
            parts["dfl"] = self.weights.dfl * (dfl_loss * quality).sum() / total_score
        total = torch.stack(list(parts.values())).sum()
        return Loss(total, {name: part.detach() for name, part in parts.items()})

    def _loss_of_nothing(self, maps: list[Tensor]) -> Loss:
        """Of a process that has no pictures: it takes part in the mean of the others."""
        mean_over_processes(maps[0].new_zeros(()), least=self.weights.least_score)
        total = torch.stack([map_.sum() for map_ in maps]).sum()
        names = ("class", "iou", "dfl") if isinstance(self.decode, DflDecode) else ("class", "iou")
        return Loss(total, dict.fromkeys(names, total.detach()))
