"""The YOLOX loss: SimOTA, squared IoU for boxes, objectness, classes that say how good the box is, L1 at the end."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeyolo.assigners.assignment import make_point_grid
from edgeyolo.assigners.simota import Matches, SimOtaAssigner
from edgeyolo.criteria.criterion import Criterion, Loss, mean_over_processes
from edgeyolo.heads import raw_head_of
from edgeyolo.losses.by_name import CLASS_LOSSES, BoxOverlap
from edgeyolo.losses.iou import iou
from edgeyolo.nn.dfl import take_points
from edgeyolo.spec.model import PointDecode

_BOX_WEIGHT = 5.0
_ASSIGNER = SimOtaAssigner()
_SQUARED_IOU: BoxOverlap = functools.partial(iou, alpha=2.0)


class SimOtaCriterion(Criterion):
    """Loss of a point head with objectness; each part is a sum over the batch, divided by the number of matches.

    That number is taken over all processes when training is distributed, and is at least 1.

    Args:
        decode: of the maps; boxes by centre and size, with objectness.
        l1_from_epoch: the first epoch, counted from 0, in which the raw box values have an L1 loss beside.

    Source: YOLOX, arXiv 2107.08430, section 2.1, and its published code: 5 x (1 - IoU^2) + objectness + classes, asked
    for one-hot x IoU, + L1 of the values in strides.
    """

    unit = _BOX_WEIGHT

    def __init__(
        self, decode: PointDecode, num_classes: int, *, l1_from_epoch: int, assigner: SimOtaAssigner = _ASSIGNER
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.assigner = assigner
        self.l1_from_epoch = l1_from_epoch
        self.epoch = 0
        self.head = raw_head_of(decode)
        self.box_overlap = _SQUARED_IOU
        self.class_loss = CLASS_LOSSES["bce"]

    def expect(self, objects_per_picture: float) -> None:
        """Let an object have more matches where objects are rare, so that a picture has up to ten from the start.

        An object's number of matches is the sum of its ten best overlaps, which is next to nothing in the first epochs:
        with one object per picture hardly a prediction would be trained then.
        """
        most = self.assigner.iou_candidates
        least = min(most, max(1, round(most / max(1.0, objects_per_picture))))
        self.assigner = replace(self.assigner, least_k=least)

    def start_epoch(self, epoch: int) -> None:
        """Decides about the L1 loss by `epoch`, counted from 0."""
        self.epoch = epoch

    def choose_class_loss(self, name: str) -> None:
        """As `Criterion.choose_class_loss`; of the classes of the predictions that are matched."""
        self.class_loss = CLASS_LOSSES[name]

    def forward(self, maps: list[Tensor], targets: Tensor, image_hw: tuple[int, int]) -> Loss:
        """The loss of one batch; parts `box`, `objectness`, `class` and `l1`."""
        with torch.autocast(maps[0].device.type, enabled=False):
            classes, objectness, boxes = (list(maps[kind::3]) for kind in range(3))
            targets = targets.to(maps[0].device, torch.float32)
            places = torch.from_numpy(self.head.make_places(image_hw)).to(targets.device)
            matches = self._match(classes, objectness, boxes, targets, places)
            return self._loss(classes, objectness, boxes, targets, places, matches)

    def _match(
        self,
        classes: Sequence[Tensor],
        objectness: Sequence[Tensor],
        boxes: Sequence[Tensor],
        targets: Tensor,
        places: Tensor,
    ) -> Matches:
        def predict(picture: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
            scores = take_points(classes, picture, point).sigmoid() * take_points(objectness, picture, point).sigmoid()
            return scores.sqrt(), self.head.boxes_xyxy(take_points(boxes, picture, point), places[point], torch)

        level_hw = [(level.shape[2], level.shape[3]) for level in classes]
        grid = make_point_grid(level_hw, self.head.strides, targets.device)
        return self.assigner.match_batch(len(classes[0]), grid, targets, predict)

    def _loss(
        self,
        classes: Sequence[Tensor],
        objectness: Sequence[Tensor],
        boxes: Sequence[Tensor],
        targets: Tensor,
        places: Tensor,
        matches: Matches,
    ) -> Loss:
        at = (matches.picture, matches.point)
        values, place = take_points(boxes, *at), places[matches.point]
        asked_xyxy, labels = targets[matches.target, 2:], targets[matches.target, 1].long()
        overlap = self.box_overlap(self.head.boxes_xyxy(values, place, torch), asked_xyxy)
        is_object = take_points(objectness, *at)
        logits = take_points(classes, *at)  # (P, K)
        class_loss = self.class_loss([logits], logits.gather(1, labels[:, None])[:, 0], matches.iou)
        count = mean_over_processes(values.new_tensor(float(len(values))), least=1.0)
        l1 = (values - _box_values(asked_xyxy, place)).abs().sum()
        parts = {
            "box": _BOX_WEIGHT * (1 - overlap).sum() / count,
            "objectness": (sum(F.softplus(level.float()).sum() for level in objectness) - is_object.sum()) / count,
            "class": class_loss / count,
            "l1": (l1 if self.epoch >= self.l1_from_epoch else 0 * l1) / count,
        }
        total = torch.stack(list(parts.values())).sum()
        return Loss(total, {name: part.detach() for name, part in parts.items()})


def _box_values(boxes_xyxy: Tensor, places: Tensor) -> Tensor:
    """What a head must say for boxes (P, 4) at places (P, 3): offsets from the cell's corner, logarithms of sizes."""
    cells_xy, strides = places[:, :2], places[:, 2:]
    centres_xy = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2 / strides
    sizes_wh = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]) / strides
    return torch.cat((centres_xy - cells_xy, (sizes_wh + 1e-8).log()), dim=1)
